#!/usr/bin/env bash
# Makes .venv from constraints.txt: `deploy/venv.sh serve` with the embedded engine and onnxruntime, `dev` with tests and checks too.
#
# PYTHON  the interpreter to build with (3.11-3.13)
# A second run returns at once: a stamp holds the checksum of what the environment was made from. pip's own configuration
# (index, proxy, certificates) applies.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }

# The interpreter in $python. One that lacks only ensurepip is remembered: it is what Debian and Ubuntu install by default.
find_python() {
    local candidate without_venv=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$candidate
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -n "$without_venv" ]; then
        say "$("$without_venv" -V) is here, but not its venv module. On Debian and Ubuntu:"
        say "    sudo apt install python3-venv"
    else
        say "No Python 3.11, 3.12 or 3.13 was found (looked for: ${PYTHON:-python3 python3.13 python3.12 python3.11})."
        say "Install one (on Debian and Ubuntu: sudo apt install python3 python3-venv), or name it: make serve PYTHON=/path/to/python3.12"
    fi
    exit 1
}

case ${1:-serve} in
serve) extras=llamacpp,onnxruntime,text,kserve,images,rag stamps=".venv/.made-for-serve" ;;
dev) extras=llamacpp,onnxruntime,text,kserve,images,rag,postgres,dev stamps=".venv/.made-for-serve .venv/.made-for-dev" ;;
*) say "usage: deploy/venv.sh serve|dev" && exit 2 ;;
esac

recipe=$(cat pyproject.toml constraints.txt | sha256sum)
stamp=.venv/.made-for-${1:-serve}
if [ -x .venv/bin/tritium ] && [ "$(cat "$stamp" 2>/dev/null)" = "$recipe" ]; then exit 0; fi

if ! .venv/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    find_python
    say "Making .venv with $("$python" -V) ..."
    rm -rf .venv
    "$python" -m venv .venv
fi
rm -f .venv/.made-for-*
say "Installing packages into .venv ..."
pip=(.venv/bin/python -m pip --disable-pip-version-check)
# The build tool first, so that the project builds with the pinned one and not with what an isolated build would fetch.
"${pip[@]}" install --quiet --quiet -c constraints.txt setuptools
"${pip[@]}" install --quiet --quiet -c constraints.txt --no-build-isolation --editable ".[$extras]"
for stamp in $stamps; do printf '%s\n' "$recipe" >"$stamp"; done
