"""Cursors of keyset paging: where a page ended, as opaque text for the next request.

A cursor carries the sort key of the last row that was shown, so that a page stays right
while rows are added or removed. It is neither secret nor signed: a forged one can only
ask for another place in rows that the caller may read anyway.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from contracts.errors import BadRequest
from contracts.messages import CURSOR_LENGTH_MAX, storable

CursorValue = str | int | UUID | datetime
RowT = TypeVar("RowT")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INTEGER_MAX = 2**63 - 1


def encode_cursor(*values: CursorValue) -> str:
    """Text that :func:`decode_cursor` reads back. Moments are kept to the microsecond.

    Raises ValueError for what would be longer than a cursor may be: a sort key has a bound.
    """
    raw = json.dumps([_plain(value) for value in values], separators=(",", ":"), ensure_ascii=False)
    cursor = base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")
    if len(cursor) > CURSOR_LENGTH_MAX:
        raise ValueError(f"a cursor of {len(cursor)} characters: its sort key has no bound")
    return cursor


def decode_cursor(cursor: str, *kinds: type[CursorValue]) -> list[Any]:
    """The values of a cursor, of these kinds. Raises ``BadRequest`` for anything else."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if isinstance(values, list) and len(values) == len(kinds):
            return [_read(value, kind) for value, kind in zip(values, kinds, strict=True)]
    except (binascii.Error, ValueError, OverflowError, RecursionError):
        pass
    raise BadRequest("This page address is not valid. Start again from the first page.", "cursor")


def page_by(
    session: Session,
    query: Select[RowT],
    key: InstrumentedAttribute[Any],
    cursor: str | None,
    limit: int,
    *,
    newest_first: bool = False,
) -> tuple[Sequence[RowT], str | None]:
    """A page of rows in the order of a unique key that grows with time, and the cursor of the next
    page, if there is one. Raises ``BadRequest`` for a cursor of another list."""
    if cursor is not None:
        (last,) = decode_cursor(cursor, key.type.python_type)
        query = query.where(key < last if newest_first else key > last)
    query = query.order_by(key.desc() if newest_first else key).limit(limit + 1)
    rows = session.scalars(query).all()
    page = rows[:limit]
    more = len(rows) > limit
    return page, encode_cursor(getattr(page[-1], key.key)) if more else None


def _plain(value: CursorValue) -> str | int:
    if isinstance(value, datetime):
        return (value - _EPOCH) // _MICROSECOND
    return str(value) if isinstance(value, UUID) else value


def _read(value: object, kind: type[CursorValue]) -> CursorValue:
    """One value of a cursor. Raises ValueError for what is not of this kind."""
    if isinstance(value, str) and kind is UUID:
        return UUID(value)
    if isinstance(value, str) and kind is str:
        return storable(value)
    # bool is an int to isinstance, and is never what a cursor holds.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _INTEGER_MAX:
        if kind is datetime:
            return _EPOCH + value * _MICROSECOND
        if kind is int:
            return value
    raise ValueError(f"no {kind.__name__}")
