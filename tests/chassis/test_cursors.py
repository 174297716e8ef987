"""Cursors: what we issue we take, and nothing else."""

import base64
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from chassis.cursors import CursorValue, decode_cursor, encode_cursor
from contracts.errors import BadRequest
from contracts.messages import Cursor
from services.gateway.api.shapes import CursorText

SORT_KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)
NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1)
MOMENTS = st.datetimes(timezones=st.just(UTC))


@given(st.lists(SORT_KEYS | NUMBERS | MOMENTS | st.uuids(), min_size=1, max_size=3))
def test_a_cursor_that_we_issue_is_one_that_we_take(values: list[CursorValue]) -> None:
    # Two keys of full length never stand in one cursor.
    keys = [value for value in values if isinstance(value, str)]
    values = [value for value in values if value not in keys[1:]]

    cursor = encode_cursor(*values)

    assert TypeAdapter(Cursor).validate_python(cursor) == cursor
    assert TypeAdapter(CursorText).validate_python(cursor) == cursor
    assert decode_cursor(cursor, *map(type, values)) == values


def test_a_sort_key_without_a_bound_is_noticed_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="has no bound"):
        encode_cursor("x" * 2000)


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("", str),
        ("null", str),
        ("{}", str),
        ("[]", str),
        ('["a","b"]', str),
        ("[true]", int),
        ("[1.0]", int),
        ("[9223372036854775808]", int),
        ("[1" + "0" * 400 + "]", int),
        ("[9223372036854775807]", datetime),
        ('["2026-11-28"]', datetime),
        ('["nonsense"]', UUID),
        ("[1]", UUID),
        ("[1]", str),
        ('["nul\\u0000"]', str),
        ('["half a character \\ud83d"]', str),
        ("[" * 1400, str),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_forged_cursor_is_refused(written: str, kind: type[Any]) -> None:
    cursor = base64.urlsafe_b64encode(written.encode()).decode().rstrip("=")

    with pytest.raises(BadRequest, match="Start again from the first page"):
        decode_cursor(cursor, kind)


@given(st.text(max_size=40))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        (value,) = decode_cursor(text, str)
    except BadRequest:
        return
    assert isinstance(value, str)
