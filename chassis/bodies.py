"""The bodies of messages: plain JSON in UTF-8.

Kombu's own JSON has types in it: a dict of ``__type__`` and ``__value__`` becomes something else
at the other end, or an error. What people and other services store may be such a dict.
"""

from typing import Any

from kombu.message import Message
from pydantic_core import from_json, to_json

from contracts.calls import CONTENT_TYPE

PROPERTIES = {"content_type": CONTENT_TYPE, "content_encoding": "utf-8"}

_COMPRESSION_HEADER = "compression"


def encode(body: Any) -> bytes:
    """The JSON of plain values and of the types in ``contracts``."""
    return to_json(body)


def decode(message: Message) -> Any:
    """What a message says. Raises ValueError for anything but JSON."""
    if message.errors:
        raise ValueError(f"{message.errors[0][1]}")
    if message.content_type != CONTENT_TYPE:
        raise ValueError(f"its type is {message.content_type}, not {CONTENT_TYPE}")
    return from_json(message.body)


def headers_of(message: Message) -> dict[str, Any]:
    """The headers to publish the body of ``message`` with once more.

    Kombu decompressed the body when it came in; one that it could not is still as it was.
    """
    headers = dict(message.headers or {})
    if not message.errors:
        headers.pop(_COMPRESSION_HEADER, None)
    return headers
