"""A year of many users in minutes, while services are killed and the database restarts.

The wallet, the catalog and two billings are processes; the billings live by a clock that jumps some
days at a time. All users have something that is renewed; between two jumps some of them buy,
resize, stop, start, cancel, give back, and use what is measured. What each should have paid by the
end is reckoned here, from the list of prices and the answers they got.
"""

import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chassis.clock import utc_now
from chassis.database import Connected, connect
from contracts.errors import DeadlineExceeded, Overloaded, Unavailable
from contracts.wallet import (
    COMMANDS_MAX,
    BatchCommand,
    GetWallet,
    HouseAccount,
    PostBatch,
    Verify,
)
from deploy.local.broker import Node
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from deploy.local.processes import ROOT
from deploy.local.startup import wait_for
from tests.billing.reckoning import HOUR, RETRY, UNFINISHED, User, create_sizes, wrongly_charged
from tests.patience import eventually
from tests.system import System

USERS = int(os.environ.get("SOAK_USERS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
DAY = timedelta(days=1)
YEAR = 365 * DAY
CALLERS = 8
ACTING_MAX = 40
"""So many users act between two jumps at most: more make a year longer, and no other."""
KILLED = 0.3
"""How often a service is killed while the days of one jump are worked off: a billing, the wallet
or the catalog."""

LEASE = timedelta(seconds=61)
DUE = """
SELECT (SELECT count(*) FROM deployments WHERE due_at <= :now)
    + (SELECT count(*) FROM usage_wallets WHERE due_at <= :now)
    + (SELECT count(*) FROM refunds WHERE due_at <= :now)
    + (SELECT count(*) FROM purchases WHERE due_at <= :now)
"""
NO_ANSWER = (DeadlineExceeded, Unavailable, Overloaded)


@pytest.fixture
def own_postgres(scratch: Path) -> Iterator[Postgres]:
    """A server of its own, because it is restarted."""
    server = start_postgres(scratch / f"postgres-{uuid4().hex[-8:]}")
    yield server
    server.stop()


class World:
    """The processes, and the clock by which the billings live."""

    def __init__(self, postgres: Postgres, broker: Node, directory: Path) -> None:
        self.postgres = postgres
        names = ("wallet", "catalog", "billing")
        self.stack = System(postgres, broker, directory, names, {"CALL_TIMEOUT_S": "5"})
        self.clock = directory / "clock"
        self._lock = threading.Lock()
        self.short: dict[UUID, datetime] = {}
        self.killed: Counter[str] = Counter()
        self._sets_clock(timedelta())
        process = self.stack.process("billing")
        module = ["-m", "tests.faults.living_ahead", *process.argv[2:]]
        self.stack.database_url("billing")
        for name in ("wallet", "catalog"):
            self.stack.start(name)
        self.billings = [
            Child(
                f"billing-{number}",
                [sys.executable, "-W", "ignore", *module],
                {**process.environment, "HEALTH_PORT": "0", "CLOCK_FILE": str(self.clock)},
                directory / f"billing-{number}.log",
                directory=ROOT,
            )
            for number in range(2)
        ]
        for child in self.billings:
            child.start()
        self.database: Connected = connect(self.stack.database_url("billing"))

    def moves_clock(self, by: timedelta) -> None:
        with self._lock:
            self._sets_clock(self.ahead + by)

    def _sets_clock(self, ahead: timedelta) -> None:
        self.ahead = ahead
        draft = self.clock.with_suffix(".new")
        draft.write_text(str(ahead.total_seconds()))
        draft.replace(self.clock)

    @property
    def now(self) -> datetime:
        return utc_now() + self.ahead

    def kills(self, chance: random.Random) -> None:
        """One of the services dies amid the work of the billings."""
        left = self._counts(DUE)
        wait_for(lambda: self._counts(DUE) < left, 5, 0.01)
        others = [self.stack.child(name) for name in ("wallet", "catalog")]
        child = chance.choice([*self.billings, *others])
        child.kill()
        self.killed[child.name] += 1
        child.start()

    def insists(self, request: Any) -> Any:
        """The answer, asked for until it comes."""

        def ask() -> Any:
            try:
                return self.stack.rpc.call(request, timeout_s=10)
            except NO_ANSWER:
                return None

        return eventually(ask)

    def hears_of_money(self, user_id: UUID) -> None:
        """Billing hears of it from the wallet."""

    def gives_credits(self, users: list[User]) -> None:
        """To all of them, as many at once as one call takes."""
        commands = [BatchCommand.of(user.credit) for user in users]
        for start in range(0, len(commands), COMMANDS_MAX):
            done = self.insists(PostBatch(commands=commands[start : start + COMMANDS_MAX]))
            assert [each.error for each in done.results if each.error] == []

    def asks(self, statement: str) -> list[Any]:
        with self.database.read() as session:
            now = self.now
            # Others act meanwhile.
            short = [each for each, until in list(self.short.items()) if until > now]
            return list(session.execute(text(statement), {"now": now, "short": short}))

    def fees(self) -> int:
        """What the marketplace has kept."""
        wallet = connect(self.stack.database_url("wallet"))
        with wallet.read() as session:
            found = session.scalar(
                text(
                    "SELECT sum(amount_micros) FROM entries JOIN accounts USING (account_id)"
                    " WHERE house_name = :name"
                ),
                {"name": HouseAccount.FEES},
            )
        wallet.engine.dispose()
        return int(found or 0)

    def works_off(self) -> None:
        """Until nothing is due by the clock, and nothing is left undone."""
        self._waits_until_nothing_is_due()
        while self._counts(UNFINISHED):
            # Whoever died has left leases, which run out.
            self.moves_clock(LEASE)
            self._waits_until_nothing_is_due()

    def waits(self) -> None:
        self.moves_clock(LEASE)
        self._waits_until_nothing_is_due()

    def _waits_until_nothing_is_due(self) -> None:
        last = self._counts(DUE)
        while last:
            # However much it is: as long as it gets less, it is worked off.
            last = eventually(lambda: self._counts(DUE), lambda seen, last=last: seen < last)

    def _counts(self, statement: str) -> int:
        return int(self.asks(statement)[0][0])

    def ends(self) -> None:
        for child in self.billings:
            child.kill()
        self.database.engine.dispose()
        self.stack.close()


@pytest.fixture
def world(own_postgres: Postgres, broker: Node, scratch: Path) -> Iterator[World]:
    directory = scratch / f"year-{uuid4().hex[-8:]}"
    directory.mkdir()
    world = World(own_postgres, broker, directory)
    yield world
    world.ends()


def each(users: list[User], act: Callable[[User], object]) -> None:
    """A few users at a time."""
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(act, users))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_year_of_many_users_costs_what_prices_and_records_say(world: World) -> None:
    chance, seller_id = random.Random(SEED), uuid4()
    sizes = create_sizes(world, seller_id)
    users = [User(world, sizes, random.Random(chance.random())) for _ in range(USERS)]
    world.gives_credits(users)
    each(users, User.buys)
    is_restarted = False
    acting = min(max(USERS // 5, 1), ACTING_MAX)
    while world.ahead < YEAR:
        world.moves_clock(chance.randint(1, 9) * DAY)
        if chance.random() < KILLED:
            world.kills(chance)
        if world.ahead > YEAR / 2 and not is_restarted:
            is_restarted = True
            world.postgres.stop()
            world.postgres.start()
        world.works_off()
        now = world.now
        for user in users:
            user.lives(now)
        each(chance.sample(users, acting), User.acts)
    # The last hour is charged, what was corrected too late for the hour before, and who was frozen.
    for while_passes in (RETRY, 2 * HOUR):
        world.moves_clock(while_passes)
        world.works_off()
        for user in users:
            user.lives(world.now)

    check(world, users, seller_id)
    print(f"killed: {dict(world.killed)}")


def check(world: World, users: list[User], seller_id: UUID) -> None:
    assert wrongly_charged(users) == []
    overlapping = world.asks(
        "SELECT a.deployment_id FROM periods AS a JOIN periods AS b USING (deployment_id)"
        " WHERE a.kind = 'month' AND b.kind = 'month' AND a.status = b.status"
        " AND a.status = 'paid' AND a.starts_at < b.starts_at AND a.ends_at > b.starts_at"
    )
    assert overlapping == []
    # What the seller and the marketplace have is what everybody paid.
    seller_micros = world.stack.rpc.call(GetWallet(user_id=seller_id)).balance_micros
    fees_micros = world.fees()
    assert seller_micros + fees_micros == sum(user.owes for user in users)
    assert world.stack.rpc.call(Verify()).clean
