#!/usr/bin/env bash
# Makes .engines/tensorrtllm: the environment of the `tensorrtllm` kind. It needs an NVIDIA GPU.
#
#   deploy/engines/tensorrtllm.sh
#
# Where `trtllm-serve` is on the path (NVIDIA's container nvcr.io/nvidia/tensorrt-llm/release has it), that one is linked.
# Otherwise it is installed, for which the machine needs CUDA's toolkit, Open MPI (Debian: libopenmpi-dev), Python 3.12 or
# 3.10, and the way to pypi.nvidia.com: the package on PyPI is a stub that fetches the real one there.
#
# PYTHON               the interpreter to build with
# TRITIUM_ENGINES_DIR  where environments live (.engines)
# A second run returns at once. Dozens of GB, and written by the manuals: nobody has run the installation for this project.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

version=1.2.1
if ! has_nvidia_gpu; then
    say "TensorRT-LLM needs an NVIDIA GPU, and nvidia-smi lists none. A server elsewhere is served by its URL (README, Engines)."
    exit 1
fi
program=$(command -v trtllm-serve || true)
recipe="tensorrt_llm==$version"
if [ -n "$program" ]; then
    recipe="link $program"
fi

if whole tensorrtllm "$recipe"; then exit 0; fi
one_at_a_time
if whole tensorrtllm "$recipe"; then exit 0; fi
if [ -n "$program" ]; then
    environment=$engines/tensorrtllm
    rm -rf "$environment"
    mkdir -p "$environment/bin"
    # Its first line names the interpreter that has the package.
    ln -s "$(head -1 "$program" | sed 's/^#!//; s/ .*//')" "$environment/bin/python"
    ln -s "$program" "$environment/bin/trtllm-serve"
else
    begin tensorrtllm
    "${pip[@]}" install --quiet --extra-index-url https://pypi.nvidia.com "$recipe"
fi
"$environment/bin/trtllm-serve" --help >/dev/null
finish "$recipe"
