"""Replies that come later: one greenlet does the work of many calls at once.

::

    @rpc
    def debit(self, request: Debit) -> Deferred[Transaction]:
        return self.committer.submit(request)

Such a method returns at once, so that its call needs no worker: it runs where the message
arrived, and the reply is sent when somebody settles what it returned.
"""

from collections.abc import Callable
from typing import Generic

from contracts.messages import ReplyT


class Deferred(Generic[ReplyT]):
    """A reply, or the error that takes its place, which somebody will :meth:`settle`."""

    __slots__ = ("_listener", "_outcome")

    def __init__(self) -> None:
        self._listener: Callable[[ReplyT | Exception], None] | None = None
        self._outcome: ReplyT | Exception | None = None

    def settle(self, outcome: ReplyT | Exception) -> None:
        """Give the reply, or what is raised instead. Once."""
        if self._outcome is not None:
            raise RuntimeError("a deferred reply is settled once")
        self._outcome = outcome
        if self._listener is not None:
            self._listener(outcome)

    def then(self, listener: Callable[[ReplyT | Exception], None]) -> None:
        """Call ``listener`` with the outcome, now if it is there already. For one listener."""
        self._listener = listener
        if self._outcome is not None:
            listener(self._outcome)
