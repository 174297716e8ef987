"""What one worker process serves."""

import ctypes
import multiprocessing
import os
import signal
import warnings

# Said once for each process by nameko, whose classes the chassis names; none runs here.
warnings.filterwarnings("ignore", message="\nEventlet is deprecated")

from chassis import garbage, traces  # noqa: E402 - after the filter
from chassis.logs import log_to_stderr  # noqa: E402
from services.gateway.api.webhooks import LARGER_BODIES  # noqa: E402
from services.gateway.app import BODY_BYTES_MAX, create_app  # noqa: E402
from services.gateway.backend import backend_of  # noqa: E402
from services.gateway.server.wsgi import BufferedWsgi  # noqa: E402
from services.gateway.settings import get_settings  # noqa: E402

_PR_SET_PDEATHSIG = 1
_M_MMAP_THRESHOLD = -3
LARGE_BYTES = 1024 * 1024
"""A piece of memory of this size, such as the 19 MiB of a password's hash, goes back to the system
when it is freed. glibc otherwise raises its own threshold past it and keeps one for each thread."""

_libc = ctypes.CDLL(None)


def application() -> BufferedWsgi:
    """The site. uvicorn calls this once in each worker process, before it serves."""
    _end_with_master()
    _libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
    settings = get_settings()
    log_to_stderr(settings.log_level)
    traces.start("gateway", settings)
    app = create_app(settings)
    garbage.look_rarely()

    def close() -> None:
        backend_of(app).close()
        traces.stop()

    return BufferedWsgi(
        app,
        threads=settings.gateway_threads,
        body_bytes_max=BODY_BYTES_MAX,
        larger_bodies=LARGER_BODIES,
        close=close,
    )


def _end_with_master() -> None:
    """Let the kernel end this process when its master ends, even by SIGKILL.

    An orphan would go on taking requests from the port that the next master wants.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    master = multiprocessing.parent_process()
    if master is not None and os.getppid() != master.pid:
        os.kill(os.getpid(), signal.SIGKILL)
