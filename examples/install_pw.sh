#!/bin/sh
# Finds pw.x, or installs Quantum ESPRESSO with apt, or says what to do.
set -eu
[ -d /usr/share/espresso/pseudo ] && command -v pw.x >/dev/null 2>&1 && exit 0

sudo=""
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo="sudo -n"; else sudo="none"; fi
fi
if [ "$sudo" != none ] && command -v apt-get >/dev/null 2>&1; then
    echo "pw.x is missing: installing Quantum ESPRESSO with apt (quantum-espresso, quantum-espresso-data)"
    $sudo apt-get update -q >/dev/null
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends quantum-espresso quantum-espresso-data >/dev/null
    exit 0
fi
command -v pw.x >/dev/null 2>&1 && exit 0  # a site's own build: its pseudopotentials are named in the YAML
cat >&2 <<'TXT'
pw.x was not found and cannot be installed here without root. Do one of these, then run the command again:
  module load quantum-espresso              (on a cluster; the name differs by site)
  conda install -c conda-forge qe           (in any conda environment)
  codes.pw.command: /path/to/pw.x           (in the YAML, for a build of your own)
TXT
exit 2
