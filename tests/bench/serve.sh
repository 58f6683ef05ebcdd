#!/usr/bin/env bash
# Serve the model `fake-model` of an engine that runs already: serve.sh PORT METRICS_PORT ENGINE_URL FOLDER [FLAG...]
set -eu
port=$1 metrics_port=$2 engine=$3 folder=$4
shift 4
mkdir -p "$folder/models/fake-model/1"
cat >"$folder/models/fake-model/config.pbtxt" <<CONFIG
name: "fake-model"
backend: "openai"
parameters { key: "endpoints" value { string_value: "$engine" } }
CONFIG
exec "$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin/tritium" serve --model-repository "$folder/models" --http-port "$port" --metrics-port "$metrics_port" "$@"
