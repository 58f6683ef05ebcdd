#!/usr/bin/env bash
# Tritium beside other gateways, in front of a synthetic engine: CPU a request and a streamed chunk, rates, TTFT, memory.
#   run.sh [--gateways direct,nginx,tritium,rust] [--scenarios ns32,p200] [--repeats 3] ...
# BENCH_DIR is the folder of the benchmark itself (bench.py, gateways.py); its mkvenvs.sh makes the peers' environments.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bench=${BENCH_DIR:-$here/../../../shared/bench}
if [ ! -f "$bench/bench.py" ]; then
    echo "The gateway benchmark is not at $bench: set BENCH_DIR to its folder." >&2
    exit 1
fi
export BENCH_GATEWAYS=$here/gateways.py
# The runner pins the engine and the load to the first core, the gateway to the second.
exec python3 "$bench/bench.py" --gateways direct,nginx,tritium --scenarios ns32,ns32k16,s32,p200 --repeats 3 --name tritium "$@"
