"""Whole numbers as people and programs write them: ASCII digits, and nothing to interpret.

Python's ``int`` takes ``1_0`` for 10, ``１２`` for 12 and `` +1`` for 1. What comes from outside
is understood exactly or refused, so that none of these becomes a number that nobody meant.
"""

import re

_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
"""At most 18 digits: what a 64-bit integer of the database holds."""


def whole_number(text: str) -> int:
    """The number that these digits write. Raises ValueError for any other text."""
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError("it must be a whole number, written in digits")
    return int(text)
