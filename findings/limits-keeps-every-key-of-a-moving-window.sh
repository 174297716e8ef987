#!/usr/bin/env bash
# A rate limit in memory with a moving window never forgets a key.
#
# A limit of "5 per second" says something about a second. One would expect the memory of a key to
# go when its window is over, as it does with Redis, and with a fixed window in memory.
#
# What happens: the storage's list of events is emptied by its timer and the key stays, for each
# address or name that was ever seen. The timer walks all of them, many times a second while
# requests come: what is written down by strangers grows, and every request pays for it.
#
# Seen with limits 5.8.0 on Python 3.11. Output:
#   keys right after 2,000 visitors: 2000, two seconds after their windows: 2000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check limits==5.8.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

storage = MemoryStorage()
limiter = MovingWindowRateLimiter(storage)
limit = parse("5 per second")
for visitor in range(2000):
    limiter.hit(limit, str(visitor))
before = len(storage.events)
time.sleep(2)
for _ in range(3):
    limiter.hit(limit, "0")
    time.sleep(0.2)
after = len(storage.events)
print(f"keys right after 2,000 visitors: {before}, two seconds after their windows: {after}")
sys.exit(after < before)
PYTHON
