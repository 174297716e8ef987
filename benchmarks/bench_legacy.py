"""The migration out of the old system: against one call at a time, its memory, and who else waits.

``LEGACY_USERS`` is how many are moved, with 10 old transactions each.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread
from uuid import UUID, uuid4

import psutil
import pytest
from sqlalchemy import select, update

from benchmarks.bench_wallet import wallet
from benchmarks.conftest import Record
from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected, connect
from contracts.wallet import Credit, Debit
from deploy.local.processes import ROOT
from services.legacy.examples import examples, write
from services.legacy.models import LineRow
from services.legacy.moving import running
from services.legacy.moving.work import Crew, Progress
from tests.system import System

__all__ = ["wallet"]

USERS = int(os.environ.get("LEGACY_USERS", "100000"))
ONE_BY_ONE = 500
CALLS = 400
PAUSE_S = 0.01
MIB = 2**20


@pytest.fixture(scope="module")
def stack(wallet: System) -> System:
    return wallet


@pytest.fixture(scope="module")
def database(stack: System) -> Iterator[Connected]:
    connected = connect(stack.database_url("legacy"), pool_size=4)
    yield connected
    connected.engine.dispose()


class Watched:
    """The operator's command in a process of its own, its time, its processor time and its largest
    memory."""

    def __init__(self, stack: System, *arguments: str) -> None:
        environment = dict(stack.process("legacy").environment)
        environment |= {
            "DATABASE_URL": stack.database_url("legacy"),
            "AMQP_URI": stack.vhost.uri("legacy"),
        }
        command = [sys.executable, "-W", "ignore", "-m", "services.legacy.move", *arguments]
        began = time.monotonic()
        child = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.memory_mib = self.processor_ms = 0.0
        watched = psutil.Process(child.pid)
        while child.poll() is None:
            with suppress(psutil.Error):
                self.memory_mib = max(self.memory_mib, watched.memory_info().rss / MIB)
                used = watched.cpu_times()
                self.processor_ms = 1_000 * (used.user + used.system)
            time.sleep(0.1)
        self.seconds = time.monotonic() - began
        self.said, _ = child.communicate()
        assert child.returncode in (0, 1), self.said


def measure_moving_everybody(
    stack: System, database: Connected, tmp_path: Path, record: Record
) -> None:
    """Plan and run by the operator's command, with nobody else there; then some more beside
    somebody who pays all the while; then as many as fit into a while, one by one."""
    beside = USERS // 5
    write(tmp_path, examples(USERS + beside + ONE_BY_ONE, faults=0.0), as_lines=True)
    planned = Watched(stack, "plan", str(tmp_path), "--rate", "0.1")
    plan_id = UUID(planned.said.split()[1])
    keep(database, plan_id, beside, "beside others")
    keep(database, plan_id, ONE_BY_ONE, "one by one")
    moved = Watched(stack, "run", str(plan_id))
    rate = USERS / moved.seconds
    alone = p99(stack, lambda: False, CALLS)
    release(database, "beside others")
    waited, over = [], Event()
    asking = Thread(target=lambda: waited.append(p99(stack, over.is_set, None)))
    asking.start()
    moved_beside = Watched(stack, "run", str(plan_id))
    over.set()
    asking.join()
    release(database, "one by one")
    single, calls = one_by_one(stack, database, plan_id)
    record(
        "People moved out of the old system ÷ the same by one call at a time",
        rate / single,
        at_least=10,
        detail=f"{rate:,.0f} against {single:,.0f} a second ({calls:,.0f} are bare calls of"
        f" `credit`); {USERS:,} with 10 old transactions each; {moved.processor_ms / USERS:.2f} ms"
        f" of the command's processor for each; memory {moved.memory_mib:.0f} MiB at most (aim:"
        " 200)",
    )
    record(
        "A plan of the old files, users a second",
        f"{(USERS + beside + ONE_BY_ONE) / planned.seconds:,.0f}",
        detail=f"memory {planned.memory_mib:.0f} MiB at most (aim: 200)",
    )
    record(
        "p99 of a debit while people are moved ÷ without",
        f"{waited[0] / alone:.2f}",
        at_most=2,
        detail=f"{waited[0] * 1000:.0f} against {alone * 1000:.0f} ms;"
        f" {beside / moved_beside.seconds:,.0f} people a second meanwhile",
    )


def keep(database: Connected, plan_id: UUID, count: int, why: str) -> None:
    """Have so many not be moved yet."""
    some = select(LineRow.line_id).where(LineRow.plan_id == plan_id, LineRow.conflicts == [])
    with database.begin() as session:
        session.execute(
            update(LineRow)
            .where(LineRow.line_id.in_(some.limit(count)))
            .values(conflicts=[why])
            .execution_options(synchronize_session=False)
        )


def release(database: Connected, why: str) -> None:
    with database.begin() as session:
        session.execute(update(LineRow).where(LineRow.conflicts == [why]).values(conflicts=[]))


def one_by_one(stack: System, database: Connected, plan_id: UUID) -> tuple[float, float]:
    """People a second of the rest, with one worker and one person in each call; and how many
    payments a second one caller makes who does nothing else."""
    rpc = RpcClient(stack.vhost.uri("legacy"), "legacy")
    crew = Crew(database, rpc, utc_now, workers=1, batch=1)
    running.begin(crew, plan_id)
    progress, began = Progress(), time.monotonic()
    running.run(crew, plan_id, Decimal("0.1"), progress)
    single = progress.done / (time.monotonic() - began)
    began = time.monotonic()
    for _ in range(ONE_BY_ONE):
        stack.rpc.call(
            Credit(
                idempotency_key=str(uuid4()), user_id=uuid4(), amount_micros=1, description="one"
            )
        )
    calls = ONE_BY_ONE / (time.monotonic() - began)
    rpc.close()
    return single, calls


def p99(stack: System, is_over: Callable[[], bool], calls: int | None) -> float:
    """Of debits of somebody else, one after the other with a pause."""
    user_id = uuid4()
    stack.rpc.call(
        Credit(
            idempotency_key=str(uuid4()), user_id=user_id, amount_micros=10**9, description="rich"
        )
    )
    seconds: list[float] = []
    while not is_over() and (calls is None or len(seconds) < calls):
        began = time.monotonic()
        stack.rpc.call(
            Debit(idempotency_key=str(uuid4()), user_id=user_id, amount_micros=1, description="x")
        )
        seconds.append(time.monotonic() - began)
        time.sleep(PAUSE_S)
    return quantiles(seconds, n=100)[-1]
