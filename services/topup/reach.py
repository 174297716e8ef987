"""Whether anything of a call has left this machine: what was never sent has moved no money.

The library tries again by itself and tells of the last try only, so that its error does not say
whether an earlier one arrived. A connection that stands says it: nothing is sent without one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

CONNECTIONS_MAX = 50
"""How many connections are kept for the next call."""


@dataclass
class Sending:
    """One call, with all its tries."""

    may_have_arrived: bool = False


_sending: ContextVar[Sending] = ContextVar("sending")


@contextmanager
def watched() -> Iterator[Sending]:
    """The call made in this block."""
    sending = Sending()
    token = _sending.set(sending)
    try:
        yield sending
    finally:
        _sending.reset(token)


def _note(connection: Any) -> None:
    if connection.sock is not None:
        _sending.get(Sending()).may_have_arrived = True


class _Noted:
    """A connection that notes when it stands, and when something goes over it."""

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _note(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _note(self)
        super().request(*args, **kwargs)  # type: ignore[misc]


class _Plain(_Noted, HTTPConnection):
    pass


class _Encrypted(_Noted, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _EncryptedPool(HTTPSConnectionPool):
    ConnectionCls = _Encrypted


class _Adapter(HTTPAdapter):
    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Behind a proxy nobody can say what has arrived."""
        _sending.get(Sending()).may_have_arrived = True
        return super().proxy_manager_for(*args, **kwargs)


def session() -> requests.Session:
    """A session whose calls can be :func:`watched`, for many greenlets at once."""
    made = requests.Session()
    # The processor has one address; what it answers sends nobody, and no key, to another.
    made.max_redirects = 0
    for scheme in ("http://", "https://"):
        adapter = _Adapter(pool_maxsize=CONNECTIONS_MAX)
        adapter.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _EncryptedPool}
        made.mount(scheme, adapter)
    return made
