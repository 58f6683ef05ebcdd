#!/usr/bin/env bash
# Servers that tests start themselves and that are no Python package: Debian's Redis. Installed where this is run by root.
set -eu
command -v redis-server >/dev/null && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "redis-server is missing: install it (apt-get install redis-server) to run the tests with Redis." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Only the program: tests start their own.
apt-get install -qq --no-install-recommends -o Dpkg::Options::=--force-confold redis-server >/dev/null
