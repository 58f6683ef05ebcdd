#!/usr/bin/env bash
# Makes a virtual environment with Haystack in it: tests/bench/haystack.sh VENV. A second run returns at once.
set -euo pipefail
venv=$1
if [[ ! -e $venv/haystack-3.4.1 ]]; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check haystack-ai==3.4.1
    touch "$venv/haystack-3.4.1"
fi
