"""A connection to the broker on which nobody waits without a bound.

A broker that freezes, or is cut off, closes nothing. py-amqp's heartbeat notices, and then kombu
asks politely for the close and waits for the answer, as it does after a declaration or a publish
that is confirmed. Here every wait on the socket ends, and a connection that failed is left at
once, for the next of the nodes in ``AMQP_URI`` (``amqp://a;amqp://b``).
"""

import contextlib
import random
import socket
from types import TracebackType
from typing import Any

import kombu

HEARTBEAT_S = 10
"""A broker that gives no sign of life for so long counts as gone."""

CONNECT_TIMEOUT_S = 5
LEAVE_TIMEOUT_S = 1.0


def spread() -> float:
    """What a wait for a broker that is away is multiplied by, 0.5 to 1.5: all processes lost it at
    one moment, and are not to come back at one."""
    return random.uniform(0.5, 1.5)


class BrokerConnection(kombu.Connection):
    """Kombu's connection; it can be opened again after it was left.

    ``heartbeat_s`` bounds every single answer of the broker, and the silence on a connection
    that ``is_read`` all the time. Where nobody reads between two publishes there are no
    heartbeats: such a connection shows by the next publish whether it lives.
    """

    def __init__(
        self,
        amqp_uri: str,
        heartbeat_s: int = HEARTBEAT_S,
        *,
        is_read: bool = True,
        confirms: bool = False,
    ) -> None:
        self._heartbeat_s = heartbeat_s
        super().__init__(  # type: ignore[no-untyped-call]
            amqp_uri,
            connect_timeout=CONNECT_TIMEOUT_S,
            # py-amqp waits for two of what it agreed on with the broker.
            heartbeat=max(heartbeat_s // 2, 1) if is_read else 0,
            transport_options={"confirm_publish": confirms},
        )

    def connect(self) -> Any:
        """Open it, at the first of the nodes that answers. Raises what the last one gave."""
        others = max(len(self.alt) - 1, 0)
        return self._ensure_connection(max_retries=others, reraise_as_library_errors=False)

    def _establish_connection(self) -> Any:
        wire = super()._establish_connection()  # type: ignore[no-untyped-call]
        wire.transport.sock.settimeout(self._heartbeat_s)
        return wire

    def wait_at_most(self, seconds: float) -> None:
        """Bound every wait for the socket anew. A read with just this time-out costs no system
        call for setting it."""
        self._socket().settimeout(seconds)

    def cut(self) -> None:
        """End it for whoever reads or writes at this moment, in another thread or greenlet."""
        sock = self._socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Close it without asking the broker; what is opened next is the next node."""
        self._hurry()
        self.collect()
        self.maybe_switch_next()

    def release(self) -> None:
        """Close it; a broker that does not answer is waited for a moment only."""
        self._hurry()
        super().release()  # type: ignore[no-untyped-call]

    close = release

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.release()
        else:
            self.leave()

    def _hurry(self) -> None:
        sock = self._socket()
        if sock is not None:
            sock.settimeout(LEAVE_TIMEOUT_S)

    def _socket(self) -> Any:
        transport = getattr(self._connection, "_transport", None)
        return getattr(transport, "sock", None)
