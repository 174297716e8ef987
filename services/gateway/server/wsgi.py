"""The Flask application under an event loop: a thread works on whole requests only.

The body is read before a thread is taken, and the answer is complete before its first byte is
sent, so that neither a slow sender nor a slow reader holds a thread.
"""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote_to_bytes

from services.gateway import metrics

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Environ = dict[str, Any]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

ALWAYS_SERVED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by those who decide whether this process is well: they have threads of their own, and
learn that it lives while every other thread waits for a service."""

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class BufferedWsgi:
    """An ASGI application that runs a WSGI one.

    ``larger_bodies`` are the paths that take more than ``body_bytes_max``, and how much.
    ``close`` is called when the process stops.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        threads: int,
        body_bytes_max: int,
        close: Callable[[], None],
        larger_bodies: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._larger_bodies = larger_bodies
        self._close = close
        self._pool = ThreadPoolExecutor(threads, "request")
        self._probe_pool = ThreadPoolExecutor(2, "probe")
        metrics.threads_limit.set(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = await self._whole_body(scope, receive)
        if body is None:
            return
        answer = await self._answer(scope, body)
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": answer.headers,
            }
        )
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, body: bytes) -> Answer:
        run, environ = asyncio.get_running_loop().run_in_executor, _environ(scope, body)
        if scope["path"] in ALWAYS_SERVED:
            return await run(self._probe_pool, _respond, self._app, environ)
        metrics.requests_waiting.inc()
        return await run(self._pool, _take_up, self._app, environ)

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        self._close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _whole_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None when the client has left.

        Of one that is too large no more than shows it: the application refuses it in its own
        words, by its length.
        """
        bytes_max = self._larger_bodies.get(scope["path"], self._body_bytes_max)
        length = _header(scope, b"content-length")
        if length is not None and int(length) > bytes_max:
            return bytes(bytes_max + 1)
        body = bytearray()
        while len(body) <= bytes_max:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        return bytes(body)


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for given, value in scope["headers"] if given == name), None)


def _environ(scope: Scope, body: bytes) -> Environ:
    """A request as PEP 3333 wants it. Framing is over: the body has a length, whatever it had."""
    host, port = scope["server"] or ("", 0)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "REMOTE_ADDR": scope["client"][0] if scope["client"] else "",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if body or any(name in _FRAMING for name, _ in scope["headers"]):
        environ["CONTENT_LENGTH"] = str(len(body))
    for name, value in scope["headers"]:
        # With an underscore a header could pass for another one, which a proxy sets.
        if name in _FRAMING or b"_" in name:
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        if key != "CONTENT_TYPE":
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        if key in environ:
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text
    return environ


def _take_up(app: WsgiApp, environ: Environ) -> Answer:
    metrics.requests_waiting.dec()
    with metrics.threads_busy.track_inprogress():
        return _respond(app, environ)


def _respond(app: WsgiApp, environ: Environ) -> Answer:
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> None:
        started[:] = [(status, headers)]

    chunks = app(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    [(status, headers)] = started
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return Answer(int(status[:3]), encoded, body)
