"""A process that the runner started, and that does not outlive it."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# When the runner itself dies, even by SIGKILL, the kernel sends its children this signal.
# `setpriv` belongs to util-linux, which every Debian system has.
_SETPRIV = shutil.which("setpriv")
# A runner that died before its child was tied to it has left the child to another parent.
_UNLESS_ORPHANED = ("/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')

LOG_BYTES_MAX = 20_000_000


def tied_to_parent(argv: Sequence[str], death_signal: str) -> list[str]:
    """The same command, signalled by the kernel when this process, which starts it, dies."""
    if _SETPRIV is None:
        return list(argv)
    tie = (_SETPRIV, "--pdeathsig", death_signal, "--")
    return [*tie, *_UNLESS_ORPHANED, str(os.getpid()), *argv]


class Child:
    """One process: started with its own environment, its output in a file.

    It gets a session of its own, so that Ctrl-C in the terminal reaches the runner only, which
    then stops its children in the right order.

    Start it from the main thread: the kernel ties a child to the *thread* that made it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        log_path: Path,
        *,
        directory: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: str = "KILL",
        before_start: Callable[[], None] | None = None,
    ) -> None:
        """``death_signal`` is what it gets when the runner was killed. Everything of ours lives
        through a crash, and a service that is asked to stop waits for a broker that is gone.

        ``before_start`` removes what an earlier one that was killed may have left.
        """
        self.name = name
        self.argv = list(argv)
        self.environment = dict(environment)
        self.log_path = log_path
        self._directory = directory
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._before_start = before_start
        self._process: subprocess.Popen[bytes] | None = None
        self._is_asked_to_stop = False

    def start(self) -> None:
        """Start it; its output is appended to ``log_path``."""
        self._is_asked_to_stop = False
        if self._before_start is not None:
            self._before_start()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.bound_log()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                tied_to_parent(self.argv, self._death_signal),
                env=self.environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended: a status, a negative signal number, or None while it runs."""
        return self._process.poll() if self._process is not None else None

    def signal_stop(self) -> None:
        """Ask it to stop, without waiting. It is asked once: many take a second signal for
        an order to drop everything."""
        if self._process is not None and self.is_running and not self._is_asked_to_stop:
            self._is_asked_to_stop = True
            self._process.send_signal(self._stop_signal)

    def stop(self, timeout_s: float = 15.0) -> None:
        """Ask it to stop, wait, and end it and all that it started when it takes too long."""
        if self._process is None:
            return
        self.signal_stop()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and all that it started at once, as a crash would (SIGKILL)."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def bound_log(self) -> None:
        """Past ``LOG_BYTES_MAX`` the output so far moves to ``….log.1``, over what was there.

        The process goes on writing to the same file, at its end wherever that is by then. What
        it writes at this very moment is lost.
        """
        with contextlib.suppress(FileNotFoundError):
            if self.log_path.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(self.log_path, self.log_path.with_name(self.log_path.name + ".1"))
                os.truncate(self.log_path, 0)

    def tail(self, lines: int = 25) -> str:
        """The end of its output."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 32_768))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])
