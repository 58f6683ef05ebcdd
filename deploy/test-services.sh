#!/usr/bin/env bash
# What tests need of Debian's archive and no Python package has: Redis, which they start themselves, and documents to read
# (build/documents: Debian's FAQ as PDF and as HTML). Root installs Redis; anybody may fetch the documents.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FAQ_VERSION=11.1 # a distribution that has another one gives that
documents=build/documents
export DEBIAN_FRONTEND=noninteractive

say() { printf '%s\n' "$*" >&2; }

update() {
    if [ "$(id -u)" = 0 ] && [ -z "${updated:-}" ]; then
        apt-get update -qq
        updated=1
    fi
}

install_redis() {
    command -v redis-server >/dev/null && return
    if [ "$(id -u)" != 0 ]; then
        say "redis-server is missing: install it (apt-get install redis-server) to run the tests with Redis."
        return 1
    fi
    update
    # Only the program: tests start their own.
    apt-get install -qq --no-install-recommends -o Dpkg::Options::=--force-confold redis-server >/dev/null
}

fetch_documents() {
    [ -e $documents/debian-faq.en.pdf ] && return
    local scratch fetched=1
    scratch=$(mktemp -d)
    { download "$scratch" 2>/dev/null || { update && download "$scratch"; }; } && unpack "$scratch" && fetched=0
    rm -rf "$scratch"
    [ $fetched = 0 ] || say "debian-faq cannot be had (apt-get download debian-faq): the tests that read it are skipped."
    return $fetched
}

unpack() {
    local faq="$1"/usr/share/doc/debian/FAQ
    dpkg-deb -x "$1"/debian-faq_*.deb "$1" &&
        mkdir -p $documents &&
        cp "$faq"/*.en.html $documents/ &&
        gunzip -c "$faq"/debian-faq.en.pdf.gz >$documents/part &&
        # Last, and whole or not at all: it says that the others are there.
        mv $documents/part $documents/debian-faq.en.pdf
}

download() (
    cd "$1"
    apt-get download -qq "debian-faq=$FAQ_VERSION" 2>/dev/null || apt-get download -qq debian-faq
)

status=0
install_redis || status=1
fetch_documents || status=1
exit $status
