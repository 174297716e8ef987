"""Callers for benchmarks: many at a time, over one connection, in nameko's protocol.

They are written on aio-pika, which costs less than the services that they measure, and are
the same for every service.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aio_pika
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage
from aio_pika.patterns import RPC

ANSWER_TIMEOUT_S = 20.0

Arguments = Callable[[], dict[str, Any]]


@dataclass
class Measured:
    """What a load came to. ``latencies_s`` is sorted."""

    calls_per_s: float
    latencies_s: list[float] = field(repr=False)
    errors: int = 0

    def percentile_ms(self, percent: float) -> float:
        index = min(int(len(self.latencies_s) * percent / 100), len(self.latencies_s) - 1)
        return self.latencies_s[index] * 1000


class NamekoCallers:
    """Calls one method of a nameko service. ``rate_per_s`` spaces the calls evenly."""

    def __init__(self, amqp_uri: str, method: str, arguments: Arguments) -> None:
        self._amqp_uri = amqp_uri
        self._method = method
        self._arguments = arguments
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._latencies_s: list[float] = []
        self._errors = 0

    def run(self, clients: int, seconds: float, rate_per_s: float | None = None) -> Measured:
        return asyncio.run(self.run_async(clients, seconds, rate_per_s))

    async def run_async(
        self, clients: int, seconds: float, rate_per_s: float | None = None
    ) -> Measured:
        self._latencies_s, self._errors = [], 0
        connection = await aio_pika.connect(self._amqp_uri)
        async with connection:
            channel = await connection.channel(publisher_confirms=False)
            exchange = await channel.declare_exchange("nameko-rpc", "topic", durable=True)
            reply_to = str(uuid.uuid4())
            queue = await channel.declare_queue(f"rpc.reply-bench-{reply_to}", exclusive=True)
            await queue.bind(exchange, reply_to)
            await queue.consume(self._on_reply, no_ack=True)
            began = time.monotonic()
            ends = began + seconds
            pause_s = clients / rate_per_s if rate_per_s else 0.0
            await asyncio.gather(
                *(
                    self._client(exchange, reply_to, ends, pause_s, pause_s * number / clients)
                    for number in range(clients)
                )
            )
            elapsed_s = time.monotonic() - began
        calls = len(self._latencies_s)
        return Measured(calls / elapsed_s, sorted(self._latencies_s), self._errors)

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        future = self._waiting.pop(message.correlation_id or "", None)
        if future is not None:
            future.set_result(message.body)

    async def _client(
        self, exchange: AbstractExchange, reply_to: str, ends: float, pause_s: float, delay_s: float
    ) -> None:
        due = time.monotonic() + delay_s
        while due < ends and time.monotonic() < ends:
            if pause_s:
                await asyncio.sleep(max(due - time.monotonic(), 0))
            began = due if pause_s else time.monotonic()
            answer = json.loads(await self._call(exchange, reply_to))
            self._errors += answer["error"] is not None
            self._latencies_s.append(time.monotonic() - began)
            due = due + pause_s if pause_s else time.monotonic()

    async def _call(self, exchange: AbstractExchange, reply_to: str) -> bytes:
        correlation_id = str(uuid.uuid4())
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = future
        body = json.dumps({"args": [], "kwargs": self._arguments()}).encode()
        message = aio_pika.Message(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            reply_to=reply_to,
            correlation_id=correlation_id,
        )
        await exchange.publish(message, self._method)
        return await asyncio.wait_for(future, ANSWER_TIMEOUT_S)


def aio_pika_calls(amqp_uri: str, method: str, clients: int, seconds: float) -> Measured:
    """The same load through aio-pika's own RPC pattern, both ends of it."""

    async def run() -> Measured:
        latencies_s: list[float] = []
        connection = await aio_pika.connect_robust(amqp_uri)
        async with connection:
            pattern = await RPC.create(await connection.channel())
            began = time.monotonic()

            async def client() -> None:
                while time.monotonic() < began + seconds:
                    called = time.monotonic()
                    await asyncio.wait_for(pattern.call(method, {"n": 1}), ANSWER_TIMEOUT_S)
                    latencies_s.append(time.monotonic() - called)

            await asyncio.gather(*(client() for _ in range(clients)))
            elapsed_s = time.monotonic() - began
        return Measured(len(latencies_s) / elapsed_s, sorted(latencies_s))

    return asyncio.run(run())
