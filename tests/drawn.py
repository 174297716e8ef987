"""How often a test draws what happens: a few times in the suite, many times with ``make soak``."""

import os

_TIMES = int(os.environ.get("DRAWN_TIMES", "1"))


def drawn(few: int) -> int:
    """How many examples: ``few``, times what DRAWN_TIMES says."""
    return few * _TIMES
