#!/bin/sh
# install_codes.sh PROGRAM...: finds pw.x and abinit, or installs them with apt, or says what to do.
set -eu
cd "$(dirname "$0")/alas"
own=$(sed -n 's/^ *command: *//p' loop.yaml | tr -d "\"'" | cut -d ' ' -f 1) # the user's own pw.x

missing=""
for program in "$@"; do
    case $program in
    pw.x)
        # A build of one's own, named in the YAML, comes with pseudopotentials of one's own.
        command -v "${own:-pw.x}" >/dev/null 2>&1 && { [ -d /usr/share/espresso/pseudo ] || [ "$own" != pw.x ]; } ||
            missing="$missing quantum-espresso quantum-espresso-data"
        ;;
    abinit) command -v abinit >/dev/null 2>&1 || missing="$missing abinit" ;;
    esac
done
[ -z "$missing" ] && exit 0

install() {
    echo "installing with apt:$missing"
    # shellcheck disable=SC2086  # several packages
    "$@" apt-get update -q >/dev/null &&
        "$@" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
}

if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" -eq 0 ]; then
        install env && exit 0
    elif command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        install sudo && exit 0 # asks for the password where there is a terminal
    fi
fi
# The YAML says where the pseudopotentials of a build of one's own lie.
[ "$*" = pw.x ] && command -v "${own:-pw.x}" >/dev/null 2>&1 && exit 0
cat >&2 <<TXT
not found, and could not be installed here:$missing. Do one of these, then run the command again:
  apt-get install$missing   (as root)
  module load quantum-espresso abinit          (on a cluster; the names differ by site)
  conda install -c conda-forge qe abinit       (in any conda environment)
  codes.pw.command: /path/to/pw.x              (in examples/alas/loop.yaml, for a build of your own)
TXT
exit 2
