"""Months on a clock that is set, with the real wallet: each is charged once, or the ladder
begins."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import count, pairwise
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.database import Connected
from chassis.instruments import REGISTRY
from contracts.billing import (
    CancelDeployment,
    CancelWhen,
    ChangeCause,
    Deployment,
    DeploymentStatus,
    GetDeployment,
    RenameDeployment,
    ReportDeployment,
    StartDeployment,
    StopDeployment,
)
from contracts.errors import (
    AccountFrozen,
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
)
from contracts.messages import MAX_AMOUNT_MICROS
from contracts.wallet import (
    CloseKey,
    Credit,
    DebitAll,
    Freeze,
    GetWallet,
    GetWallets,
    OpenAccount,
    Refund,
    Statement,
    TransactionKind,
    Unfreeze,
)
from services.billing.deployments import charge_limit, commands, periods, shortages
from services.billing.deployments.lifecycle import report_deployment
from services.billing.deployments.months import cost_micros, month_end, one_month_after
from services.billing.deployments.queries import get_deployment
from services.billing.models import DeploymentRow, PeriodRow
from services.billing.purchases import lifecycle
from services.billing.renewals import plain, renewals, rungs, unasked
from services.billing.renewals.catching_up import CaughtUp
from services.billing.renewals.renewals import Renewals, money_came
from services.billing.service import await_money
from services.billing.settings import BillingSettings
from tests.billing.conftest import EXTERNAL, RULES, at, emptied, quoted, recorded
from tests.billing.test_lost_answers import LOST, Wire, is_a
from tests.drawn import drawn
from tests.locks import done_after, held
from tests.system import System

Status = DeploymentStatus
PRICE = 31_000_000
BOUGHT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
DAY = timedelta(days=1)


class Tenant:
    """A user whose deployments are renewed by the clock that the test sets."""

    def __init__(self, stack: System, database: Connected, rules: BillingSettings = RULES) -> None:
        self.user_id = uuid4()
        self.database = database
        self.now = BOUGHT
        self.wire = Wire(stack.rpc)
        self.rules = rules
        self.renewals = Renewals(database, cast(RpcClient, self.wire), rules, lambda: self.now)
        self._rpc = stack.rpc
        self._rpc.call(OpenAccount(idempotency_key=f"open:{self.user_id}", user_id=self.user_id))

    def deploys(self, price_micros: int = PRICE, quantity: int = 1, **more: Any) -> list[UUID]:
        lines = quoted(price_micros, quantity, **more)
        claimed = recorded(self.database, lines, user_id=self.user_id, now=self.now)
        with self.database.begin() as session:
            row = lifecycle.complete(session, self.now, claimed.purchase_id, uuid4(), self.rules)
        return [each.deployment_id for each in row.deployments]

    def gets(self, amount_micros: int) -> None:
        credit = Credit(
            idempotency_key=f"credit:{uuid4()}",
            user_id=self.user_id,
            amount_micros=amount_micros,
            description="Credits bought",
        )
        self._rpc.call(credit)
        with self.database.begin() as session:
            money_came(session, self.now, self.user_id)

    def freezes(self) -> None:
        key = f"freeze:{self.user_id}"
        self._rpc.call(
            Freeze(idempotency_key=key, user_id=self.user_id, reason="A dispute", actor="a test")
        )

    def thaws(self) -> None:
        key = f"unfreeze:{self.user_id}"
        self._rpc.call(
            Unfreeze(idempotency_key=key, user_id=self.user_id, reason="It ended", actor="a test")
        )

    @property
    def balance(self) -> int:
        return self._rpc.call(GetWallet(user_id=self.user_id)).balance_micros

    @property
    def charged(self) -> list[int]:
        kinds = [TransactionKind.RENEWAL, TransactionKind.REFUND]
        page = self._rpc.call(Statement(user_id=self.user_id, kinds=kinds))
        return [each.amount_micros for each in reversed(page.transactions)]

    def runs(self, until: datetime) -> None:
        self.now = until
        self.renewals.run()

    def lives(self, until: datetime) -> None:
        """Looks at every moment at which something is due, as the timer does."""
        while True:
            with self.database.read() as session:
                next_at = session.scalar(
                    select(DeploymentRow.due_at)
                    .where(DeploymentRow.user_id == self.user_id)
                    .order_by(DeploymentRow.due_at)
                    .limit(1)
                )
            if next_at is None or next_at > until:
                break
            self.runs(max(next_at, self.now))
        self.now = until

    def sees(self, deployment_id: UUID) -> Deployment:
        command = GetDeployment(user_id=self.user_id, deployment_id=deployment_id)
        with self.database.read() as session:
            return get_deployment(session, self.now, command, self.rules)

    def stops(self, deployment_id: UUID) -> None:
        command = StopDeployment(
            idempotency_key=f"{uuid4()}", user_id=self.user_id, deployment_id=deployment_id
        )
        with self.database.begin() as session:
            commands.stop(session, lambda: self.now, command, self.rules)

    def cancels(self, deployment_id: UUID, when: CancelWhen = CancelWhen.PERIOD_END) -> None:
        command = CancelDeployment(
            idempotency_key=f"{uuid4()}",
            user_id=self.user_id,
            deployment_id=deployment_id,
            when=when,
        )
        with self.database.begin() as session:
            commands.cancel(session, lambda: self.now, command, self.rules)

    def cancels_now(self, deployment_id: UUID) -> None:
        self.cancels(deployment_id, CancelWhen.NOW)

    def fails(self, deployment_id: UUID) -> None:
        report = ReportDeployment(deployment_id=deployment_id, status=Status.FAILED)
        with self.database.begin() as session:
            report_deployment(session, lambda: self.now, report, self.rules)

    def starts(
        self, deployment_id: UUID, key: str | None = None, expected_micros: int | None = None
    ) -> Deployment:
        return self.renewals.start(
            StartDeployment(
                idempotency_key=key or f"{uuid4()}",
                user_id=self.user_id,
                deployment_id=deployment_id,
                expected_amount_micros=expected_micros,
            )
        )

    def told(self, event_type: str) -> list[dict[str, Any]]:
        with self.database.read() as session:
            rows = session.execute(
                text(
                    "SELECT payload FROM outbox WHERE type = :type"
                    " AND payload ->> 'user_id' = :user_id ORDER BY id"
                ),
                {"type": event_type, "user_id": str(self.user_id)},
            )
            return [payload for (payload,) in rows]


@pytest.fixture
def tenant(stack: System, database: Connected) -> Tenant:
    return Tenant(stack, database)


def month(number: int) -> datetime:
    return one_month_after(BOUGHT, number)


# Months.

# From each start the days on which its months end, for three years: written by hand, with a row for
# each year and a column for each month from January on; 0 before the first.
ENDS = {
    (2027, 1, 29): {
        2027: (0, 28, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
        2028: (29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
        2029: (29, 28, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
    },
    (2027, 1, 30): {
        2027: (0, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30),
        2028: (30, 29, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30),
        2029: (30, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30),
    },
    (2027, 1, 31): {
        2027: (0, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
        2028: (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
        2029: (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
    },
    (2028, 1, 29): {
        2028: (0, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
        2029: (29, 28, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
        2030: (29, 28, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
    },
    (2028, 1, 30): {
        2028: (0, 29, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30),
        2029: (30, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30),
        2030: (30, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30),
    },
    (2028, 1, 31): {
        2028: (0, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
        2029: (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
        2030: (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
    },
    (2028, 2, 29): {
        2028: (0, 0, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
        2029: (29, 28, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
        2030: (29, 28, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
        2031: (29, 28, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29),
    },
}


def ends_from(anchor: datetime, count: int) -> list[datetime]:
    ends = [month_end(anchor, anchor)]
    while len(ends) < count:
        ends.append(month_end(anchor, ends[-1]))
    return ends


@pytest.mark.parametrize("start", ENDS)
def test_late_days_fall_on_the_last_day_of_short_months_and_come_back(
    start: tuple[int, int, int],
) -> None:
    written = [
        (year, month, day)
        for year, days in ENDS[start].items()
        for month, day in enumerate(days, start=1)
        if day
    ]

    ends = ends_from(datetime(*start, 23, 59, tzinfo=UTC), len(written))

    assert [(end.year, end.month, end.day) for end in ends] == written
    assert {(end.hour, end.minute) for end in ends} == {(23, 59)}


@pytest.mark.parametrize("day", range(1, 32))
def test_whenever_it_is_computed_a_month_ends_where_the_next_begins(day: int) -> None:
    anchor = datetime(2027, 1, day, 12, tzinfo=UTC)
    ends = ends_from(anchor, 40)

    for start, end in pairwise(ends):
        moments = (start, start + (end - start) / 2, end - timedelta(microseconds=1))
        assert {month_end(anchor, moment) for moment in moments} == {end}


def test_parts_of_a_month_cost_their_share_and_whole_months_their_price() -> None:
    anchor = datetime(2026, 4, 1, tzinfo=UTC)

    assert cost_micros(anchor, 30_000_000, anchor, anchor + 3 * DAY) == 3_000_000
    assert cost_micros(anchor, 30_000_000, anchor, one_month_after(anchor, 2)) == 60_000_000
    assert cost_micros(anchor, 31_000_000, anchor + 20 * DAY, anchor + 31 * DAY) == (
        divided(31_000_000 * 10, 30) + 1_000_000
    )
    assert cost_micros(anchor, 30_000_000, anchor, anchor) == 0


def divided(numerator: int, denominator: int) -> int:
    return round(numerator / denominator)


# Renewals.


def test_a_month_is_charged_when_the_last_one_ends_and_once(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)

    tenant.runs(month(1) - timedelta(microseconds=1))
    before = tenant.charged
    for _ in range(3):
        tenant.runs(month(1))

    assert (before, tenant.charged) == ([], [-PRICE])
    assert tenant.sees(deployment_id).next_renewal_at == month(2)
    assert [event["amount_micros"] for event in tenant.told("deployment_renewed")] == [PRICE]


def test_a_year_is_twelve_months_to_the_micro_dollar(tenant: Tenant) -> None:
    tenant.deploys(4_999_999)
    tenant.gets(100_000_000)

    tenant.lives(month(12))

    assert tenant.charged == [-4_999_999] * 12


def test_its_owner_is_told_three_days_before_and_once(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.gets(10 * PRICE)

    for moment in (month(1) - 3 * DAY - timedelta(seconds=1), month(1) - 3 * DAY, month(1) - DAY):
        tenant.runs(moment)

    (announced,) = tenant.told("renewal_announced")
    assert announced["occurred_at"] == f"{month(1) - 3 * DAY:%Y-%m-%dT%H:%M:%SZ}"


def test_what_was_to_be_announced_in_an_outage_is_not_announced_after_it(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.gets(10 * PRICE)

    tenant.runs(month(1))

    assert (tenant.told("renewal_announced"), tenant.charged) == ([], [-PRICE])


def test_after_an_outage_months_are_charged_oldest_first_and_as_far_as_the_money_goes(
    tenant: Tenant,
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(2 * PRICE + 1)

    tenant.runs(month(3) + DAY)

    assert tenant.charged == [-PRICE, -PRICE]
    seen = tenant.sees(deployment_id)
    assert (seen.paid_until, seen.owed_micros) == (month(3), PRICE)
    assert seen.next_status_at == month(3) + DAY + RULES.grace


def caught_up() -> tuple[float, float]:
    """How many months were, and how late the oldest was, in seconds."""
    names = ("months_caught_up_total", "caught_up_oldest_seconds")
    months, oldest_s = (REGISTRY.get_sample_value(f"mycelium_billing_{name}") for name in names)
    return months or 0.0, oldest_s or 0.0


@pytest.mark.parametrize("is_plain", [True, False])
def test_after_an_outage_operators_hear_what_was_caught_up(
    tenant: Tenant, caplog: pytest.LogCaptureFixture, is_plain: bool
) -> None:
    late = timedelta(minutes=15)
    first, second, third = (tenant.deploys()[0] for _ in range(3))
    with tenant.database.begin() as session:
        later = late + timedelta(microseconds=1)
        for deployment_id, lateness in ((first, later), (second, late), (third, 40 * DAY)):
            row = session.get_one(DeploymentRow, deployment_id)
            row.paid_until = row.due_at = month(3) - lateness
            row.new_price_micros = None if is_plain else PRICE + 1
            row.new_price_from = None if is_plain else month(9)
    tenant.gets(100 * PRICE)
    before, _ = caught_up()

    tenant.runs(month(3))
    months, oldest_s = caught_up()
    told = [each for each in caplog.records if hasattr(each, "oldest_s")]
    tenant.runs(month(3) + late)

    # Of the first two months are: the one 40 days ago, and the one after that.
    assert (months - before, oldest_s) == (3, (40 * DAY).total_seconds())
    assert [(each.months, each.oldest_s) for each in told] == [(3, 40 * 24 * 3600)]
    assert caught_up() == (months, oldest_s)


def test_what_is_not_written_down_after_all_is_not_caught_up(
    tenant: Tenant, database: Connected
) -> None:
    (deployment_id,) = tenant.deploys()
    found = CaughtUp()

    with suppress(Conflict), database.begin() as session:
        row = session.get_one(DeploymentRow, deployment_id)
        month_owed = periods.month_owed(month(2), row, month(1))
        assert month_owed is not None
        found.note(session, [month_owed])
        raise Conflict("It was changed meanwhile.")

    assert (found.months, found.oldest) == (0, timedelta(0))


def test_months_that_wait_for_money_are_no_outage(tenant: Tenant) -> None:
    tenant.deploys()
    before = caught_up()
    tenant.lives(month(1) + 2 * DAY)
    tenant.gets(PRICE)
    tenant.renewals.run()

    assert (tenant.charged, caught_up()) == ([-PRICE], before)


@pytest.mark.parametrize("when", LOST)
def test_an_answer_of_the_wallet_that_is_lost_charges_once(tenant: Tenant, when: str) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.wire.lose(is_a(DebitAll), when)

    tenant.runs(month(1))
    tenant.lives(month(1) + timedelta(minutes=5))

    assert tenant.charged == [-PRICE]
    assert tenant.sees(deployment_id).paid_until == month(2)


def renames(tenant: Tenant, deployment_id: UUID, key: str | None = None) -> None:
    command = RenameDeployment(
        idempotency_key=key or f"{uuid4()}",
        user_id=tenant.user_id,
        deployment_id=deployment_id,
        name="another",
    )
    with tenant.database.begin() as session:
        commands.rename(session, at(tenant.now), command)


def as_the_version_before_wrote_it(tenant: Tenant) -> None:
    with tenant.database.begin() as session:
        session.execute(text("UPDATE periods SET name = NULL"))


def requests_of(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the wallet is asked from now on."""
    asked: list[Any] = []
    call = tenant.wire.call

    def noted(request: Any, *more: Any) -> Any:
        asked.append(request)
        return call(request, *more)

    monkeypatch.setattr(tenant.wire, "call", noted)
    return asked


