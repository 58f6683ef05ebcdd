#!/usr/bin/env bash
# Makes a virtual environment with Haystack in it, and what runs the models in its own process: tests/bench/haystack.sh VENV.
# A second run returns at once.
set -euo pipefail
venv=$1
packages=(haystack-ai==3.4.1 onnxruntime==1.32.0 tokenizers==0.23.3)
made=$venv/$(IFS=,; echo "${packages[*]}")
if [[ ! -e $made ]]; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
    touch "$made"
fi
