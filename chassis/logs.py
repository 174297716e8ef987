"""Logs as JSON lines on standard error, each with the chain of calls that led to it."""

import logging

from pythonjsonlogger.json import JsonFormatter as BaseFormatter

from chassis.context import current_call


class CallChainFilter(logging.Filter):
    """Adds ``call_chain`` to every record that is written while a call is worked on."""

    def filter(self, record: logging.LogRecord) -> bool:
        chain = current_call.get().chain
        if chain:
            record.call_chain = " > ".join(chain)
        return True


class JsonFormatter(BaseFormatter):
    """One JSON object a line: time, level, logger, message, and the ``extra`` fields."""

    def __init__(self) -> None:
        super().__init__(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )


def log_to_stderr(level: str = "INFO") -> None:
    """Set up the logs of a process that nameko does not start: the gateway, a command."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    handler.addFilter(CallChainFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
