#!/usr/bin/env bash
# Makes .engines/transformers: the environment of the `transformers` kind, and of convert_gguf.py.
#
#   deploy/engines/transformers.sh
#
# PYTHON               the interpreter to build with (3.11-3.13)
# TRITIUM_ENGINES_DIR  where environments live (.engines)
# TRITIUM_TORCH_INDEX  an extra package index that carries torch's CPU build
# A second run returns at once.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if has_nvidia_gpu; then device=gpu; else device=cpu; fi
torch_for 2.13.0 "$device"
packages=("transformers[serving]==5.23.0" "gguf==0.19.0" "accelerate==1.15.0")
recipe="$torch ${packages[*]}"

if whole transformers "$recipe"; then exit 0; fi
one_at_a_time
if whole transformers "$recipe"; then exit 0; fi
begin transformers
install_torch
"${pip[@]}" install --quiet "${torch_options[@]}" -c "$recipes/constraints-transformers.txt" "$torch" "${packages[@]}"
"$environment/bin/python" -c 'import torch, gguf, accelerate, transformers'
finish "$recipe"
