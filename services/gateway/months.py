"""A calendar month in an address: ``2026-03``."""

import re

from services.gateway.errors import Problem

_MONTH = re.compile(r"20[0-9]{2}-(0[1-9]|1[0-2])")


def read_month(text: str) -> str:
    """The month that an address names. Anything else is not found."""
    if _MONTH.fullmatch(text) is None:
        raise Problem(404, "not_found", "There is no such month. Write it as 2026-03.")
    return text
