"""Warnings at 7, 3 and 1 days of runway on a clock that is set, with the real wallet."""

from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from chassis.bulk import Batch
from chassis.client import RpcClient
from chassis.database import Connected
from contracts.errors import Unavailable
from contracts.topup import GetAutoTopupStates
from contracts.wallet import GetWallets
from services.billing.forecast import runways
from services.billing.forecast.runways import Lookout
from services.billing.models import RunwayRow
from services.billing.service import await_money
from tests.billing.conftest import RULES
from tests.billing.test_forecast import NOON, Steady, Wire, midnight_after
from tests.billing.test_lost_answers import is_a
from tests.billing.test_renewals import BOUGHT, DAY, PRICE, Tenant, month
from tests.billing.test_usage import HOURS, USD
from tests.crashes import Died, dies_at
from tests.locks import done_after
from tests.system import System

RENEWS_ON = month(1).date()


class Watched(Tenant):
    """A tenant who is looked at by the same clock."""

    def __init__(self, stack: System, database: Connected) -> None:
        super().__init__(stack, database)
        self.questions = Wire(self)
        rpc = cast(RpcClient, self.questions)
        self.lookout = Lookout(database, rpc, RULES, lambda: self.now)

    def is_watched(self, until: datetime) -> None:
        """Lives on, and is looked at whenever that is due."""
        while (due_at := self.row().due_at) is not None and due_at <= until:
            self.lives(max(due_at, self.now))
            self.lookout.run()
        self.lives(until)

    def row(self) -> RunwayRow:
        with self.database.read() as session:
            return session.get_one(RunwayRow, self.user_id)

    def changes(self) -> None:
        with self.database.begin() as session:
            runways.look_soon(session, self.now, self.user_id)

    def warned(self) -> list[tuple[str, int, int]]:
        """When, how many days ahead, and how much is lacking."""
        return [
            (event["occurred_at"][:10], event["days"], event["shortfall_micros"])
            for event in self.told("runway_low")
        ]


@pytest.fixture
def tenant(stack: System, database: Connected) -> Watched:
    return Watched(stack, database)


def on(days_before: int) -> str:
    return f"{RENEWS_ON - days_before * DAY}"


def test_it_is_told_7_3_and_1_days_before_and_once_each(tenant: Watched) -> None:
    tenant.deploys()
    tenant.gets(PRICE - 5)

    tenant.is_watched(midnight_after(RENEWS_ON) - timedelta(microseconds=1))

    assert tenant.warned() == [(on(7), 7, 5), (on(3), 3, 5), (on(1), 1, 5)]
    assert {event["short_on"] for event in tenant.told("runway_low")} == {str(RENEWS_ON)}
    since = {datetime.fromisoformat(event["short_at"]) for event in tenant.told("runway_low")}
    assert since == {month(1)}
    assert tenant.told("runway_restored") == []


def test_where_everything_is_covered_nothing_is_told_and_few_looks_are_taken(
    tenant: Watched,
) -> None:
    tenant.deploys()
    tenant.gets(PRICE)

    tenant.is_watched(BOUGHT + DAY)

    assert (tenant.warned(), tenant.told("runway_restored")) == ([], [])
    due_at = tenant.row().due_at
    assert due_at is not None
    assert due_at.date() == RENEWS_ON - 7 * DAY


def test_money_that_comes_makes_it_good_and_the_next_dip_is_told_again(tenant: Watched) -> None:
    tenant.deploys()
    tenant.is_watched(month(1) - 5 * DAY)
    tenant.gets(PRICE)
    with tenant.database.begin() as session:
        assert await_money(session, [tenant.user_id]) == [True]
        runways.look_whether_restored(session, tenant.now, tenant.user_id)
    tenant.is_watched(tenant.now + DAY)
    restored = len(tenant.told("runway_restored"))

    tenant.is_watched(month(2))

    assert restored == len(tenant.told("runway_restored")) == 1
    assert [days for _, days, _ in tenant.warned()] == [7, 7, 3, 1]


def test_a_warning_that_is_skipped_is_not_made_up_for(tenant: Watched) -> None:
    tenant.deploys()
    tenant.now = month(1) - 2 * DAY

    tenant.changes()
    tenant.is_watched(tenant.now + timedelta(hours=1))

    assert [days for _, days, _ in tenant.warned()] == [2]
    assert tenant.row().warned_days == 3


def test_a_part_of_the_money_warns_no_second_time(tenant: Watched) -> None:
    """The first renewal is covered then; the second one is short a few days later."""
    tenant.deploys()
    tenant.now += 4 * DAY
    tenant.deploys()
    tenant.is_watched(month(1) - 2 * DAY)
    tenant.gets(PRICE)
    tenant.changes()

    tenant.is_watched(tenant.now + timedelta(hours=1))

    assert [days for _, days, _ in tenant.warned()] == [7, 3]
    assert tenant.told("runway_restored") == []


def test_that_it_was_suspended_is_no_good_news(tenant: Watched) -> None:
    tenant.deploys()

    tenant.is_watched(month(1) + RULES.grace + 2 * DAY)

    assert (tenant.told("runway_restored"), tenant.row().warned_days) == ([], None)
    assert tenant.row().due_at is None


@pytest.mark.parametrize("when", ["before it was heard", "after it was done"])
def test_a_wallet_that_does_not_answer_is_asked_again(tenant: Watched, when: str) -> None:
    tenant.deploys()
    tenant.now = month(1) - 7 * DAY
    tenant.changes()
    tenant.now += DAY / 24
    tenant.wire.lose(is_a(GetWallets), when)

    tenant.lookout.run()
    silent = tenant.warned()
    tenant.is_watched(tenant.now + timedelta(minutes=2))

    assert (silent, [days for _, days, _ in tenant.warned()]) == ([], [7])


