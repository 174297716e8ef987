"""The master process: it holds the port, and keeps the worker processes running.

SIGTERM stops it once what is in hand was answered, SIGHUP replaces the workers one by one.
"""

import os
import resource
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Config
from uvicorn.supervisors.multiprocess import Multiprocess

from services.gateway.server import sharing
from services.gateway.settings import GatewaySettings, get_settings

STOP_TIMEOUT_S = 30
HANGING_AFTER_S = 30
"""A worker whose interpreter does not answer for so long is ended and replaced."""

BACKLOG = 1024
KEEP_ALIVE_S = 5
OTHER_FILES = 512


def main() -> int:
    settings = get_settings()
    _allow_open_files(settings.gateway_connections + OTHER_FILES)
    address = (settings.gateway_host, settings.gateway_port)
    try:
        # Listening from here on, so that who comes while workers start waits a little.
        listener = socket.create_server(address, backlog=BACKLOG)
    except OSError as error:
        print(f"The website cannot listen on {address[0]}:{address[1]}: {error}", file=sys.stderr)
        return 1
    with TemporaryDirectory(prefix="mycelium-metrics-") as folder:
        # Each worker counts in files of its own; services/gateway/metrics.py adds them up.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        os.environ[sharing.FILE] = str(Path(folder) / "connections")
        Master(_configuration(settings), [listener]).run()
    return 0


class Master(Multiprocess):
    """Stops listening before its workers do: nobody new is let in only to be cut off."""

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._counted: set[int] = set()
        """The processes of workers that /metrics adds up."""

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        there = {worker.pid for worker in self.processes if worker.pid is not None}
        for pid in self._counted - there:
            # What it had in hand, nobody has in hand any more.
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
        self._counted = there

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def _configuration(settings: GatewaySettings) -> Config:
    return Config(
        "services.gateway.server.worker:application",
        factory=True,
        workers=settings.gateway_workers,
        loop="services.gateway.server.sharing:Loop",
        # Named, not imported: the workers alone need the website, whose import takes a second.
        http="services.gateway.server.connections:Connection",
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        timeout_worker_healthcheck=HANGING_AFTER_S,
        # The application writes one line for each request, in JSON and without secrets, and
        # knows how many proxies to believe.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_config=_logs(settings.log_level),
    )


def _logs(level: str) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "chassis.logs.JsonFormatter"}},
        "filters": {"repetitions": {"()": "chassis.logs.RepetitionFilter"}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "filters": ["repetitions"],
            }
        },
        "root": {"level": level, "handlers": ["stderr"]},
    }


def _allow_open_files(count: int) -> None:
    """Raise this process's limit to what it may use; each connection takes a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
