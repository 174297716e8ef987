"""Named points at which a process can be told to die, for the tests of crashes.

``MYCELIUM_CRASH_AT=billing.debited`` makes the process kill itself, as ``kill -9`` would,
when it first comes by that point. Nothing is flushed, closed or handed back: what the
database and the broker have by then is all that is left. Unset, a point costs one
comparison.
"""

import os
import signal

_CRASH_AT = os.environ.get("MYCELIUM_CRASH_AT", "")


def crash_point(name: str) -> None:
    """Die here, at once, if the environment says so."""
    if _CRASH_AT and name == _CRASH_AT:
        os.kill(os.getpid(), signal.SIGKILL)
