#!/usr/bin/env bash
# Waits until all migrations are done: migrated.sh [MINUTES]
# It fails at once where one has failed, and after MINUTES (60 if not said), which ends no migration: call it again.
set -euo pipefail

NAMESPACE=${NAMESPACE:-mycelium}
JOBS=(job -l app.kubernetes.io/component=migration)

for ((left = ${1:-60} * 4; left > 0; left--)); do
    # It waits for one condition only, and a job that has failed never comes to this one.
    if kubectl -n "$NAMESPACE" wait --for=condition=complete --timeout=15s "${JOBS[@]}"; then
        exit 0
    fi
    ended=$(kubectl -n "$NAMESPACE" get "${JOBS[@]}" -o 'jsonpath={.items[*].status.conditions[*].type}')
    if [[ " $ended " == *" Failed "* ]]; then
        kubectl -n "$NAMESPACE" get "${JOBS[@]}" >&2
        echo "migrated: a migration has failed; kubectl -n $NAMESPACE logs job/NAME says why." >&2
        exit 1
    fi
done
echo "migrated: not all migrations are done." >&2
exit 1
