"""Serves the website over HTTP: ``python -m services.gateway.server``.

A connection costs no thread until its request is here as a whole, and none while its answer is
read: clients that are slow wait for themselves alone. Why this server, and no proxy in front of
another one: docs/decisions/0013-slow-clients-occupy-no-thread.md.
"""

import os

# Real threads serve here, and eventlet comes along with what the site shares with the services. Its
# resolver of names, which the site does not use, takes a tenth of the time to start.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
