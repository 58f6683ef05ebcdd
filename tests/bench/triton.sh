#!/usr/bin/env bash
# Real Triton 2.51 (CPU, from the wheel of nvidia-pytriton) in the foreground: triton.sh VENV REPOSITORY HTTP_PORT GRPC_PORT METRICS_PORT [FLAG...]
# VENV is made where it is missing (1.5 GB, Python 3.11).
set -eu
venv=$1 repository=$2 http_port=$3 grpc_port=$4 metrics_port=$5
shift 5
if [ ! -d "$venv" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet nvidia-pytriton==0.7.0 'numpy<2' >&2
fi
package=$("$venv/bin/python" -c 'import importlib.util as u; print(u.find_spec("pytriton").submodule_search_locations[0])')
server=$package/tritonserver
stub=$server/backends/python/triton_python_backend_stub
[ -x "$stub" ] || install -D -m 755 "$(find "$venv" -path '*python_backend_stubs/3.11/triton_python_backend_stub')" "$stub"
library=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
export PATH=$venv/bin:$PATH LD_LIBRARY_PATH=$library:$server/external_libs:$server/lib
exec "$server/bin/tritonserver" --backend-directory "$server/backends" --model-repository "$repository" \
    --http-address 127.0.0.1 --grpc-address 127.0.0.1 --metrics-address 127.0.0.1 \
    --http-port "$http_port" --grpc-port "$grpc_port" --metrics-port "$metrics_port" "$@"
