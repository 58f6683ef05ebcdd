# Shared by the engine scripts: one virtual environment an engine, stamped when it is whole.
# Sourced, never run. Needs bash.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
recipes=$root/deploy/engines
engines=${TRITIUM_ENGINES_DIR:-$root/.engines}

say() { printf '%s\n' "$*" >&2; }

# find_python: the interpreter for new environments, in $python. PYTHON names another one.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            python=$candidate
            return
        fi
    done
    say "No Python 3.11-3.13 with the venv module was found (looked for: ${PYTHON:-python3 python3.13 python3.12 python3.11})."
    say "Name one by PYTHON, for example PYTHON=/usr/bin/python3.12; on Debian and Ubuntu, venv is the package python3-venv."
    exit 1
}

has_nvidia_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

# torch_for VERSION cpu|gpu: which build of torch goes in, in $torch, and where else pip may look, in $torch_options.
# Without a GPU the local version "+cpu" is asked for: the plain one may be the CUDA build, which is 3 GB and unused.
torch_for() {
    torch_options=()
    if [ -n "${TRITIUM_TORCH_INDEX:-}" ]; then
        torch_options=(--extra-index-url "$TRITIUM_TORCH_INDEX")
    fi
    torch=torch==$1
    if [ "$2" = cpu ] && [ "$(uname -s)" = Linux ]; then
        torch=torch==$1+cpu
    fi
}

# whole NAME RECIPE: true when the environment was made by this very recipe.
whole() { [ -f "$engines/$1/.recipe" ] && [ "$(cat "$engines/$1/.recipe")" = "$2" ]; }

# begin NAME: an empty environment in place (one cannot be moved); what has no stamp is wiped.
begin() {
    environment=$engines/$1
    find_python
    say "Making $environment with $("$python" -V) ..."
    rm -rf "$environment"
    mkdir -p "$engines"
    "$python" -m venv "$environment"
    pip=("$environment/bin/python" -m pip --disable-pip-version-check)
}

# install_torch: alone and first, so that its absence has a clear message.
install_torch() {
    if ! "${pip[@]}" install --quiet "${torch_options[@]}" "$torch"; then
        say
        say "$torch could not be installed (the reason is above)."
        if [ "${torch%+cpu}" != "$torch" ] && [ -z "${TRITIUM_TORCH_INDEX:-}" ]; then
            say "The CPU build of torch is not in the package index that pip uses here. PyTorch publishes an index of CPU"
            say "builds (pytorch.org, Get Started, Linux / Pip / CPU): give its URL as TRITIUM_TORCH_INDEX and run this again."
        fi
        exit 1
    fi
}

# finish RECIPE: the stamp, last, so that an interrupted run never looks whole.
finish() {
    printf '%s\n' "$1" >"$environment/.recipe.tmp"
    mv "$environment/.recipe.tmp" "$environment/.recipe"
    say "$environment is ready."
}

# one_at_a_time: a second script waits for the first instead of wiping what it builds.
one_at_a_time() {
    mkdir -p "$engines"
    exec 9>"$engines/.lock"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "Another engine environment is being made; waiting ..."
        flock 9
    fi
}
