#!/usr/bin/env bash
# Rolls one part after the other: rolled.sh OVERLAY [back]
# Whoever is called comes before whoever calls; "back" goes the other way round, with the overlay of the version before.
set -euo pipefail

NAMESPACE=${NAMESPACE:-mycelium}
PARTS=(wallet catalog topup billing legacy analytics notifier gateway)
overlay=${1:?the folder of an overlay}

roll() {
    kubectl apply -k "$overlay" -l "app.kubernetes.io/name=$1"
    kubectl -n "$NAMESPACE" rollout status "deployment/$1" --timeout=15m
}

others() { # rights, settings, policies: what those that run before and after need
    kubectl apply -k "$overlay" -l "app.kubernetes.io/name notin ($(IFS=,; echo "${PARTS[*]}"))"
}

if [[ ${2:-} == back ]]; then
    for ((at = ${#PARTS[@]} - 1; at >= 0; at--)); do
        roll "${PARTS[at]}"
    done
    others
else
    others
    for part in "${PARTS[@]}"; do
        roll "$part"
    done
fi
