#!/usr/bin/env bash
# Two servers made with eventlet.listen on one port both start, and share the visitors.
#
# Whoever starts a second server on a port that is taken expects "address already in use", as with
# the socket module, wsgiref or gunicorn.
#
# What happens: eventlet.listen sets SO_REUSEPORT unless it is told not to, wherever the port is not
# 0. A second process of the same user listens without a word, and the kernel gives each of the two
# some of the connections. Where the port is that of health checks, one service's answers are taken
# for another's. The documentation's first lines name SO_REUSEADDR alone.
#
# Seen with eventlet 0.41.3 on Python 3.11, Linux. Output:
#   by default: a second server listens, 64 visits came to [first, second]
#   reuse_port=False: OSError, address already in use
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check eventlet==0.41.3
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import errno
import select
import socket
import sys

import eventlet

first = eventlet.listen(("127.0.0.1", 0), reuse_port=True)
address = first.getsockname()
second = eventlet.listen(address)
visitors, came = [], set()
for _ in range(64):
    visitors.append(socket.create_connection(address, timeout=5))
    ready, _, _ = select.select([first.fileno(), second.fileno()], [], [], 5)
    for listener, name in ((first, "first"), (second, "second")):
        if listener.fileno() in ready:
            visitors.append(listener.accept()[0])
            came.add(name)
print(f"by default: a second server listens, 64 visits came to [{', '.join(sorted(came))}]")

taken = eventlet.listen(("127.0.0.1", 0), reuse_port=False)
try:
    eventlet.listen(taken.getsockname(), reuse_port=False)
except OSError as error:
    refused = error.errno == errno.EADDRINUSE
    print("reuse_port=False: OSError, address already in use")
else:
    refused = False
sys.exit(not (came == {"first", "second"} and refused))
PYTHON
