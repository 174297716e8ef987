"""How gunicorn serves the website.

gthread: each worker process has a few threads, which spend their time waiting for services.
A worker that is told to stop finishes what it is doing first. gunicorn's own access log is
off: the application writes one line for each request, in JSON and without secrets.
"""

import warnings
from typing import Any

from chassis.logs import log_to_stderr
from services.gateway.settings import get_settings

# Said once for each process by nameko, whose classes the chassis names; none runs here.
warnings.filterwarnings("ignore", message="\nEventlet is deprecated")

_settings = get_settings()

bind = f"{_settings.gateway_host}:{_settings.gateway_port}"
worker_class = "gthread"
workers = _settings.gateway_workers
threads = _settings.gateway_threads
backlog = 512
timeout = 60
graceful_timeout = 30
keepalive = 5
max_requests = 0
limit_request_line = 8190
limit_request_fields = 100
forwarded_allow_ips = "127.0.0.1"
accesslog = None
proc_name = "mycelium-gateway"
worker_tmp_dir = None

logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "chassis.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"level": _settings.log_level, "handlers": ["stderr"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True},
        "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": True},
    },
}


def post_fork(_server: Any, _worker: Any) -> None:
    """Each worker process logs for itself, with the chain of calls."""
    log_to_stderr(_settings.log_level)


def worker_exit(_server: Any, worker: Any) -> None:
    """Close the connections to the broker and the database."""
    app = getattr(worker, "wsgi", None)
    frame = getattr(app, "extensions", {}).get("mycelium")
    if frame is not None:
        frame.close()
