"""Named points at which a process can be told to die, for the tests of crashes.

``MYCELIUM_CRASH_AT=billing.wallet_debited`` makes the process kill itself, as ``kill -9``
would, when it first comes by that point. ``MYCELIUM_CRASH_FILE=path`` does the same at the
point whose name the file holds, and takes the file away first: a process that runs already
can be told so, and the one that replaces it lives. Nothing is flushed, closed or handed
back: what the database and the broker have by then is all that is left.

With neither of them set, as in every real deployment, a point costs two comparisons.
"""

import os
import signal
from pathlib import Path

_CRASH_AT = os.environ.get("MYCELIUM_CRASH_AT", "")
_CRASH_FILE = os.environ.get("MYCELIUM_CRASH_FILE", "")


def crash_point(name: str) -> None:
    """Die here, at once, if the environment says so."""
    if name == _CRASH_AT or (_CRASH_FILE and _is_ordered(name)):
        os.kill(os.getpid(), signal.SIGKILL)


def _is_ordered(name: str) -> bool:
    order = Path(_CRASH_FILE)
    try:
        if order.read_text() != name:
            return False
        order.unlink()
    except FileNotFoundError:
        return False
    return True
