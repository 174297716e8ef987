"""The pinned `stripe` package, loaded when it is first needed.

It takes half a second to load, which the sandbox's start does not wait for. Its modules import
each other in a circle, so two threads must not load them at once: everybody asks here.
"""

import importlib
import threading
from types import ModuleType

_loading = threading.RLock()


def module(name: str = "stripe") -> ModuleType:
    """A module of the package, by its full name."""
    with _loading:
        importlib.import_module("stripe")
        return importlib.import_module(name)
