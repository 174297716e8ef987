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
from typing import Any

import psutil
import pytest

from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from tests.conftest import (
    broker,
    databases,
    new_system,
    running_servers,
    scratch,
    service_stack,
)

__all__ = [
    "broker",
    "databases",
    "new_system",
    "postgres",
    "running_servers",
    "scratch",
    "service_stack",
]

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "benchmarks.md"
RESULTS = Path(__file__).parent / "results.json"

STATED = "stated"
BEGIN, END = "<!-- figures -->", "<!-- end of the figures -->"

Record = Callable[..., None]


@pytest.fixture(scope="session")
def postgres(scratch: Path) -> Iterator[Postgres]:
    """The server of the tests, which waits for its disk here, as it does for everybody else."""
    server = start_postgres(scratch / "postgres")
    yield server
    server.stop()


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """The middle of the rounds' ratios: each round measured both, one right after the other."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """``record("measure", 1.42, at_least=1.3, detail="900 against 634 a second")``, or
    ``at_most`` where less is better."""
    rows: dict[str, dict[str, object]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def add(
        measure: str,
        figure: float | str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        detail: str,
        processor_ms: dict[str, float] | None = None,
    ) -> None:
        """With ``processor_ms``, for each process, it goes into the table of processor time."""
        shown = figure if isinstance(figure, str) else f"{figure:.2f}"
        rows[measure] = {
            **({"processor_ms": processor_ms} if processor_ms else {}),
            "figure": shown,
            "at_least": at_least,
            "at_most": at_most,
            "detail": detail,
            "machine": machine(),
            "measured_on": datetime.now(UTC).date().isoformat(),
        }
        print(f"\n{measure}: {shown} (aim: {aim_of(rows[measure])}); {detail}")

    yield add
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    TABLE.write_text(with_figures(TABLE.read_text(), rows))


def machine() -> str:
    """What the figures were measured on."""
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    return f"{platform.machine()}, {psutil.cpu_count()} cores, {memory_gib} GiB, Linux"


def with_figures(page: str, rows: dict[str, dict[str, object]]) -> str:
    """The page with new figures where the old ones stood; what people wrote around them stays."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    ratios = {measure: row for measure, row in rows.items() if "processor_ms" not in row}
    costs = {measure: row for measure, row in rows.items() if "processor_ms" in row}
    tables = table_of_ratios(ratios)
    if costs:
        tables += ["", *table_of_processor_time(costs)]
    return "\n".join([before + BEGIN, *tables, END + after])


def table_of_ratios(rows: dict[str, dict[str, object]]) -> list[str]:
    lines = ["| measure | figure | aim | how it came out | measured on |", "|---|---|---|---|---|"]
    for measure, row in rows.items():
        where = f"{row['measured_on']}, {row['machine']}"
        lines.append(
            f"| {measure} | **{row['figure']}** | {aim_of(row)} | {row['detail']} | {where} |"
        )
    return lines


def aim_of(row: dict[str, Any]) -> str:
    """What was aimed at, and whether it was missed."""
    for sign, bound in (("≥", row.get("at_least")), ("≤", row.get("at_most"))):
        if bound is not None:
            figure = float(row["figure"].replace(",", ""))
            is_met = figure >= bound if sign == "≥" else figure <= bound
            return f"{sign} {bound}" + ("" if is_met else ", missed")
    return STATED


def table_of_processor_time(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Milliseconds for each request, with a column for each process that takes part."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row["processor_ms"]))
    lines = [
        f"| ms of processor for each | sum | {' | '.join(names)} | measured on |",
        "|---|---|" + "---|" * len(names) + "---|",
    ]
    for measure, row in rows.items():
        costs = [f"{row['processor_ms'].get(name, 0):.1f}" for name in names]
        aim = aim_of(row)
        title = measure if aim == STATED else f"{measure} (aim {aim})"
        lines.append(
            f"| {title} | **{row['figure']}** | {' | '.join(costs)} | {row['measured_on']} |"
        )
    return lines
