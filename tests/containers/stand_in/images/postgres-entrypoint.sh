#!/bin/bash
# What docker-compose.yml relies on: a cluster is made once, and the scripts of
# /docker-entrypoint-initdb.d run in it before anybody can connect over the network.
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile <(echo "$POSTGRES_PASSWORD") \
        --auth-local trust --auth-host scram-sha-256
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    cat >>"$PGDATA/postgresql.conf" <<CONFIGURATION
listen_addresses = '*'
unix_socket_directories = '$PGHOST'
CONFIGURATION
    pg_ctl --pgdata "$PGDATA" --wait --options "-c listen_addresses=''" start
    for script in /docker-entrypoint-initdb.d/*; do
        "$script"
    done
    pg_ctl --pgdata "$PGDATA" --wait --mode fast stop
fi
exec "$@"
