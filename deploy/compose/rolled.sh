#!/usr/bin/env bash
# Takes what runs to the version in this folder, part by part: rolled.sh [back]
# Whoever is called comes before whoever calls; "back" goes the other way round, in the folder of the version before.
# It ends where something fails, and what ran before goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

DATABASES=(wallet catalog billing topup legacy analytics gateway)
PARTS=(wallet catalog topup billing legacy analytics notifier gateway)

roll() {
    local ids old
    ids=$(docker compose ps -q "$1")
    read -ra old <<<"${ids//$'\n'/ }"
    if [[ ${#old[@]} == 0 ]]; then # the version that runs has no such part
        docker compose up -d --wait --no-deps "$1"
        return
    fi
    # As many again, of the new image, until they are healthy.
    docker compose up -d --wait --no-deps --no-recreate --scale "$1=$((2 * ${#old[@]}))" "$1"
    docker stop "${old[@]}"
    docker rm "${old[@]}"
}

allow() { # what the broker allows to whom
    docker compose run --rm --no-deps broker-access
    docker compose exec -T rabbitmq rabbitmqctl import_definitions /definitions/definitions.json
}

docker compose build
if [[ ${1:-} == back ]]; then
    for ((at = ${#PARTS[@]} - 1; at >= 0; at--)); do
        roll "${PARTS[at]}"
    done
    allow
else
    allow
    for name in "${DATABASES[@]}"; do
        docker compose run --rm --no-deps "$name-migrate"
    done
    for part in "${PARTS[@]}"; do
        roll "$part"
    done
fi
