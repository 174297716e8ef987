"""A wire between a process and a server, that can be slow, silent or cut."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

from deploy.local.startup import free_port

CHUNK_BYTES = 65_536
STARTS_WITHIN_S = 5


class Wire:
    """Listens on ``port`` of 127.0.0.1, and carries what comes to ``target_port`` and back.

    ``latency_s`` is what each piece waits, on its way there and on its way back.
    """

    def __init__(self, target_port: int) -> None:
        self.port, self._target_port = free_port(), target_port
        self.latency_s = 0.0
        self.is_cut = False
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(
            asyncio.start_server(self._connected, "127.0.0.1", self.port)
        )

    def cut(self) -> None:
        """Hang up on everybody; whoever comes back is hung up on until :meth:`mend`."""
        self.is_cut = True
        self._loop.call_soon_threadsafe(self._hang_up)

    def silence(self) -> None:
        """Carry nothing and close nothing."""
        self._loop.call_soon_threadsafe(self._may_speak.clear)

    def mend(self) -> None:
        """Carry again. Those who were kept in silence are hung up on, as behind a dead router."""
        self.latency_s, self.is_cut = 0.0, False
        if not self._may_speak.is_set():
            self._loop.call_soon_threadsafe(self._hang_up)
            self._loop.call_soon_threadsafe(self._may_speak.set)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            self._hang_up()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STARTS_WITHIN_S)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STARTS_WITHIN_S)

    def _hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of ours: asyncio's own complains where it is cancelled.
        self._tasks.add(task := asyncio.ensure_future(self._serves(reader, writer)))
        task.add_done_callback(self._tasks.discard)

    async def _serves(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        ways = [
            asyncio.ensure_future(self._carry(reader, far_writer)),
            asyncio.ensure_future(self._carry(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            # What the one that ended sent last still arrives.
            await asyncio.wait(ways, timeout=0.5 + self.latency_s)
        finally:
            for way in ways:
                way.cancel()
            self._writers -= ends
            for end in ends:
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(CHUNK_BYTES):
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                await self._may_speak.wait()
                writer.write(piece)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
