#!/usr/bin/env bash
# A date written without hyphens is a moment of the year 1970 to pydantic.
#
# 20261128 is a date of ISO 8601's basic format. For a field of type datetime one would expect
# that date, or an error.
#
# What happens: a text of digits is read as Unix time, so that "20261128" is in August 1970, with a
# time zone, and AwareDatetime lets it pass. From 20,000,000,000 on the same digits count
# milliseconds: "19999999999" is in 2603 and "20000000001" in August 1970. A balance "as of
# 20261128" is answered, and is the balance of an empty account.
#
# Seen with pydantic 2.14.3 on Python 3.11. Output:
#   20261128 is 1970-08-23
#   19999999999 is 2603-10-11
#   20000000001 is 1970-08-20
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check pydantic==2.14.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from pydantic import AwareDatetime, TypeAdapter

read = TypeAdapter(AwareDatetime).validate_python
days = {text: f"{read(text):%Y-%m-%d}" for text in ("20261128", "19999999999", "20000000001")}
for text, day in days.items():
    print(text, "is", day)
sys.exit(list(days.values()) != ["1970-08-23", "2603-10-11", "1970-08-20"])
PYTHON
