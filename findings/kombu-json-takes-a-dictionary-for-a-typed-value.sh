#!/usr/bin/env bash
# A dictionary with the keys __type__ and __value__ does not come through kombu's JSON.
#
# JSON has objects with any keys, and one would expect a message's body to arrive as it was sent:
# a user's own labels, for example {"__type__": "invoice", "__value__": "42"}.
#
# What happens: kombu's serializer "json" takes exactly these two keys for a value that it tagged
# itself, and fails to decode one whose type it does not know; one whose type it knows arrives as
# something else, here as a Decimal. A consumer that only catches errors of its callbacks loses the
# message, or its connection.
#
# Seen with kombu 5.7.0 on Python 3.11. Output:
#   unknown type: DecodeError
#   known type: Decimal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check kombu==5.7.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from kombu.serialization import dumps, loads


def through(body):
    content_type, encoding, data = dumps(body, "json")
    try:
        return type(loads(data, content_type, encoding)).__name__
    except Exception as error:
        return type(error).__name__


unknown = through({"__type__": "invoice", "__value__": "42"})
known = through({"__type__": "decimal", "__value__": "42"})
print("unknown type:", unknown)
print("known type:", known)
sys.exit((unknown, known) != ("DecodeError", "Decimal"))
PYTHON
