#!/usr/bin/env bash
# Bounds that stand behind a validator are missing from the JSON Schema, though they hold.
#
# Annotated[int, BeforeValidator(f), Field(ge=1, le=200)] refuses 0 and 201. One would expect its
# JSON Schema to say minimum 1 and maximum 200, as it does without the validator.
#
# What happens: the schema says "ge": 1 and "le": 200, which are no keywords of JSON Schema, so that
# every client and every generator of test data takes the field for unbounded. With
# AfterValidator(f) before StringConstraints the pattern is missing altogether. Constraints written
# first are all there.
#
# Seen with pydantic 2.14.3 on Python 3.11. Output:
#   bounds after a validator: ['ge', 'le', 'type']
#   pattern after a validator: ['type']
#   bounds before a validator: ['maximum', 'minimum', 'type']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check pydantic==2.14.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, TypeAdapter


def same(value):
    return value


def keywords(field):
    return sorted(TypeAdapter(field).json_schema())


seen = {
    "bounds after a validator": keywords(
        Annotated[int, BeforeValidator(same), Field(ge=1, le=200)]
    ),
    "pattern after a validator": keywords(
        Annotated[str, AfterValidator(same), StringConstraints(pattern="^a+$")]
    ),
    "bounds before a validator": keywords(
        Annotated[int, Field(ge=1, le=200), BeforeValidator(same)]
    ),
}
for what, found in seen.items():
    print(f"{what}: {found}")
sys.exit(
    list(seen.values()) != [["ge", "le", "type"], ["type"], ["maximum", "minimum", "type"]]
)
PYTHON