def test_nobody_is_warned_while_it_is_unknown_what_auto_topup_will_do(tenant: Watched) -> None:
    tenant.deploys()
    tenant.now = month(1) - 7 * DAY
    tenant.changes()
    tenant.now += DAY / 24
    tenant.questions.failure, tenant.questions.fails = Unavailable("Away."), GetAutoTopupStates

    tenant.lookout.run()
    silent = tenant.warned()
    tenant.questions.failure = None
    tenant.is_watched(tenant.now + runways.UNKNOWN_AGAIN_AFTER)

    assert (silent, [days for _, days, _ in tenant.warned()]) == ([], [7])


def test_why_auto_topup_does_not_help_is_told(tenant: Watched) -> None:
    tenant.deploys()
    tenant.questions.threshold_micros = 10
    tenant.questions.reason = "The monthly limit."

    tenant.is_watched(month(1) - 6 * DAY)

    (told,) = tenant.told("runway_low")
    assert told["auto_topup_refusal"] == "The monthly limit."


class WatchedUse(Watched, Steady):
    """Somebody who is looked at, and pays by use."""


def test_what_is_charged_by_use_is_looked_at_every_day_and_warned_of(
    stack: System, database: Connected
) -> None:
    tenant = WatchedUse(stack, database)
    tenant.gets(PRICE)
    tenant.uses_hourly(HOURS, 1, NOON, price_micros=0)
    tenant.is_watched(NOON + DAY)
    unused = tenant.row().due_at
    tenant.has_used(NOON + 8 * DAY)
    tenant.gets(2 * 24 * USD - PRICE + 1)
    tenant.changes()

    tenant.is_watched(tenant.now + timedelta(hours=1))

    assert unused is not None
    assert unused.date() == NOON.date() + 2 * DAY
    # At 12:00 of the third day the balance is used up; by its end 12 hours of it are not paid.
    assert [(days, micros) for _, days, micros in tenant.warned()] == [(2, 12 * USD - 1)]


def test_others_are_neither_looked_at_nor_told(
    stack: System, database: Connected, tenant: Watched
) -> None:
    others = [Watched(stack, database) for _ in range(2)]
    for each in (others[0], tenant, others[1]):
        each.deploys()
    before = [other.row().due_at for other in others]

    tenant.changes()
    tenant.gets(PRICE)
    with database.begin() as session:
        runways.look_whether_restored(session, tenant.now, tenant.user_id)

    assert [other.row().due_at for other in others] == before
    assert all(other.warned() == [] for other in others)


def test_a_credit_is_a_reason_to_look_only_for_who_was_warned(tenant: Watched) -> None:
    tenant.deploys()
    before = tenant.row().due_at
    with tenant.database.begin() as session:
        runways.look_whether_restored(session, tenant.now, tenant.user_id)
    unwarned = tenant.row().due_at
    with tenant.database.begin() as session:
        session.execute(
            update(RunwayRow).where(RunwayRow.user_id == tenant.user_id).values(warned_days=7)
        )
        runways.look_whether_restored(session, tenant.now, tenant.user_id)

    assert unwarned == before
    assert tenant.row().due_at == tenant.now + runways.AFTER_A_CHANGE


def leased(tenant: Watched) -> datetime:
    """Somebody looks at this user; until when they have it to themselves."""
    until = tenant.now + runways.DUE.lease
    with tenant.database.begin() as session:
        mine = RunwayRow.user_id == tenant.user_id
        session.execute(update(RunwayRow).where(mine).values(due_at=until))
    return until


def test_a_look_that_something_overtook_says_nothing(tenant: Watched) -> None:
    tenant.deploys()
    tenant.now = month(1) - 7 * DAY
    leased_until = leased(tenant)

    class Overtaking(Wire):
        def call(self, request: Any, timeout_s: float = 10.0) -> Any:
            tenant.now += timedelta(seconds=1)
            tenant.changes()
            return super().call(request, timeout_s)

    rpc = cast(RpcClient, Overtaking(tenant))
    Lookout(tenant.database, rpc, RULES, lambda: tenant.now)._look(tenant.user_id, leased_until)

    assert tenant.warned() == []


@pytest.mark.parametrize("point", ["billing.runway_foretold", "billing.runway_recorded"])
def test_a_look_that_dies_is_taken_again_and_warns_once(
    tenant: Watched, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    tenant.deploys()
    tenant.gets(PRICE - 5)
    tenant.is_watched(BOUGHT + DAY)

    dies_at(monkeypatch, runways, point)
    with pytest.raises(Died):
        tenant.is_watched(month(1) - 5 * DAY)
    tenant.is_watched(month(1) - 5 * DAY)

    assert tenant.warned() == [(on(7), 7, 5)]


def test_two_looks_at_the_same_moment_warn_once(tenant: Watched) -> None:
    """The second waits for the first, which has moved the moment."""
    tenant.deploys()
    tenant.now = month(1) - 7 * DAY
    leased_until = leased(tenant)
    mine = select(RunwayRow).where(RunwayRow.user_id == tenant.user_id).with_for_update()

    def holds(session: Any) -> None:
        row = session.scalars(mine).one()
        row.warned_days, row.due_at = 7, leased_until + DAY

    done_after(tenant.database, holds, lambda: tenant.lookout._look(tenant.user_id, leased_until))

    assert tenant.warned() == []


def test_purchases_together_are_one_row_each_user(database: Connected) -> None:
    users = [UUID(int=number) for number in (3, 1, 3)]
    with database.begin() as session:
        with Batch(session) as writes:
            runways.look_after_purchases(writes, BOUGHT, users)
        found = session.scalars(text("SELECT user_id FROM runways ORDER BY user_id")).all()

    assert found == [UUID(int=1), UUID(int=3)]
