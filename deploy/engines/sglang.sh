#!/usr/bin/env bash
# Makes .engines/sglang: the environment of the `sglang` kind. It needs an NVIDIA GPU and CUDA's toolkit.
#
#   deploy/engines/sglang.sh
#
# PYTHON               the interpreter to build with (3.11-3.13)
# TRITIUM_ENGINES_DIR  where environments live (.engines)
# A second run returns at once. Many GB, and written by the manuals: nobody has run it for this project.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if ! has_nvidia_gpu; then
    say "SGLang's package needs an NVIDIA GPU, and nvidia-smi lists none. A server elsewhere is served by its URL (README, Engines)."
    exit 1
fi
recipe="sglang==0.5.23"

if whole sglang "$recipe"; then exit 0; fi
one_at_a_time
if whole sglang "$recipe"; then exit 0; fi
begin sglang
"${pip[@]}" install --quiet "$recipe"
"$environment/bin/python" -c 'import sglang.launch_server'
finish "$recipe"
