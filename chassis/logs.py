"""Logs as JSON lines on standard error, each with the chain of calls that led to it and its span.

What fails again and again is told once, and then counted: see :class:`RepetitionFilter`.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from pythonjsonlogger.json import JsonFormatter as BaseFormatter

from chassis import traces
from chassis.clock import ahead
from chassis.context import current_call

FIRST_PAUSE_S, PAUSE_S_MAX = 1.0, 300.0
FORGOTTEN_AFTER_S = 600.0
REMEMBERED_MAX = 1000


class CallChainFilter(logging.Filter):
    """Adds ``call_chain`` to every record that is written while a call is worked on, and
    ``trace_id`` and ``span_id`` where it is part of a trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        call = current_call.get()
        if call.chain:
            record.call_chain = " > ".join(call.chain)
        if call.trace:
            vars(record).update(traces.ids(call.trace))
        return True


@dataclass
class _Told:
    """Something that passed the filter; ``untold`` counts how often it happened since."""

    at_s: float
    seen_s: float
    pause_s: float = FIRST_PAUSE_S
    untold: int = 0


class RepetitionFilter(logging.Filter):
    """Lets a warning or an error pass once, and then its count, at growing intervals.

    The same line with the same fields passes again after 1, 2, 4 … 300 s, with ``repeated``: how
    often it happened since it last passed. A line with other fields passes; but where its error
    was told before, with the stack, ``failure`` names it in one line. What did not happen for
    ten minutes is told in full again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._told: OrderedDict[Hashable, _Told] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now_s = self._clock()
        failure = _failure_in(record)
        line = (record.name, record.getMessage(), failure, _fields_of(record))
        with self._lock:
            is_known_failure = failure is not None and self._recall(failure, now_s) is not None
            told = self._recall(line, now_s)
        if told is not None:
            told.untold += 1
            if now_s < told.at_s + told.pause_s:
                return False
            record.repeated, told.untold = told.untold, 0
            told.at_s, told.pause_s = now_s, min(told.pause_s * 2, PAUSE_S_MAX)
        if is_known_failure:
            _shorten(record)
        return True

    def _recall(self, key: Hashable, now_s: float) -> _Told | None:
        """What was told of this before; from now on it is remembered."""
        told = self._told.pop(key, None)
        if told is not None and now_s > told.seen_s + FORGOTTEN_AFTER_S:
            told = None
        self._told[key] = told or _Told(now_s, now_s)
        self._told[key].seen_s = now_s
        while len(self._told) > REMEMBERED_MAX:
            self._told.popitem(last=False)
        return told


_ADDED = {"message", "asctime", "call_chain", "trace_id", "span_id"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | _ADDED


def _fields_of(record: logging.LogRecord) -> tuple[tuple[str, str], ...]:
    """What a caller put into ``extra``."""
    own = ((name, str(value)) for name, value in vars(record).items() if name not in _STANDARD)
    return tuple(sorted(own))


def _failure_in(record: logging.LogRecord) -> Hashable:
    """The error of a record, by its type and the line that raised it."""
    if not record.exc_info or record.exc_info[1] is None:
        return None
    _, error, place = record.exc_info
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = (place.tb_frame.f_code.co_filename, place.tb_lineno) if place is not None else ()
    return (type(error), *where)


def _shorten(record: logging.LogRecord) -> None:
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        first_line = str(error).partition("\n")[0]
        record.failure = f"{type(error).__name__}: {first_line}"[:500]
    record.exc_info = record.exc_text = None


class JsonFormatter(BaseFormatter):
    """One JSON object a line: time, level, logger, message, and the ``extra`` fields."""

    def __init__(self) -> None:
        super().__init__(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )

    def converter(self, seconds: float | None) -> time.struct_time:
        """The time of a line, by the clock that everything else here lives by."""
        return time.localtime((seconds or 0.0) + ahead().total_seconds())


def log_to_stderr(level: str = "INFO") -> None:
    """Set up the logs of a process that nameko does not start: the gateway, a command."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RepetitionFilter())
    handler.addFilter(CallChainFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
