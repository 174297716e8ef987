"""How often Python looks for objects that only refer to each other."""

import gc

THRESHOLD = 50_000
"""So many new objects that may be in cycles make Python look for them; it begins with 700.

A call or a request leaves some hundred objects behind, hardly any of them in a cycle. Looking at
all of them so often was a tenth of a service's processor time, and of the website's.
"""


def look_rarely() -> None:
    """To be called once a process has loaded what it works with: that stays, and need not be
    looked at any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)
