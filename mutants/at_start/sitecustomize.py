"""Notes which lines of the rules run, in the processes that tests start and in the tests' own.

Python imports a module of this name when it starts, where it finds one. A line is one byte of
a file that all processes share, in the row of the test that runs at the time: whatever kills a
process, what it ran is known.
"""

import json
import mmap
import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROW_BYTES = 4
"""The file begins with the number of the row that is written."""


def follow(plan_file: str) -> mmap.mmap:
    """Note every line from now on, as ``plan_file`` says; returns the table."""
    plan = json.loads(Path(plan_file).read_text())
    with Path(plan["table"]).open("r+b") as file:
        table = mmap.mmap(file.fileno(), 0)
    width: int = plan["width"]
    starts: dict[str, int] = plan["starts"]

    def begin(frame: FrameType, _event: str, _argument: Any) -> Any:
        start = starts.get(frame.f_code.co_filename)
        if start is None:
            return None

        def note(frame: FrameType, _event: str, _argument: Any) -> Any:
            row = int.from_bytes(table[:ROW_BYTES], "little")
            table[ROW_BYTES + row * width + start + frame.f_lineno] = 1
            return note

        return note(frame, _event, _argument)

    threading.settrace(begin)
    sys.settrace(begin)
    return table


if "LINES_PLAN" in os.environ:
    follow(os.environ["LINES_PLAN"])
