"""Cursors of keyset paging: where a page ended, as opaque text for the next request.

A cursor carries the sort key of the last row that was shown, so that a page stays right
while rows are added or removed. It is neither secret nor signed: a forged one can only
ask for another place in rows that the caller may read anyway.
"""

import base64
import binascii
import json

from contracts.errors import BadRequest

CursorValue = str | int


def encode_cursor(*values: CursorValue) -> str:
    """Text that :func:`decode_cursor` reads back."""
    raw = json.dumps(values, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type[CursorValue]) -> list[CursorValue]:
    """The values of a cursor, of these kinds. Raises ``BadRequest`` for anything else."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise _refused() from None
    if not isinstance(values, list) or len(values) != len(kinds):
        raise _refused()
    for value, kind in zip(values, kinds, strict=True):
        # bool is an int to isinstance, and is never what a cursor holds.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _refused()
        # PostgreSQL's text holds every character but this one.
        if isinstance(value, str) and "\0" in value:
            raise _refused()
    return values


def _refused() -> BadRequest:
    return BadRequest("This page address is not valid. Start again from the first page.", "cursor")
