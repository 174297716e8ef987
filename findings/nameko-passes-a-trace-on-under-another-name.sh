#!/usr/bin/env bash
# Nameko passes a trace on under another name.
#
# A nameko service forwards the headers of what it is asked to what it asks. One would expect that
# W3C's traceparent, which every library for traces looks for, goes through it.
#
# What happens: every header of a message comes into the worker's context, whoever it is meant for,
# and all of it goes out with the prefix "nameko.". What comes behind that service sees no
# traceparent, and a header nameko.traceparent, which a second nameko service takes off and puts on
# again: a trace ends at the first of them for whoever is not on nameko.
#
# Seen with nameko 2.14.1 on Python 3.11. Output:
#   in:  ['nameko.call_id_stack', 'traceparent', 'x-secret']
#   out: ['nameko.call_id_stack', 'nameko.traceparent', 'nameko.x-secret']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check 'setuptools<82' nameko==2.14.1 \
    eventlet==0.41.3 kombu==5.7.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from types import SimpleNamespace

from nameko.messaging import HeaderDecoder, HeaderEncoder

headers = {"traceparent": "00-…-01", "x-secret": "for this service", "nameko.call_id_stack": ["a.1"]}
context = HeaderDecoder().unpack_message_headers(SimpleNamespace(headers=headers))
passed_on = HeaderEncoder().get_message_headers(SimpleNamespace(context_data=context))
print("in: ", sorted(headers))
print("out:", sorted(passed_on))
sys.exit(sorted(passed_on) != ["nameko.call_id_stack", "nameko.traceparent", "nameko.x-secret"])
PYTHON
