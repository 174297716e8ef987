"""How many of the rows that were found go into one reply.

A message has a bound at the broker (RabbitMQ 4: 16 MiB), and the metadata of one transaction may
have 28,000 characters: a page of the full number of rows could be one that is never delivered.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

REPLY_CHARACTERS_MAX = 2_000_000
"""Of metadata. JSON may need six bytes for a character."""

RowT = TypeVar("RowT")


def fitting(
    rows: Sequence[RowT], metadata: Sequence[Mapping[str, str]], limit: int
) -> Sequence[RowT]:
    """The first rows: at most ``limit``, at least one, and no more than fit with their metadata."""
    characters = 0
    for count, texts in enumerate(metadata[:limit]):
        characters += sum(len(name) + len(value) for name, value in texts.items())
        if characters > REPLY_CHARACTERS_MAX and count:
            return rows[:count]
    return rows[:limit]
