"""New connections go to the worker that holds the fewest.

All workers listen on one socket. The one that wakes first would take all that wait: of fifty
connections that a proxy keeps, forty and more stay with one process and its one interpreter, while
the other processor idles. Here each takes one at a time, and leaves the next to a worker that holds
fewer. Where that one does not take it within ``LEAVES_FOR_S``, because it hangs or is gone, it is
taken all the same.

How many each worker holds stands in a file that all of them have in memory, one place for each.
A place is whose who holds the lock on its byte, which the kernel takes from a process that ends.
"""

import asyncio
import fcntl
import logging
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from services.gateway.server.connections import Connection

log = logging.getLogger(__name__)

LEAVES_FOR_S = 0.01
RESTS_FOR_S = 1.0
"""After the system had no file or no memory for one more."""

FILE = "MYCELIUM_CONNECTIONS_FILE"
"""The environment variable that names the file."""

PLACES = 128
"""Twice as many as there can be workers: new ones start before the old ones end."""
_NOBODY = -1
_BYTES = 4


class Held:
    """How many connections this worker and the others hold."""

    def __init__(self, path: Path) -> None:
        # Closed by the end of the process, and the lock with it.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, PLACES * _BYTES)
        self._counts = memoryview(mmap.mmap(self._file, PLACES * _BYTES)).cast("i")
        self._place = self._take_place()
        self._counts[self._place] = 0

    def add(self, number: int) -> None:
        self._counts[self._place] += number

    def leave(self) -> None:
        """Take no more."""
        self._counts[self._place] = _NOBODY

    def is_more_than_another(self) -> bool:
        """Whether some other worker holds fewer."""
        mine = self._counts[self._place]
        return any(0 <= count < mine for count in self._counts.tolist())

    def _take_place(self) -> int:
        """The first place that is free. What those left who ended without a word is removed."""
        mine = None
        for place in range(PLACES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                continue
            self._counts[place] = _NOBODY
            if mine is None:
                mine = place
            else:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        if mine is None:
            raise RuntimeError(f"more than {PLACES} workers")
        return mine


class SharedListener:
    """What uvicorn takes for its server, on one listening socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        new: Callable[[], "Connection"],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._new = new
        self._held = Held(Path(os.environ[FILE]))
        self._tasks: set[asyncio.Task[Any]] = set()
        self._later: asyncio.TimerHandle | None = None
        listener.settimeout(0)
        self._watch()

    def close(self) -> None:
        self._rest()
        self._held.leave()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _watch(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener, self._take_my_share)

    def _rest(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()

    def _take_my_share(self) -> None:
        while not self._held.is_more_than_another():
            if not self._take():
                return
        self._rest()
        self._later = self._loop.call_later(LEAVES_FOR_S, self._take_what_was_left)

    def _take_what_was_left(self) -> None:
        self._watch()
        self._take()

    def _take(self) -> bool:
        """Take one connection; False if there is none."""
        try:
            taken, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return False
        except OSError as error:
            log.error("no connection can be taken at the moment", extra={"error": str(error)})
            self._rest()
            self._later = self._loop.call_later(RESTS_FOR_S, self._watch)
            return False
        taken.settimeout(0)
        self._held.add(1)
        task = self._loop.create_task(self._begin(taken))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _begin(self, taken: socket.socket) -> None:
        connection = self._new()
        connection.ends_with = self._end
        try:
            await self._loop.connect_accepted_socket(lambda: connection, taken)
        except OSError:
            # Its client has left already.
            taken.close()
            self._end()

    def _end(self) -> None:
        self._held.add(-1)


class Loop(uvloop.Loop):
    """uvloop's, whose server leaves connections to other workers."""

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], "Connection"], *, sock: socket.socket, **_: Any
    ) -> SharedListener:
        return SharedListener(self, sock, protocol_factory)