@pytest.mark.parametrize("is_of_version_before", [False, True])
def test_a_rename_after_an_answer_was_lost_leaves_no_month_that_was_paid_unrecorded(
    tenant: Tenant, is_of_version_before: bool
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.wire.lose(is_a(DebitAll), "after it was done")
    tenant.runs(month(1))
    if is_of_version_before:
        as_the_version_before_wrote_it(tenant)
    renames(tenant, deployment_id)

    tenant.lives(month(1) + timedelta(minutes=5))

    assert tenant.charged == [-PRICE]
    assert tenant.sees(deployment_id).paid_until == month(2)


def test_each_try_of_a_charge_says_the_same_though_it_was_renamed(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    asked = requests_of(tenant, monkeypatch)
    tenant.wire.lose(is_a(DebitAll), "before it was heard")
    tenant.runs(month(1))
    renames(tenant, deployment_id)

    tenant.lives(month(1) + timedelta(minutes=5))

    first, second = asked
    assert first == second


@pytest.mark.parametrize("is_of_version_before", [False, True])
def test_a_rename_after_an_answer_was_lost_leaves_no_refund_unrecorded(
    tenant: Tenant, is_of_version_before: bool
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.wire.lose(is_a(DebitAll), "after it was done")
    tenant.runs(month(1))
    tenant.cancels(deployment_id, CancelWhen.NOW)
    tenant.wire.lose(is_a(Refund), "after it was done")
    tenant.lives(month(1) + timedelta(seconds=30))
    if is_of_version_before:
        as_the_version_before_wrote_it(tenant)
    renames(tenant, deployment_id)

    tenant.lives(month(1) + timedelta(minutes=5))

    with tenant.database.read() as session:
        statuses = session.scalars(text("SELECT status FROM periods")).all()
    assert (tenant.charged, statuses) == ([-PRICE, PRICE], ["refunded"])


def test_a_key_that_gets_no_answer_keeps_no_month_unrecorded(tenant: Tenant) -> None:
    cancelled, running = tenant.deploys(quantity=2)
    tenant.runs(month(1))
    tenant.cancels(cancelled, CancelWhen.NOW)
    tenant.gets(10 * PRICE)
    tenant.wire.lose(is_a(CloseKey), "before it was heard")

    tenant.runs(month(1) + timedelta(minutes=2))

    assert tenant.sees(running).paid_until == month(2)


def test_what_costs_nothing_or_once_is_never_charged_again(tenant: Tenant) -> None:
    tenant.deploys(0)
    tenant.deploys(PRICE, period="once")
    tenant.gets(PRICE)

    tenant.runs(month(24))

    assert tenant.charged == []


def test_why_several_are_not_done_together_is_logged_though_each_by_itself_is_done(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tenant.deploys()
    tenant.gets(PRICE)
    look, errors = rungs.look, [ValueError("a state that nobody thought of")]

    def fails_once(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return look(*arguments)

    monkeypatch.setattr(rungs, "look", fails_once)
    monkeypatch.setattr(plain, "owe", lambda *_: [])
    tenant.runs(month(1))

    assert tenant.charged == [-PRICE]
    assert "a state that nobody thought of" in caplog.text


def test_a_deployment_in_a_bad_state_stops_only_itself(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = tenant.deploys(quantity=2)
    tenant.gets(10 * PRICE)
    look = rungs.look

    def fails_for_one(session: Session, now: datetime, row: DeploymentRow, *rest: Any) -> Any:
        if row.deployment_id == broken:
            raise ValueError("a state that nobody thought of")
        return look(session, now, row, *rest)

    def fails_together(*_: object) -> None:
        raise ValueError("a state that nobody thought of")

    monkeypatch.setattr(rungs, "look", fails_for_one)
    monkeypatch.setattr(plain, "owe", fails_together)
    tenant.runs(month(1))

    assert tenant.charged == [-PRICE]
    assert tenant.sees(sound).paid_until == month(2)


def test_what_cannot_be_recorded_together_is_recorded_by_itself(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)

    def fails(*_: object) -> None:
        raise ValueError("a state that nobody thought of")

    monkeypatch.setattr(plain, "run_on", fails)
    tenant.runs(month(1))

    assert tenant.sees(deployment_id).paid_until == month(2)
    assert (tenant.charged, len(tenant.told("deployment_renewed"))) == ([-PRICE], 1)


# What simply follows, many in a statement.

STORED = """
SELECT p.starts_at, p.ends_at, p.kind, p.amount_micros, p.fee_bps, p.status AS period_status,
    p.created_at, p.changed_at, d.paid_until, d.due_at, d.announced, d.announced_at,
    d.short_since, d.status,
    s.kind, s.product_name, s.units, s.gross_micros, s.fee_micros, s.sold_at
FROM periods AS p JOIN deployments AS d USING (deployment_id)
LEFT JOIN sales AS s ON s.sale_key = 'month:' || d.deployment_id || ':'
    || to_char(p.starts_at, 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')
WHERE p.user_id = :user_id ORDER BY p.amount_micros, p.starts_at
"""


def test_what_simply_follows_is_stored_as_if_each_were_looked_at_by_itself(
    stack: System, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an outage, and as far as the money goes; one has a new price, one an end."""
    provider_id, lives = uuid4(), []
    for is_together in (True, False):
        tenant = Tenant(stack, database)
        tenant.gets(3 * PRICE)
        tenant.deploys(4_000_003, provider_id=provider_id)
        tenant.deploys(5_000_000)
        (dearer,) = tenant.deploys(6_000_000)
        (ends,) = tenant.deploys(7_000_000)
        tenant.cancels(ends)
        with database.begin() as session:
            row = session.get_one(DeploymentRow, dearer)
            row.new_price_micros, row.new_price_from = 8_000_000, month(2)
        if not is_together:
            monkeypatch.setattr(plain, "owe", lambda *_: [])
        stored = []
        for moment in (month(1) - 3 * DAY, month(1), month(8) + DAY):
            tenant.runs(moment)
            with database.read() as session:
                stored += session.execute(text(STORED), {"user_id": tenant.user_id}).all()
        told = [
            {key: value for key, value in each.items() if key not in OWN}
            for each in tenant.told("deployment_renewed")
        ]
        lives.append((stored, sorted(told, key=str), tenant.charged))

    together, alone = lives
    assert together == alone
    assert {each.period_status for each in together[0]} == {"paid", "due"}


OWN = ("event_id", "user_id", "deployment_id", "transaction_id")


@pytest.mark.parametrize(("act", "status"), [("stops", "stopped"), ("cancels", "cancelled")])
def test_what_its_owner_changes_while_the_wallet_is_asked_is_not_overwritten(
    tenant: Tenant, act: str, status: str
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    ask = tenant.wire.call

    def acts_meanwhile(request: Any, *more: Any) -> Any:
        answer = ask(request, *more)
        if isinstance(request, DebitAll):
            getattr(tenant, act)(deployment_id)
        return answer

    tenant.wire.call = acts_meanwhile  # type: ignore[method-assign]
    tenant.runs(month(1))
    tenant.wire.call = ask  # type: ignore[method-assign]
    tenant.lives(month(1) + DAY)

    assert (tenant.sees(deployment_id).status, tenant.charged) == (status, [-PRICE, PRICE])
    assert tenant.sees(deployment_id).paid_until == month(1)


@pytest.mark.parametrize("is_lost", [False, True])
def test_the_next_are_handed_in_before_the_wallet_has_answered_and_each_is_charged_once(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    monkeypatch.setattr(renewals, "DUE", replace(renewals.DUE, limit=2))
    tenant.deploys(quantity=5)
    tenant.gets(100 * PRICE)
    steps: list[str] = []
    begin = tenant.wire.begin

    def noted(request: Any, *more: Any) -> Any:
        steps.append("asked")
        reply = begin(request, *more)

        def answered() -> Any:
            steps.append("answered")
            return reply()

        return answered

    tenant.wire.begin = noted  # type: ignore[method-assign]
    if is_lost:
        tenant.wire.lose(is_a(DebitAll), LOST[1])
    tenant.runs(month(1))

    if is_lost:
        assert steps == ["asked", "asked", "answered", "answered"]
        assert len(tenant.told("deployment_renewed")) == 2
        tenant.lives(month(1) + timedelta(minutes=5))
    else:
        assert steps == ["asked", "asked", "answered", "asked", "answered", "answered"]
    assert tenant.charged == [-PRICE] * 5
    assert len(tenant.told("deployment_renewed")) == 5


def test_what_is_under_way_is_recorded_though_the_next_cannot_be_prepared(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "DUE", replace(renewals.DUE, limit=2))
    tenant.deploys(quantity=3)
    tenant.gets(10 * PRICE)
    take, times = Renewals._take, count()

    def fails_then(it: Renewals, caught_up: CaughtUp) -> Any:
        if next(times):
            raise ConnectionError("the database went away")
        return take(it, caught_up)

    monkeypatch.setattr(Renewals, "_take", fails_then)
    with pytest.raises(ConnectionError):
        tenant.runs(month(1))

    assert (tenant.charged, len(tenant.told("deployment_renewed"))) == ([-PRICE] * 2, 2)


def test_each_call_is_waited_for_though_the_answer_to_the_first_is_lost(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "COMMANDS_MAX", 1)
    tenant.deploys(quantity=2)
    tenant.gets(10 * PRICE)
    tenant.wire.lose(is_a(DebitAll), LOST[0])

    tenant.runs(month(1))

    assert tenant.charged == [-PRICE]


# Short of funds.


def test_short_of_funds_its_owner_hears_the_whole_gap_once(tenant: Tenant) -> None:
    tenant.deploys(quantity=3)
    tenant.gets(PRICE + 5)

    tenant.runs(month(1))
    tenant.runs(month(1) + DAY)

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["shortfall_micros"], event["available_micros"]) == (2 * PRICE - 5, 5)
    assert event["deployments"] == 2


def after_the_answer(tenant: Tenant, act: Callable[[], object]) -> None:
    """Once, when the wallet has answered and that is not recorded yet, this happens."""
    ask = tenant.wire.call

    def acts(request: Any, *more: Any) -> Any:
        answer = ask(request, *more)
        if isinstance(request, DebitAll):
            tenant.wire.call = ask  # type: ignore[method-assign]
            act()
        return answer

    tenant.wire.call = acts  # type: ignore[method-assign]


def test_money_that_comes_before_a_refusal_is_recorded_pays_and_nobody_hears_of_a_shortage(
    tenant: Tenant,
) -> None:
    deployments = tenant.deploys(quantity=2)
    after_the_answer(tenant, lambda: tenant.gets(2 * PRICE))

    tenant.runs(month(1))

    assert (tenant.told("renewal_short_of_funds"), tenant.charged) == ([], [-PRICE] * 2)
    assert {tenant.sees(each).paid_until for each in deployments} == {month(2)}


def test_too_little_money_that_comes_before_a_refusal_is_recorded_has_it_said_as_it_is_then(
    tenant: Tenant,
) -> None:
    tenant.deploys()
    after_the_answer(tenant, lambda: tenant.gets(PRICE - 1))

    tenant.runs(month(1))

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["available_micros"], event["shortfall_micros"]) == (PRICE - 1, 1)


def test_a_shortage_is_of_the_moment_in_which_the_wallet_was_asked(tenant: Tenant) -> None:
    """What is paid after that makes it old news for auto top-up."""
    tenant.deploys()

    def time_passes() -> None:
        tenant.now += timedelta(seconds=2)

    after_the_answer(tenant, time_passes)
    tenant.runs(month(1))

    (event,) = tenant.told("renewal_short_of_funds")
    assert event["occurred_at"] == f"{month(1):%Y-%m-%dT%H:%M:%SZ}"


def test_whoever_says_first_that_money_is_lacking_has_counted_all_and_nobody_says_it_again(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "DUE", replace(renewals.DUE, limit=1))
    tenant.deploys(quantity=2)

    def another_billing_asks_and_says_so() -> None:
        tenant.now += timedelta(seconds=1)
        tenant.renewals.run()
        tenant.now += timedelta(seconds=1)

    after_the_answer(tenant, another_billing_asks_and_says_so)
    tenant.runs(month(1))

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["deployments"], event["shortfall_micros"]) == (2, 2 * PRICE)


def test_a_month_to_which_nobody_has_come_yet_is_part_of_the_gap(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another billing has leased it, and writes it down in a moment."""
    monkeypatch.setattr(renewals, "DUE", replace(renewals.DUE, limit=1))
    tenant.deploys(quantity=2)
    tenant.now = month(1)
    with tenant.database.begin() as session:
        (leased,) = renewals.DUE.take(session, tenant.now)

    tenant.renewals.run()
    tenant.renewals.ask_wallet([leased])

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["deployments"], event["shortfall_micros"]) == (2, 2 * PRICE)


def test_what_is_paid_beside_a_refusal_is_not_there_for_the_gap(tenant: Tenant) -> None:
    tenant.deploys(PRICE)
    tenant.deploys(PRICE - 10)
    tenant.gets(PRICE - 10)

    tenant.runs(month(1))

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["shortfall_micros"], event["available_micros"]) == (PRICE, 0)


def test_while_the_wallet_does_not_say_what_else_is_paid_nobody_is_told_of_a_gap(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "DUE", replace(renewals.DUE, limit=1))
    tenant.deploys(quantity=2)
    after_the_answer(tenant, lambda: tenant.wire.lose(is_a(DebitAll), LOST[0]))

    tenant.runs(month(1))
    told = tenant.told("renewal_short_of_funds")
    tenant.runs(month(1) + timedelta(minutes=2))

    (event,) = tenant.told("renewal_short_of_funds")
    assert (told, event["shortfall_micros"]) == ([], 2 * PRICE)


def test_what_else_lacks_money_is_told_where_money_pays_what_was_refused_first(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was refused first was to tell of it, and has nothing to tell."""
    monkeypatch.setattr(renewals, "DUE", replace(renewals.DUE, limit=1))
    tenant.deploys()
    tenant.deploys(3 * PRICE)

    paid: list[int] = []

    def comes() -> None:
        tenant.now += timedelta(seconds=1)
        if not paid:
            paid.append(PRICE)
            tenant.gets(PRICE)
        tenant.now += timedelta(seconds=1)

    after_the_answer(tenant, comes)
    tenant.runs(month(1))
    tenant.runs(tenant.now + RULES.renewal_retry)

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["deployments"], event["shortfall_micros"]) == (1, 3 * PRICE)
    assert tenant.charged == [-PRICE]


def test_what_was_settled_for_who_came_to_nothing_is_told_also_where_no_money_comes(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a freeze pays what was refused first, and tells nobody."""
    monkeypatch.setattr(renewals, "DUE", replace(renewals.DUE, limit=1))
    tenant.deploys(3 * PRICE)
    tenant.deploys()
    tenant.gets(PRICE)
    tenant.freezes()
    with tenant.database.begin() as session:
        renewals.DUE.take(session, month(1))
    tenant.wire.lose(is_a(GetWallets), LOST[0])
    tenant.runs(month(1))
    tenant.thaws()

    tenant.runs(month(1) + timedelta(minutes=2))
    tenant.runs(month(1) + RULES.renewal_retry)

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["deployments"], event["shortfall_micros"]) == (1, 3 * PRICE)


def test_of_two_billings_that_settle_each_others_months_one_tells(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has recorded the other's before its own."""
    monkeypatch.setattr(renewals, "DUE", replace(renewals.DUE, limit=1))
    tenant.deploys(quantity=2)
    ask = renewals.settled

    def another_has_settled(*asked: Any) -> Any:
        monkeypatch.setattr(renewals, "settled", ask)
        tenant.renewals.settle_months([tenant.user_id], tenant.now)
        return ask(*asked)

    monkeypatch.setattr(renewals, "settled", another_has_settled)
    tenant.runs(month(1))
    for times in (1, 2, 3):
        tenant.runs(month(1) + times * RULES.renewal_retry)

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["deployments"], event["shortfall_micros"]) == (2, 2 * PRICE)


def test_a_start_that_is_refused_keeps_nobody_from_hearing_what_else_lacks_money(
    tenant: Tenant,
) -> None:
    stopped, _ = tenant.deploys(quantity=2)
    tenant.stops(stopped)
    tenant.now = month(1)

    with pytest.raises(InsufficientFunds):
        tenant.starts(stopped)
    tenant.renewals.run()

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["deployments"], event["shortfall_micros"]) == (1, PRICE)


@pytest.mark.parametrize(("is_frozen", "counts"), [(False, [1, 3]), (True, [1, 2])])
def test_what_is_told_names_how_many_entries_the_wallet_had_when_it_refused(
    tenant: Tenant, is_frozen: bool, counts: list[int]
) -> None:
    """So that whoever hears of credits knows which of them it has seen. A month that was paid from
    them is an entry as well."""
    tenant.deploys(PRICE)
    tenant.deploys(3 * PRICE)
    tenant.gets(1)
    if is_frozen:
        tenant.freezes()
    tenant.runs(month(1))
    tenant.gets(PRICE)
    tenant.runs(tenant.now + DAY)

    told = [each["entry_count"] for each in tenant.told("renewal_short_of_funds")]
    assert told == counts


def counted(events: list[dict[str, Any]]) -> list[datetime]:
    return [instant(each["counted_at"]) for each in events]


@pytest.mark.parametrize("back", [timedelta(0), timedelta(minutes=5)])
def test_of_what_is_told_of_one_user_the_last_was_counted_last_by_whichever_clock(
    tenant: Tenant, back: timedelta
) -> None:
    """Another billing's may be behind, and two may be asked for in one instant."""
    (first,) = tenant.deploys()
    tenant.runs(month(1))
    tenant.now = BOUGHT - back
    (second,) = tenant.deploys()
    tenant.runs(month(1) - back)
    for each in (first, second):
        tenant.stops(each)

    told = tenant.told("renewal_short_of_funds") + tenant.told("shortage_lessened")
    assert counted(told) == [month(1) + each * timedelta(microseconds=1) for each in range(4)]


def test_what_is_stopped_while_a_month_is_refused_was_counted_before_that_is_told(
    tenant: Tenant,
) -> None:
    """Nothing that runs lacked money then, as far as was known."""
    (first,) = tenant.deploys()
    tenant.now += DAY
    tenant.deploys()
    tenant.runs(month(1))

    def stops() -> None:
        tenant.now += timedelta(seconds=1)
        tenant.stops(first)

    after_the_answer(tenant, stops)
    tenant.runs(month(1) + DAY)

    (lessened,) = tenant.told("shortage_lessened")
    _, short, *_ = tenant.told("renewal_short_of_funds")
    assert (lessened["needed_micros"], short["deployments"]) == (0, 1)
    assert counted([lessened]) < counted([short])
    assert instant(lessened["occurred_at"]) > instant(short["occurred_at"])


def test_who_owes_much_keeps_nobody_else_from_being_asked_for_what_is_due(
    stack: System, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "AT_ONCE", 2)
    tenants = [Tenant(stack, database) for _ in range(3)]
    for each in tenants:
        each.deploys(quantity=3)
    tenant = tenants[0]
    tenant.now = month(1)

    found = tenant.renewals.settle_months([each.user_id for each in tenants], tenant.now)

    assert found == {each.user_id for each in tenants}
    with database.read() as session:
        query = select(PeriodRow.user_id).where(PeriodRow.status == periods.PeriodStatus.DUE)
        assert len(session.scalars(query).all()) == 9


@pytest.mark.parametrize("ends", [Tenant.stops, Tenant.cancels_now, Tenant.fails])
def test_what_was_short_and_is_stopped_is_no_part_of_what_a_card_is_charged_for(
    tenant: Tenant, ends: Callable[[Tenant, UUID], None]
) -> None:
    first, second, third = tenant.deploys(quantity=3)
    tenant.cancels(third)
    tenant.runs(month(1))
    tenant.now += DAY

    for each in (first, second):
        ends(tenant, each)

    told = tenant.told("shortage_lessened")
    assert [each["needed_micros"] for each in told] == [PRICE, 0]
    assert {instant(each["occurred_at"]) for each in told} == {tenant.now}


def test_whoever_says_what_is_still_lacking_waits_for_another_who_does(tenant: Tenant) -> None:
    """Of two that are stopped at once the last one to say it has counted neither."""
    first, second = tenant.deploys(quantity=2)
    tenant.runs(month(1))

    def stops_the_other(holder: Session) -> None:
        command = StopDeployment(
            idempotency_key="other", user_id=tenant.user_id, deployment_id=second
        )
        commands.stop(holder, lambda: tenant.now, command, tenant.rules)

    done_after(tenant.database, stops_the_other, lambda: tenant.stops(first))

    assert [each["needed_micros"] for each in tenant.told("shortage_lessened")] == [PRICE, 0]


def test_what_is_suspended_is_no_part_of_what_a_card_is_charged_for(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.now += DAY
    tenant.deploys(PRICE // 2)

    tenant.lives(month(1) + RULES.grace)
    ran_micros = cost_micros(BOUGHT, PRICE, month(1), tenant.now)
    tenant.lives(tenant.now + DAY)

    told = tenant.told("shortage_lessened")
    assert [each["needed_micros"] for each in told] == [PRICE // 2 + ran_micros, 0]
    assert instant(told[0]["occurred_at"]) == month(1) + RULES.grace


def test_what_ran_and_is_paid_as_it_is_suspended_is_no_part_of_the_gap(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.now += DAY
    tenant.deploys(PRICE // 2)
    tenant.gets(PRICE // 4)

    tenant.lives(month(1) + RULES.grace + timedelta(minutes=10))

    ran_micros = cost_micros(BOUGHT, PRICE, month(1), month(1) + RULES.grace)
    assert tenant.charged == [-ran_micros]
    assert tenant.told("shortage_lessened")[-1]["needed_micros"] == PRICE // 2


def test_what_was_paid_for_lessens_no_gap_when_it_is_stopped(tenant: Tenant) -> None:
    first, second = tenant.deploys(quantity=2)
    tenant.gets(PRICE)
    tenant.runs(month(1))
    (paid,) = (each for each in (first, second) if tenant.sees(each).paid_until == month(2))

    tenant.stops(paid)

    assert tenant.told("shortage_lessened") == []


def test_a_month_that_was_paid_is_no_part_of_the_gap(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.gets(PRICE)

    tenant.lives(month(2))

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["shortfall_micros"], event["deployments"]) == (PRICE, 1)


def test_what_ran_and_was_paid_is_no_part_of_the_gap(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.gets(PRICE - 1)
    tenant.lives(month(1) + RULES.grace)
    assert len(tenant.charged) == 1
    tenant.gets(PRICE)
    due_at = one_month_after(tenant.now)
    tenant.deploys(10 * PRICE)

    tenant.lives(due_at)

    event = tenant.told("renewal_short_of_funds")[-1]
    assert event["shortfall_micros"] + event["available_micros"] == 10 * PRICE


def test_a_gap_that_no_message_can_hold_is_told_as_the_most_that_one_can(tenant: Tenant) -> None:
    for _ in range(2):
        tenant.deploys(MAX_AMOUNT_MICROS)
    tenant.lives(month(1) + RULES.grace)
    with tenant.database.begin() as session:
        session.execute(update(PeriodRow).values(amount_micros=MAX_AMOUNT_MICROS))
    tenant.now += DAY
    tenant.gets(PRICE)
    tenant.renewals.run()

    (gap,) = tenant.told("renewal_short_of_funds")
    owed = tenant.told("owed_short_of_funds")[-1]
    most = MAX_AMOUNT_MICROS
    assert gap["shortfall_micros"] == owed["owed_micros"] == owed["shortfall_micros"] == most


def test_users_are_told_in_one_order_whenever_their_months_began(
    stack: System, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is locked for it: two billings that tell the same ones wait in no circle."""
    tenants = [Tenant(stack, database) for _ in range(3)]
    tenants.sort(key=lambda tenant: tenant.user_id, reverse=True)
    for minute, tenant in enumerate(tenants):
        tenant.now += timedelta(minutes=minute)
        tenant.deploys()
    told: list[UUID] = []
    monkeypatch.setattr(shortages, "tell", lambda _, __, user_id, *___: told.append(user_id))

    tenants[0].runs(month(1) + DAY)

    assert told == [tenant.user_id for tenant in reversed(tenants)]


def test_what_still_lacks_money_after_some_came_is_told_again_and_not_by_every_try(
    tenant: Tenant,
) -> None:
    """As where a purchase takes first what auto top-up charged for the month."""
    (deployment_id,) = tenant.deploys()
    tenant.runs(month(1))
    tenant.lives(month(1) + DAY)
    tenant.gets(PRICE - 4)
    tenant.lives(month(1) + 2 * DAY)

    told = tenant.told("renewal_short_of_funds")
    assert [event["shortfall_micros"] for event in told] == [PRICE, 4]
    assert instant(told[1]["occurred_at"]) == month(1) + DAY
    assert {instant(event["suspended_at"]) for event in told} == {month(1) + RULES.grace}
    assert tenant.sees(deployment_id).next_status_at == month(1) + RULES.grace


def instant(written: str) -> datetime:
    return datetime.fromisoformat(written)


def test_the_gap_counts_what_is_owed_for_time_that_ran_and_exactly_that_pays_all(
    tenant: Tenant,
) -> None:
    (first,) = tenant.deploys()
    tenant.now = BOUGHT + 10 * DAY
    (second,) = tenant.deploys()
    due_at = one_month_after(tenant.now)
    tenant.lives(due_at)

    owed = tenant.sees(first).owed_micros
    gap = tenant.told("renewal_short_of_funds")[-1]["shortfall_micros"]
    tenant.gets(gap)
    tenant.renewals.run()

    assert owed > 0
    assert gap == PRICE + owed
    assert (tenant.sees(first).owed_micros, tenant.balance) == (0, 0)
    assert tenant.sees(second).paid_until == one_month_after(BOUGHT + 10 * DAY, 2)


def test_no_month_waits_for_no_money() -> None:
    """A forecast of automatic top-ups takes what waits for none for credit that ends."""
    with pytest.raises(ValidationError, match="grace_s"):
        BillingSettings(amqp_uri="", database_url="", grace_s=0)


def test_in_grace_it_runs_and_money_that_comes_pays_the_month(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.runs(month(1))
    tenant.now = month(1) + 2 * DAY
    in_grace = tenant.sees(deployment_id)

    with tenant.database.read() as session:
        assert await_money(session, [tenant.user_id, uuid4()]) == [True, False]
    tenant.gets(PRICE)
    tenant.renewals.run()

    assert (in_grace.status, in_grace.owed_micros) == (Status.ACTIVE, PRICE)
    seen = tenant.sees(deployment_id)
    assert (seen.paid_until, seen.next_status, seen.owed_micros) == (month(2), None, 0)


def test_the_ladder_goes_down_on_its_dates_and_deletes_nothing_unannounced(
    tenant: Tenant,
) -> None:
    (deployment_id,) = tenant.deploys()

    tenant.lives(month(1) + timedelta(days=60))

    suspended = month(1) + RULES.grace
    stopped = suspended + RULES.suspended
    history = [(change.status, change.changed_at) for change in tenant.sees(deployment_id).history]
    assert history == [
        (Status.CANCELLED, stopped + RULES.kept),
        (Status.STOPPED, stopped),
        (Status.SUSPENDED, suspended),
    ]
    deleted_at = f"{stopped + RULES.kept:%Y-%m-%dT%H:%M:%SZ}"
    assert [event["deleted_at"] for event in tenant.told("deletion_announced")] == [deleted_at] * 2
    assert tenant.charged == []


def is_unpaid(tenant: Tenant, _deployment_id: UUID, after: timedelta) -> None:
    tenant.lives(month(1) + min(after, tenant.rules.grace / 2))


def is_stopped(tenant: Tenant, deployment_id: UUID, after: timedelta) -> None:
    tenant.lives(BOUGHT + after)
    tenant.stops(deployment_id)


def is_to_end(tenant: Tenant, deployment_id: UUID, after: timedelta) -> None:
    tenant.lives(BOUGHT + after)
    tenant.cancels(deployment_id)


def steps(grace_h: int, suspended_h: int, kept_h: int) -> BillingSettings:
    """The wallet is asked seldom, which takes most of the time."""
    steps_h = {"grace": grace_h, "suspended": suspended_h, "kept": kept_h, "renewal_retry": 240}
    return RULES.model_copy(update={f"{name}_s": hours * 3_600 for name, hours in steps_h.items()})


@pytest.mark.parametrize("kept_h", [0, 7 * 24, 30 * 24])
@pytest.mark.parametrize("after", [DAY, 27 * DAY])
def test_data_of_what_is_stopped_are_kept_as_long_as_was_told_before(
    stack: System, database: Connected, after: timedelta, kept_h: int
) -> None:
    tenant = Tenant(stack, database, steps(72, 14 * 24, kept_h))
    (deployment_id,) = tenant.deploys()
    tenant.lives(BOUGHT + after)
    kept_until = tenant.sees(deployment_id).kept_until
    assert kept_until is not None

    tenant.stops(deployment_id)
    tenant.lives(kept_until)

    seen = tenant.sees(deployment_id)
    last = seen.history[0]
    assert (last.status, last.changed_at) == (Status.CANCELLED, kept_until)
    assert seen.kept_until is None


@settings(max_examples=drawn(3), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    goes_down=st.sampled_from([is_unpaid, is_stopped, is_to_end]),
    after=st.timedeltas(timedelta(), 27 * DAY),
    rules=st.builds(
        steps, st.integers(1, 10 * 24), st.integers(0, 30 * 24), st.integers(0, 40 * 24)
    ),
)
@example(goes_down=is_unpaid, after=DAY, rules=steps(72, 14 * 24, 30 * 24))
@example(goes_down=is_unpaid, after=DAY, rules=steps(72, 0, 24))
@example(goes_down=is_stopped, after=26 * DAY, rules=steps(72, 14 * 24, 0))
@example(goes_down=is_to_end, after=DAY, rules=steps(72, 14 * 24, 30 * 24))
def test_the_ladder_that_it_tells_is_the_one_that_it_goes_down(
    stack: System,
    database: Connected,
    goes_down: Callable[[Tenant, UUID, timedelta], None],
    after: timedelta,
    rules: BillingSettings,
) -> None:
    """At each rung, what is left of it; also where both announcements take longer than data is
    kept."""
    tenant = Tenant(stack, emptied(database), rules)
    (deployment_id,) = tenant.deploys()
    assert tenant.sees(deployment_id).ladder == []
    goes_down(tenant, deployment_id, after)
    began_at, told = tenant.now, tenant.sees(deployment_id).ladder

    left = []
    for rung in told:
        tenant.lives(rung.at)
        left.append(tenant.sees(deployment_id).ladder)

    assert told[-1].status == Status.CANCELLED
    assert left == [[later for later in told if later.at > rung.at] for rung in told]
    history = reversed(tenant.sees(deployment_id).history)
    assert [(each.status, each.at) for each in told] == [
        (each.status, each.changed_at) for each in history if each.changed_at > began_at
    ]


TICK = timedelta(microseconds=1)
RUNGS = {
    Status.SUSPENDED: RULES.grace,
    Status.STOPPED: RULES.grace + RULES.suspended,
    Status.CANCELLED: RULES.grace + RULES.suspended + RULES.kept,
}
"""How long after the end of what was paid each rung comes."""


@pytest.mark.parametrize("beside", [-TICK, timedelta(), TICK])
@pytest.mark.parametrize("is_looked_at_before", [True, False])
@pytest.mark.parametrize("rung", RUNGS)
def test_paid_at_a_rung_of_the_ladder_it_runs_and_no_later_rung_is_left(
    tenant: Tenant, rung: Status, is_looked_at_before: bool, beside: timedelta
) -> None:
    """In the instant of a rung, or a microsecond beside it, before and after somebody looked."""
    (deployment_id,) = tenant.deploys()
    rung_at = month(1) + RUNGS[rung]
    is_gone = rung is Status.CANCELLED and beside >= timedelta()
    is_in_grace = rung is Status.SUSPENDED and beside < timedelta()
    ran_micros = cost_micros(BOUGHT, PRICE, month(1), month(1) + RULES.grace)
    if rung is Status.SUSPENDED and beside > timedelta() and not is_looked_at_before:
        ran_micros = cost_micros(BOUGHT, PRICE, month(1), rung_at + beside)

    tenant.lives(rung_at - TICK)
    if is_looked_at_before:
        tenant.lives(rung_at + beside)
    tenant.now = rung_at + beside
    tenant.gets(10 * PRICE)
    tenant.renewals.run()
    if not is_gone and not is_in_grace:
        tenant.starts(deployment_id)
    seen = tenant.sees(deployment_id)
    tenant.lives(tenant.now + 20 * DAY)

    assert seen.next_status is None
    assert seen.status == (Status.CANCELLED if is_gone else Status.ACTIVE)
    assert tenant.sees(deployment_id).status == seen.status
    owed = [-PRICE] if is_in_grace else [-ran_micros] if is_gone else [-ran_micros, -PRICE]
    assert tenant.charged == owed


def test_after_an_outage_data_is_kept_until_its_deletion_was_announced_as_long_before(
    tenant: Tenant,
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.lives(month(1) + RULES.grace + RULES.suspended)
    assert tenant.sees(deployment_id).status == Status.STOPPED

    tenant.now += timedelta(days=300)
    back_at = tenant.now
    tenant.lives(back_at + 6 * DAY)
    kept = tenant.sees(deployment_id).status
    tenant.lives(back_at + 7 * DAY)

    assert (kept, tenant.sees(deployment_id).status) == (Status.STOPPED, Status.CANCELLED)
    assert len(tenant.told("deletion_announced")) == 2


def test_started_after_a_top_up_it_owes_what_ran_and_a_month_from_now(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.lives(month(1) + 10 * DAY)
    assert tenant.sees(deployment_id).status == Status.SUSPENDED
    ran_micros = cost_micros(BOUGHT, PRICE, month(1), month(1) + RULES.grace)

    tenant.gets(PRICE + ran_micros)
    started = tenant.starts(deployment_id)

    assert tenant.charged == [-ran_micros, -PRICE]
    assert (started.status, started.owed_micros) == (Status.ACTIVE, 0)
    assert started.paid_until == one_month_after(tenant.now)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_what_is_owed_for_time_that_ran_is_told_once_and_asked_for_every_six_hours(
    tenant: Tenant, is_frozen: bool
) -> None:
    first, second = tenant.deploys(quantity=2)
    if is_frozen:
        tenant.gets(10 * PRICE)
        tenant.freezes()
    tenant.lives(month(1) + DAY)
    tenant.cancels(first, CancelWhen.NOW)
    tenant.cancels(second, CancelWhen.NOW)
    tenant.lives(tenant.now + 2 * DAY)
    ran_micros = cost_micros(BOUGHT, PRICE, month(1), month(1) + DAY)

    (told,) = tenant.told("owed_short_of_funds")
    assert (told["owed_micros"], told["deployments"]) == (2 * ran_micros, 2)
    assert (told["name"], told["is_frozen"]) == ("VM-Production 1", is_frozen)
    assert instant(told["occurred_at"]) == month(1) + DAY
    if is_frozen:
        # Nobody hears of the end of a freeze: it is found when it is asked for again.
        tenant.thaws()
        tenant.lives(tenant.now + RULES.renewal_retry)
    else:
        tenant.gets(ran_micros - 1)
        tenant.renewals.run()
        again = tenant.told("owed_short_of_funds")[1:]
        assert [each["shortfall_micros"] for each in again] == [ran_micros + 1]
        tenant.gets(ran_micros + 1)
        tenant.renewals.run()
    assert tenant.charged == [-ran_micros] * 2


def test_debts_that_were_asked_for_only_when_money_came_are_asked_for_since_0030(
    tenant: Tenant,
) -> None:
    migration = import_module("services.billing.migrations.versions.0030_debts_of_before")
    first, second = tenant.deploys(quantity=2)
    tenant.lives(month(1) + DAY)
    tenant.cancels(first, CancelWhen.NOW)
    tenant.renewals.run()
    with tenant.database.begin() as session:
        session.execute(text("UPDATE deployments SET due_at = NULL"))
        asked = session.execute(text(migration._ASK)).rowcount
        due = {row.deployment_id: row.due_at for row in session.scalars(select(DeploymentRow))}

    assert (asked, due[first] is not None, due[second]) == (1, True, None)


def left_behind(tenant: Tenant, deployment_id: UUID, due_at: datetime | None) -> None:
    """As the version before leaves what owes for time that ran, when the wallet has not paid."""
    with tenant.database.begin() as session:
        row = session.get_one(DeploymentRow, deployment_id)
        row.due_at = due_at


def takes_up(tenant: Tenant) -> int:
    with tenant.database.begin() as session:
        return unasked.take_up(session, tenant.now, tenant.rules)


def test_debts_that_a_version_before_asked_for_once_are_asked_for_and_no_others(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran beside this one, or came back, and waits for money or for the next rung."""
    ended, suspended, owing, _ = tenant.deploys(quantity=4)
    tenant.lives(month(1) + DAY)
    tenant.cancels_now(ended)
    tenant.cancels_now(owing)
    tenant.lives(month(1) + RULES.grace + DAY)
    assert takes_up(tenant) == 0
    left_behind(tenant, ended, None)
    left_behind(tenant, suspended, tenant.now + 10 * DAY)
    monkeypatch.setattr(unasked, "AT_ONCE", 1)

    assert [takes_up(tenant) for _ in range(3)] == [1, 1, 0]
    with tenant.database.read() as session:
        due = {row.deployment_id: row.due_at for row in session.scalars(select(DeploymentRow))}
    assert (due[ended], due[suspended]) == (tenant.now, tenant.now)
    assert due[owing] != tenant.now


def test_a_debt_that_somebody_holds_is_taken_up_later(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.lives(month(1) + DAY)
    tenant.cancels_now(deployment_id)
    tenant.renewals.run()
    left_behind(tenant, deployment_id, None)

    hold = "SELECT FROM deployments WHERE deployment_id = :id FOR UPDATE"
    with held(tenant.database, hold, id=deployment_id):
        assert takes_up(tenant) == 0
    assert takes_up(tenant) == 1


def test_with_too_little_it_does_not_start_and_a_month_is_not_taken_later(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.stops(deployment_id)
    tenant.lives(month(1) + DAY)
    tenant.gets(PRICE - 1)

    with pytest.raises(InsufficientFunds, match="It was not started"):
        tenant.starts(deployment_id)
    tenant.gets(PRICE)
    tenant.lives(tenant.now + DAY)

    assert (tenant.charged, tenant.sees(deployment_id).status) == ([], Status.STOPPED)


@pytest.mark.parametrize("when", LOST)
def test_a_start_whose_answer_is_lost_is_charged_once(tenant: Tenant, when: str) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.stops(deployment_id)
    tenant.lives(month(1) + DAY)
    tenant.gets(10 * PRICE)
    tenant.wire.lose(is_a(DebitAll), when)

    with pytest.raises(DeadlineExceeded):
        tenant.starts(deployment_id, key="again")
    tenant.now += timedelta(seconds=5)
    started = tenant.starts(deployment_id, key="again")

    assert (started.status, tenant.charged) == (Status.ACTIVE, [-PRICE])


def test_a_frozen_wallet_takes_the_same_ladder_and_holds_up_nobody(
    tenant: Tenant, stack: System, database: Connected
) -> None:
    other = Tenant(stack, database)
    (frozen,) = tenant.deploys()
    other.deploys()
    for each in (tenant, other):
        each.gets(10 * PRICE)
    tenant.freezes()

    tenant.runs(month(1))

    assert (tenant.charged, other.charged) == ([], [-PRICE])
    assert tenant.told("renewal_short_of_funds")[0]["is_frozen"]
    tenant.lives(month(1) + RULES.grace)
    assert tenant.sees(frozen).status == Status.SUSPENDED
    with pytest.raises(AccountFrozen):
        tenant.starts(frozen)
    tenant.thaws()
    tenant.now += timedelta(seconds=1)
    assert tenant.starts(frozen).status == Status.ACTIVE


# What its owner does.


def test_stopped_its_month_runs_on_and_is_not_renewed(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.now = BOUGHT + DAY
    tenant.stops(deployment_id)

    started = tenant.starts(deployment_id)
    tenant.stops(deployment_id)
    tenant.lives(month(1) + 10 * DAY)

    assert (started.paid_until, tenant.charged) == (month(1), [])
    assert tenant.sees(deployment_id).next_status_at == month(1) + RULES.kept


def test_stopped_and_started_time_and_again_no_period_overlaps(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(100 * PRICE)
    for days in (5, 17, 18, 40, 55, 56, 90):
        tenant.lives(BOUGHT + days * DAY)
        tenant.stops(deployment_id)
        tenant.lives(tenant.now + 12 * timedelta(hours=1))
        tenant.starts(deployment_id)
    tenant.lives(BOUGHT + 200 * DAY)

    with tenant.database.read() as session:
        periods = session.scalars(select(PeriodRow).order_by(PeriodRow.starts_at)).all()
    spans = [(period.starts_at, period.ends_at) for period in periods]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert tenant.charged == [-PRICE] * len(spans)


def test_cancelled_at_the_months_end_it_runs_until_then_and_may_be_kept(tenant: Tenant) -> None:
    ends, goes_on = tenant.deploys(quantity=2)
    tenant.gets(10 * PRICE)
    for deployment_id in (ends, goes_on):
        tenant.cancels(deployment_id)
    tenant.starts(goes_on)

    tenant.lives(month(1) + DAY)

    seen = tenant.sees(ends)
    assert (seen.status, seen.ended_at) == (Status.CANCELLED, month(1))
    assert (tenant.sees(goes_on).status, tenant.charged) == (Status.ACTIVE, [-PRICE])


def test_cancelled_in_grace_it_owes_the_time_that_ran(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.runs(month(1))
    tenant.now = month(1) + DAY
    tenant.cancels(deployment_id)
    tenant.renewals.run()

    tenant.gets(10 * PRICE)
    tenant.renewals.run()

    assert tenant.charged == [-cost_micros(BOUGHT, PRICE, month(1), month(1) + DAY)]
    assert tenant.sees(deployment_id).status == Status.CANCELLED


def test_cancelled_after_an_outage_in_which_its_month_began_it_pays_the_time_that_ran(
    tenant: Tenant,
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.now = month(1) + DAY

    tenant.cancels(deployment_id, CancelWhen.NOW)
    tenant.lives(month(1) + 2 * DAY)

    assert tenant.charged == [-cost_micros(BOUGHT, PRICE, month(1), month(1) + DAY)]
    assert tenant.sees(deployment_id).owed_micros == 0


@pytest.mark.parametrize("how", ["stopped", "cancelled now", "cancelled with its month"])
def test_ended_while_somebody_who_died_has_it_leased_it_pays_the_time_that_ran(
    tenant: Tenant, how: str
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.now = month(1) + DAY
    with tenant.database.begin() as session:
        assert list(renewals.DUE.take(session, tenant.now)) == [deployment_id]
    tenant.now += timedelta(seconds=57)

    if how == "stopped":
        tenant.stops(deployment_id)
    else:
        when = CancelWhen.NOW if how == "cancelled now" else CancelWhen.PERIOD_END
        tenant.cancels(deployment_id, when)
    ended_at = tenant.now
    tenant.lives(month(2))

    assert tenant.charged == [-cost_micros(BOUGHT, PRICE, month(1), ended_at)]
    assert tenant.sees(deployment_id).owed_micros == 0


@pytest.mark.parametrize("act", ["cancels", "starts"])
def test_what_stopped_owes_nothing_for_the_time_until_its_owner_comes_back_to_it(
    tenant: Tenant, act: str
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.runs(month(1))
    tenant.now = month(1) + DAY
    tenant.stops(deployment_id)
    tenant.gets(10 * PRICE)

    tenant.now += DAY
    if act == "starts":
        tenant.starts(deployment_id)
    else:
        tenant.cancels(deployment_id, CancelWhen.NOW)
    tenant.renewals.run()

    ran_micros = cost_micros(BOUGHT, PRICE, month(1), month(1) + DAY)
    assert sorted(tenant.charged) == ([-PRICE] if act == "starts" else []) + [-ran_micros]


def test_what_is_stopped_while_it_is_being_suspended_owes_what_ran(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.lives(month(1) + RULES.grace - DAY)
    tenant.wire.lose(is_a(CloseKey), "before it was heard")
    tenant.runs(month(1) + RULES.grace)

    tenant.now += timedelta(hours=1)
    tenant.stops(deployment_id)
    tenant.lives(tenant.now + DAY)

    until = month(1) + RULES.grace + timedelta(hours=1)
    assert tenant.sees(deployment_id).owed_micros == cost_micros(BOUGHT, PRICE, month(1), until)


def test_a_month_that_was_charged_while_it_was_cancelled_comes_back(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.wire.lose(is_a(DebitAll), "after it was done")
    tenant.runs(month(1))
    tenant.now = month(1) + timedelta(hours=1)

    tenant.cancels(deployment_id, CancelWhen.NOW)
    tenant.lives(month(1) + DAY)

    ran_micros = cost_micros(BOUGHT, PRICE, month(1), month(1) + timedelta(hours=1))
    assert tenant.charged == [-PRICE, -ran_micros, PRICE]
    assert tenant.balance == 10 * PRICE - ran_micros


def test_a_month_cancelled_in_the_instant_that_it_begins_costs_nothing(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.runs(month(1))
    tenant.cancels(deployment_id, CancelWhen.NOW)

    tenant.gets(10 * PRICE)
    tenant.lives(month(2))

    assert tenant.charged == []


def test_a_wish_repeated_is_done_once_and_its_key_is_good_for_nothing_else(
    tenant: Tenant,
) -> None:
    (deployment_id,) = tenant.deploys()
    wish = RenameDeployment(
        idempotency_key="k", user_id=tenant.user_id, deployment_id=deployment_id, name="Shop"
    )
    with tenant.database.begin() as session:
        commands.rename(session, at(tenant.now), wish)
    with tenant.database.begin() as session:
        commands.rename(session, at(tenant.now), wish)

    seen = tenant.sees(deployment_id)
    assert (seen.name, [change.cause for change in seen.history]) == ("Shop", [ChangeCause.RENAMED])
    with tenant.database.begin() as session, pytest.raises(IdempotencyConflict):
        commands.rename(session, at(tenant.now), wish.model_copy(update={"name": "Other"}))


def test_nobody_touches_anothers_deployment(
    tenant: Tenant, stack: System, database: Connected
) -> None:
    (deployment_id,) = tenant.deploys()
    other = Tenant(stack, database)

    for act in (other.sees, other.stops, other.cancels, other.starts):
        with pytest.raises(NotFound):
            act(deployment_id)


@pytest.mark.parametrize("act", ["stops", "cancels", "starts"])
def test_what_is_being_set_up_or_has_ended_is_left_alone(tenant: Tenant, act: str) -> None:
    tenant.rules = EXTERNAL
    (requested,) = tenant.deploys()
    tenant.rules = RULES
    (ended,) = tenant.deploys()
    tenant.cancels(ended, CancelWhen.NOW)

    # What is being set up may be cancelled, and is paid back then.
    for deployment_id in (ended,) if act == "cancels" else (requested, ended):
        with pytest.raises(Conflict):
            getattr(tenant, act)(deployment_id)


# What bills too often.


def test_what_bills_in_a_loop_is_stopped_before_the_wallet_hears_of_it_and_somebody_is_called(
    tenant: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    looping, sound = tenant.deploys(quantity=2)
    tenant.gets(100 * PRICE)
    rules = RULES.model_copy(update={"charges_per_day_max": 3})
    tenant.renewals = replace(tenant.renewals, rules=rules)

    def bills_again(times: int) -> None:
        for _ in range(times):
            tenant.now += timedelta(seconds=1)
            with tenant.database.begin() as session:
                row = session.get_one(DeploymentRow, looping)
                row.paid_until = row.due_at = tenant.now
            tenant.runs(tenant.now)

    tenant.runs(month(1))
    assert tenant.charged == [-PRICE] * 2
    bills_again(2)
    assert (tenant.charged, caplog.messages) == ([-PRICE] * 4, [])
    bills_again(5)

    assert tenant.charged == [-PRICE] * 4
    assert str(looping) in {getattr(each, "deployment_id", "") for each in caplog.records}
    query = charge_limit.GAUGES["charges_in_a_day_max"].query
    with tenant.database.read() as session:
        assert session.scalar(text(query), {"now": tenant.now}) > rules.charges_per_day_max
    assert tenant.sees(looping).status == Status.ACTIVE
    tenant.lives(month(2))
    assert tenant.sees(sound).paid_until == month(3)
