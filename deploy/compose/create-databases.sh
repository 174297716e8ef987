#!/bin/bash
# Runs once, in an empty database container: a database and a login role for each service.
set -euo pipefail

for service in wallet catalog billing topup legacy analytics gateway; do
    variable=${service^^}_DB_PASSWORD
    # PostgreSQL's own collation, so that an upgrade of the system's C library changes no index.
    psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --set name="$service" \
        --set password="${!variable}" <<'SQL'
CREATE ROLE :"name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name" TEMPLATE template0 ENCODING 'UTF8'
    LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8';
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
