"""What the services cost while nobody does anything: transactions and processor time a minute."""

import time
from pathlib import Path

import pytest
from sqlalchemy import text

from benchmarks.conftest import Record
from benchmarks.replicas import replicas
from benchmarks.site.processor import used_s
from chassis.database import connect
from deploy.local.child import Child
from deploy.parts import DATABASES, LISTENERS, PROCESSES
from tests.conftest import StackFactory
from tests.system import System

WATCHED_S = 60
SETTLES_AFTER_S = 75
"""What a start sets in motion has come to rest by then."""
_ENDED = text(
    "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
)


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    return service_stack(*PROCESSES)


def measure_idle_services_of_one_and_of_two_replicas(
    stack: System, record: Record, tmp_path: Path
) -> None:
    children = {name: stack.child(name) for name in PROCESSES if name != "sandbox"}
    _record(record, "one replica", stack, list(children.values()))
    with replicas(stack, LISTENERS, tmp_path) as more:
        _record(record, "two replicas", stack, [*children.values(), *more])


def _record(record: Record, of: str, stack: System, children: list[Child]) -> None:
    time.sleep(SETTLES_AFTER_S)
    before, busy_s = _transactions(stack), _processor_s(children)
    time.sleep(WATCHED_S)
    after = _transactions(stack)
    a_minute = {name: after[name] - before[name] for name in before}
    processor_s = _processor_s(children) - busy_s
    record(
        f"Idle services, {of}: transactions a minute",
        str(sum(a_minute.values())),
        detail=f"{', '.join(f'{name} {count}' for name, count in a_minute.items())};"
        f" {processor_s:.1f} s of processor a minute by {len(children)} processes",
    )


def _transactions(stack: System) -> dict[str, int]:
    """How many ended in each database so far, either way."""
    counts = {}
    for name in DATABASES:
        database = connect(stack.database_url(name))
        with database.read() as session:
            counts[name] = session.scalar(_ENDED) or 0
        database.engine.dispose()
    return counts


def _processor_s(children: list[Child]) -> float:
    # By number: replicas share their names.
    return sum(used_s({str(child.pid): child.pid for child in children if child.pid}).values())
