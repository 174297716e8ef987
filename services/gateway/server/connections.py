"""One client's connection, with bounds on what it may send and on how long that may take.

uvicorn reads requests and writes answers without a thread, and leaves these bounds to a proxy;
on a bare machine there is none. Here:

- a request must arrive within ``GATEWAY_REQUEST_TIMEOUT_S`` of its first byte, its head within
  ``HEAD_BYTES_MAX``: else 408 and 431;
- an answer must be read at ``READ_BYTES_PER_S_MIN`` or faster;
- when ``GATEWAY_CONNECTIONS`` are open, the one that has waited longest makes room for a new one,
  so that whoever holds many open keeps nobody out;
- while the process stops, a request that was on its way is still answered.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.gateway import metrics
from services.gateway.errors import PROBLEM_TYPE, Problem, document
from services.gateway.settings import get_settings

HEAD_BYTES_MAX = 32 * 1024
READ_GRACE_S = 20.0
READ_BYTES_PER_S_MIN = 4 * 1024
_SAFE_HEADERS = (
    b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
    b"content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"
)
"""Of what is answered without the application, which has its own (security.py)."""

LINGER_S = 1.0
"""How long a refused client may go on sending before it is cut off: a connection that is closed
under unread bytes is reset, and the client never sees why. Also how long a process that stops
waits for requests that are on their way."""


class Connection(HttpToolsProtocol):
    """A connection waits (for a request, or for its answer to be read) or has one in hand."""

    waiting: dict["Connection", None] = {}  # noqa: RUF012 - shared by all of this process
    """Those that wait, the longest first."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._settings = get_settings()
        self._head_bytes: int | None = 0
        """How much of a head has arrived; None once it is complete."""
        self._is_refused = False
        self._is_stopping = False
        self._request_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self.ends_with: Callable[[], None] = lambda: None
        """Called when the connection is over."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._settings.gateway_connections and self.waiting:
            next(iter(self.waiting)).cut_off("no_place")
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.pop(self, None)
        for timer in (self._request_timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self.ends_with()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._request_timer is None and self._is_idle():
            self._await_request()
        if self._head_bytes is not None:
            room = HEAD_BYTES_MAX - self._head_bytes
            self._head_bytes += len(data)
            super().data_received(data[:room])
            data = data[room:]
            if data and self._head_bytes is not None and not self._is_refused:
                self._refuse(431, "headers_too_large", "The request's headers are too large.")
        if data and not self._is_refused and not self.transport.is_closing():
            super().data_received(data)

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()
        if self._is_stopping:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes = 0
        self._end_request_timer()
        if not self._is_idle():
            self.waiting.pop(self, None)

    def on_response_complete(self) -> None:
        self.waiting[self] = None
        unread = self.transport.get_write_buffer_size()
        if unread and self._answer_timer is None:
            allowed_s = READ_GRACE_S + unread / READ_BYTES_PER_S_MIN
            self._answer_timer = self.loop.call_later(allowed_s, self._check_read)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """What is no HTTP is not given to the application."""
        if self._head_bytes is not None and not self._is_idle():
            # An earlier request has its turn.
            self.transport.close()
        else:
            self._refuse(400, "malformed_request", "This is no HTTP request.")

    def shutdown(self) -> None:
        """Finish what is in hand; close what still waits a moment later."""
        self._is_stopping = True
        if self._is_idle():
            self.loop.call_later(LINGER_S, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def cut_off(self, code: str) -> None:
        metrics.turned_away[code].inc()
        self.waiting.pop(self, None)
        self.transport.abort()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_request(self) -> None:
        self.waiting.pop(self, None)
        self.waiting[self] = None
        allowed_s = self._settings.gateway_request_timeout_s
        self._request_timer = self.loop.call_later(allowed_s, self._check_arrived)

    def _end_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _check_arrived(self) -> None:
        self._request_timer = None
        is_head = self._head_bytes is not None
        if not self._is_idle() if is_head else self.cycle.response_started:
            # An earlier request has its turn, or the answer did not wait for the body.
            self.transport.close()
        else:
            self._refuse(408, "request_timeout", "The request did not arrive in time.")

    def _check_read(self) -> None:
        self._answer_timer = None
        if self.transport.get_write_buffer_size():
            self.cut_off("answer_not_read")

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without the application, and take no more of this connection."""
        metrics.turned_away[code].inc()
        self._is_refused = True
        self._end_request_timer()
        body = json.dumps(document(Problem(status, code, message))).encode()
        headers = f"content-type: {PROBLEM_TYPE}\r\nconnection: close\r\n".encode()
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + headers + _SAFE_HEADERS + length + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
