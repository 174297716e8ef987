"""A service on a clock that a file sets, for a year that passes in minutes.

``CLOCK_FILE`` holds how many seconds ahead of the world it lives, which may be negative; its timers
look ``TIMERS_FASTER`` times as often, ten times unless that says otherwise.
"""

import eventlet

eventlet.monkey_patch()

import os  # noqa: E402
from datetime import datetime, timedelta  # noqa: E402
from pathlib import Path  # noqa: E402

from nameko.cli.main import main  # noqa: E402

from chassis import clock, timer  # noqa: E402

FASTER = float(os.environ.get("TIMERS_FASTER", "10"))


def live_ahead(file: Path) -> None:
    """Everything that is imported after this reads the clock of the file."""
    present, timed = clock.utc_now, timer.timer

    def utc_now() -> datetime:
        return present() + timedelta(seconds=float(file.read_text()))

    def often(interval_s: float, asleep_s: float | None = None) -> object:
        return timed(interval_s / FASTER, asleep_s and asleep_s / FASTER)

    clock.utc_now = utc_now
    timer.timer = often  # type: ignore[assignment]


if __name__ == "__main__":
    live_ahead(Path(os.environ["CLOCK_FILE"]))
    main()
