#!/bin/sh
# install_codes.sh PROGRAM...: finds pw.x and abinit, or installs them with apt, or says what to do.
set -eu
cd "$(dirname "$0")/alas"
# A build of one's own, and a folder of pseudopotentials, as the YAML names them.
own=$(sed -n 's/^ *command: *//p' loop.yaml | tr -d "\"'" | cut -d ' ' -f 1)
own=${own:-pw.x}
folder=$(sed -n 's/^ *pseudo_dir: *//p' loop.yaml)

missing=""
for program in "$@"; do
    case $program in
    pw.x)
        command -v "$own" >/dev/null 2>&1 || missing="$missing quantum-espresso"
        [ "$own" != pw.x ] || [ -n "$folder" ] || [ -d "${ESPRESSO_PSEUDO:-/usr/share/espresso/pseudo}" ] ||
            missing="$missing quantum-espresso-data"
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
cat >&2 <<TXT
not found, and could not be installed here:$missing. Do one of these, then run the command again:
  apt-get install$missing   (as root)
  module load quantum-espresso abinit          (on a cluster; the names differ by site)
  conda install -c conda-forge qe abinit       (in any conda environment)
  codes.pw.command: /path/to/pw.x              (in examples/alas/loop.yaml, for a build of your own)
  export ESPRESSO_PSEUDO=/path/to/pseudo       (for quantum-espresso-data, which needs no root to be unpacked)
See docs/installation.md.
TXT
exit 2
