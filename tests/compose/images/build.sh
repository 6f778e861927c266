#!/usr/bin/env bash
# Builds images that stand in for those that docker-compose.yml and the Dockerfile name, for a machine that cannot pull any:
#   tests/compose/images/build.sh [base|rust|kafka|registry|postgres|prometheus]…
# Needs root, Docker with BuildKit, debootstrap, and the jars that `./dev servers start` fetches. A tag of a real image that is
# there already is left alone.
set -euo pipefail
HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd -- "$HERE/../../.." && pwd)
JARS=${MILLRACE_JARS:-$ROOT/.millrace/stack}
CONTEXT=$(mktemp -d /tmp/millrace-image-XXXXXX)
trap 'rm -rf "$CONTEXT"' EXIT
export DOCKER_BUILDKIT=1

base() {
    local root=$CONTEXT/base
    debootstrap --variant=minbase bookworm "$root" >&2
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    # What this machine trusts for TLS, so that package managers work in the images where they work here.
    mkdir -p "$root/etc/ssl/certs" "$root/usr/local/share/ca-certificates"
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp -L {} "$root/usr/local/share/ca-certificates/" \;
    tar -C "$root" -c . | docker import - debian:bookworm-slim
    rm -rf "$root"
}

# image TAG FILE CONTEXT
image() { docker build --network host -t "$1" -f "$HERE/$2.Dockerfile" "$3"; }

build() {
    local tag
    case $1 in
    base) tag=debian:bookworm-slim ;;
    rust) tag=rust:1.95.0-slim-bookworm ;;
    kafka) tag=apache/kafka:4.3.1 ;;
    registry) tag=apicurio/apicurio-registry:3.0.9 ;;
    postgres) tag=postgres:15.18-bookworm ;;
    prometheus) tag=prom/prometheus:v3.5.0 ;;
    *)
        sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
    esac
    if docker image inspect "$tag" >/dev/null 2>&1; then return; fi
    case $1 in
    base) base ;;
    rust) image "$tag" rust "$(cd -- "$ROOT" && rustc --print sysroot)" ;;
    kafka)
        cp -RL "$JARS/kafka" "$CONTEXT/libs"
        cp "$HERE/kafka-setup.sh" "$CONTEXT/"
        image "$tag" kafka "$CONTEXT"
        ;;
    registry) image "$tag" registry "$JARS/registry" ;;
    *) image "$tag" "$1" "$HERE" ;;
    esac
}

build base
if (($# == 0)); then set -- rust kafka registry postgres prometheus; fi
for name in "$@"; do build "$name"; done
