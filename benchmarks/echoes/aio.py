"""An echo on aio-pika's RPC pattern: ``python -m benchmarks.echoes.aio`` with ``AMQP_URI``."""

import asyncio
import os

from aio_pika import connect_robust
from aio_pika.patterns import RPC


async def echo(*, n: int) -> dict[str, int]:
    return {"n": n}


async def main() -> None:
    connection = await connect_robust(os.environ["AMQP_URI"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=10)
    pattern = await RPC.create(channel)
    await pattern.register("aio", echo, auto_delete=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
