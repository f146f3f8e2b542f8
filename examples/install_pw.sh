#!/bin/sh
# Finds pw.x, or installs Quantum ESPRESSO with apt, or says what to do.
set -eu
cd "$(dirname "$0")/alas"
program=$(sed -n 's/^ *command: *//p' loop.yaml | tr -d "\"'" | cut -d ' ' -f 1)
found() { command -v "${program:-pw.x}" >/dev/null 2>&1; }

# A build of one's own, named in the YAML, comes with pseudopotentials of one's own.
found && { [ -d /usr/share/espresso/pseudo ] || [ "$program" != pw.x ]; } && exit 0

install() {
    echo "pw.x is missing: installing Quantum ESPRESSO with apt (quantum-espresso, quantum-espresso-data)"
    "$@" apt-get update -q >/dev/null &&
        "$@" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            quantum-espresso quantum-espresso-data >/dev/null
}

if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" -eq 0 ]; then
        install env && exit 0
    elif command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        install sudo && exit 0 # asks for the password where there is a terminal
    fi
fi
found && exit 0 # the YAML says where its pseudopotentials lie
cat >&2 <<'TXT'
pw.x was not found and could not be installed here. Do one of these, then run the command again:
  apt-get install quantum-espresso quantum-espresso-data   (as root)
  module load quantum-espresso                             (on a cluster; the name differs by site)
  conda install -c conda-forge qe                          (in any conda environment)
  codes.pw.command: /path/to/pw.x                          (in examples/alas/loop.yaml, for a build of your own)
TXT
exit 2
