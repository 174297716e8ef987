#!/usr/bin/env bash
# psycopg2 makes ordinary values of PostgreSQL's infinite ones.
#
# PostgreSQL has infinity for numeric (14), for timestamps, and for intervals (17). One would
# expect a driver to give a value that is infinite too, or an error.
#
# What happens: an infinite Decimal is written as NaN, which PostgreSQL sorts above all numbers; an
# infinite interval is read as a timedelta of zero, and an infinite timestamp as the last moment of
# the year 9999. "Valid until infinity" minus "now" is then a number of days, and a time without an
# end is no time at all.
#
# Seen with psycopg2-binary 2.9.13 on Python 3.11, with the texts that PostgreSQL 18 sends. Output:
#   numeric Infinity, written: 'NaN'::numeric
#   interval infinity, read: 0:00:00
#   timestamp infinity, read: 9999-12-31 23:59:59.999999
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check psycopg2-binary==2.9.13
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from decimal import Decimal

from psycopg2.extensions import PYDATETIME, PYINTERVAL, adapt

values = {
    "numeric Infinity, written": adapt(Decimal("Infinity")).getquoted().decode(),
    "interval infinity, read": str(PYINTERVAL("infinity", None)),
    "timestamp infinity, read": str(PYDATETIME("infinity", None)),
}
for what, value in values.items():
    print(f"{what}: {value}")
sys.exit(list(values.values()) != ["'NaN'::numeric", "0:00:00", "9999-12-31 23:59:59.999999"])
PYTHON
