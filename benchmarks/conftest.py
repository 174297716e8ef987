"""What all benchmarks share: the servers of the tests, and the table of results.

A benchmark compares two things in one run, in turns, because machines are noisy and differ:
what counts is the ratio. None fails for being slow; the table says what was aimed at.
"""

import json
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil
import pytest

from tests.conftest import (
    broker,
    databases,
    postgres,
    running_servers,
    scratch,
    service_stack,
)

__all__ = ["broker", "databases", "postgres", "running_servers", "scratch", "service_stack"]

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "benchmarks.md"
RESULTS = Path(__file__).parent / "results.json"

Record = Callable[..., None]


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """The middle of the rounds' ratios: each round measured both, one right after the other."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """``record("measure", 1.42, at_least=1.3, detail="900 against 634 a second")``."""
    rows: dict[str, dict[str, object]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def add(
        measure: str, figure: float | str, *, at_least: float | None = None, detail: str
    ) -> None:
        shown = figure if isinstance(figure, str) else f"{figure:.2f}"
        rows[measure] = {
            "figure": shown,
            "at_least": at_least,
            "detail": detail,
            "machine": machine(),
            "measured_on": datetime.now(UTC).date().isoformat(),
        }
        print(f"\n{measure}: {shown} (aim: {at_least or 'stated'}); {detail}")

    yield add
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    TABLE.write_text(as_table(rows))


def machine() -> str:
    """What the figures were measured on."""
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    return f"{platform.machine()}, {psutil.cpu_count()} cores, {memory_gib} GiB, Linux"


def as_table(rows: dict[str, dict[str, object]]) -> str:
    """``docs/benchmarks.md``."""
    lines = [
        "# Benchmarks",
        "",
        "`make bench` measures this again and rewrites the table. Machines are noisy and differ:",
        "what counts is the ratio of two things that one run measured in turns, the median of its",
        "rounds. Client, services, broker and database share the machine's cores.",
        "",
        "The ratio of debits differs most between machines. Two runs on one day came to 1.29 and",
        "1.33, while stock nameko answered 1,229 and 1,667 echoes a second. A machine on which an",
        "earlier version came to 0.72, where this one had 1.02, was not measured again.",
        "",
        "| measure | figure | aim | how it came out | measured on |",
        "|---|---|---|---|---|",
    ]
    for measure, row in rows.items():
        aim = f"≥ {row['at_least']}" if row["at_least"] else "stated"
        where = f"{row['measured_on']}, {row['machine']}"
        lines.append(f"| {measure} | **{row['figure']}** | {aim} | {row['detail']} | {where} |")
    return "\n".join(lines) + "\n"
