"""Starts that cost something: a start that was refused is never charged later, one that was not
answered is told as that, and a key starts once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from chassis.database import Connected, connect
from chassis.money import format_usd
from contracts.billing import CancelWhen, DeploymentStatus
from contracts.errors import (
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    InsufficientFunds,
    Overloaded,
    PriceChanged,
)
from contracts.wallet import BatchError, CloseKey, DebitAll, DebitOutcomes, DebitResult
from services.billing.deployments.months import cost_micros
from services.billing.models import DeploymentRow
from services.billing.renewals.renewals import DUE
from tests.billing.conftest import RULES
from tests.billing.test_lost_answers import LOST, is_a
from tests.billing.test_renewals import (
    BOUGHT,
    DAY,
    PRICE,
    Status,
    Tenant,
    after_the_answer,
    month,
    renames,
)
from tests.locks import held
from tests.system import System

SECOND = timedelta(seconds=1)
WALLET = (
    "SELECT FROM balances JOIN accounts USING (account_id) WHERE user_id = :user"
    " FOR UPDATE OF balances"
)
AFTER = month(1) + DAY
RAN_MICROS = cost_micros(BOUGHT, PRICE, month(1), month(1) + RULES.grace)


@pytest.fixture
def tenant(stack: System, database: Connected) -> Tenant:
    return Tenant(stack, database)


@contextmanager
def wallet_held(stack: System, user_id: UUID) -> Iterator[None]:
    """Somebody else has locked this user's wallet and does not let go."""
    database = connect(stack.database_url("wallet"))
    try:
        with held(database, WALLET, user=user_id):
            yield
    finally:
        database.engine.dispose()


def stopped(tenant: Tenant, until: datetime = AFTER) -> UUID:
    """What was stopped in its first month, which is over."""
    (deployment_id,) = tenant.deploys()
    tenant.stops(deployment_id)
    tenant.lives(until)
    tenant.gets(10 * PRICE)
    return deployment_id


def suspended(tenant: Tenant) -> UUID:
    """What owes its days of grace."""
    (deployment_id,) = tenant.deploys()
    tenant.lives(month(1) + RULES.grace + DAY)
    assert tenant.sees(deployment_id).owed_micros == RAN_MICROS
    return deployment_id


def answers_with(tenant: Tenant, code: str, *, is_done: bool = False) -> None:
    """The wallet answers the next debits like this, and does them, or does not."""
    ask = tenant.wire.call

    def answers(request: Any, *more: Any) -> Any:
        if not isinstance(request, DebitAll):
            return ask(request, *more)
        tenant.wire.call = ask  # type: ignore[method-assign]
        if is_done:
            ask(request, *more)
        error = BatchError(code=code, message="It was not done.")
        return DebitOutcomes(results=[DebitResult(error=error) for _ in request.debits])

    tenant.wire.call = answers  # type: ignore[method-assign]


# What was not started is not charged.


def test_a_start_that_a_held_wallet_does_not_answer_is_not_charged_later(
    tenant: Tenant, stack: System
) -> None:
    deployment_id = stopped(tenant)

    with wallet_held(stack, tenant.user_id), pytest.raises(DeadlineExceeded, match="checking"):
        tenant.starts(deployment_id)
    tenant.gets(PRICE)
    tenant.lives(tenant.now + DAY)

    assert (tenant.charged, tenant.sees(deployment_id).status) == ([], Status.STOPPED)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("unavailable", DeadlineExceeded, "checking"),
        ("service_error", Conflict, "It was not started"),
    ],
)
def test_a_start_that_failed_is_not_charged_and_what_was_charged_after_all_comes_back(
    tenant: Tenant, code: str, error: type[Exception], said: str, is_done: bool
) -> None:
    deployment_id = stopped(tenant)
    answers_with(tenant, code, is_done=is_done)

    with pytest.raises(error, match=said):
        tenant.starts(deployment_id)
    tenant.gets(PRICE)
    tenant.lives(tenant.now + DAY)

    assert tenant.charged == ([-PRICE, PRICE] if is_done else [])
    assert tenant.sees(deployment_id).status == Status.STOPPED


def test_a_start_that_would_charge_too_often_is_not_charged_on_another_day(tenant: Tenant) -> None:
    deployment_id = stopped(tenant)
    bounded = replace(tenant.renewals, rules=RULES.model_copy(update={"charges_per_day_max": 0}))
    tenant.renewals, unbounded = bounded, tenant.renewals

    with pytest.raises(Conflict, match="It was not started"):
        tenant.starts(deployment_id)
    tenant.renewals = unbounded
    tenant.lives(tenant.now + DAY)

    assert (tenant.charged, tenant.sees(deployment_id).status) == ([], Status.STOPPED)


def test_a_start_that_nobody_had_room_for_is_told_as_not_known(tenant: Tenant) -> None:
    """It is asked for again: nobody may hear that nothing was done."""
    deployment_id = stopped(tenant)
    tenant.wire.refuse(is_a(DebitAll), Overloaded("Try again."))

    with pytest.raises(DeadlineExceeded, match="checking"):
        tenant.starts(deployment_id)
    tenant.lives(tenant.now + DUE.lease)

    assert (tenant.charged, tenant.sees(deployment_id).status) == ([-PRICE], Status.ACTIVE)


@pytest.mark.parametrize("when", LOST)
def test_what_is_deleted_while_its_start_is_not_answered_is_not_charged(
    tenant: Tenant, when: str
) -> None:
    deleted_at = month(1) + RULES.kept
    deployment_id = stopped(tenant, deleted_at - 30 * SECOND)
    tenant.wire.lose(is_a(DebitAll), when)

    with pytest.raises(DeadlineExceeded):
        tenant.starts(deployment_id)
    tenant.lives(deleted_at + DAY)

    assert tenant.sees(deployment_id).status == Status.CANCELLED
    assert tenant.charged == ([] if when == LOST[0] else [-PRICE, PRICE])
    assert tenant.sees(deployment_id).owed_micros == 0


def test_what_is_cancelled_after_a_start_that_was_not_paid_owes_nothing_of_it(
    tenant: Tenant,
) -> None:
    deployment_id = stopped(tenant)
    answers_with(tenant, "unavailable")
    with pytest.raises(DeadlineExceeded):
        tenant.starts(deployment_id)
    tenant.wire.lose(is_a(CloseKey), LOST[0])
    tenant.renewals.run()

    tenant.now += timedelta(hours=1)
    tenant.cancels(deployment_id, CancelWhen.NOW)
    tenant.lives(tenant.now + DAY)

    assert (tenant.charged, tenant.sees(deployment_id).owed_micros) == ([], 0)


def test_a_start_that_is_repeated_before_the_first_was_closed_is_charged_once(
    tenant: Tenant,
) -> None:
    deployment_id = stopped(tenant)
    answers_with(tenant, "unavailable")
    with pytest.raises(DeadlineExceeded):
        tenant.starts(deployment_id, key="k")

    tenant.now += SECOND
    # The first one's key is closed later.
    tenant.wire.lose(is_a(CloseKey), LOST[0])
    with pytest.raises(DeadlineExceeded):
        tenant.starts(deployment_id, key="k")
    tenant.lives(tenant.now + DAY)
    tenant.stops(deployment_id)
    tenant.lives(tenant.now + DAY)

    assert (tenant.charged, tenant.sees(deployment_id).owed_micros) == ([-PRICE], 0)


# A key starts once.


def test_a_paid_start_remembers_its_key(tenant: Tenant) -> None:
    deployment_id, other_id = stopped(tenant), tenant.deploys()[0]
    tenant.starts(deployment_id, key="k")
    tenant.stops(deployment_id)
    tenant.lives(tenant.now + 40 * DAY)
    charged = tenant.charged

    again = tenant.starts(deployment_id, key="k")

    assert (again.status, tenant.charged) == (Status.STOPPED, charged)
    with pytest.raises(IdempotencyConflict):
        tenant.starts(other_id, key="k")


def test_a_paid_start_that_is_repeated_keeps_nothing_that_was_cancelled_since(
    tenant: Tenant,
) -> None:
    deployment_id = stopped(tenant)
    tenant.starts(deployment_id, key="k")
    tenant.cancels(deployment_id)

    tenant.starts(deployment_id, key="k")

    assert tenant.sees(deployment_id).next_status == DeploymentStatus.CANCELLED


def test_a_start_that_is_paid_after_its_answer_was_lost_remembers_its_key(tenant: Tenant) -> None:
    deployment_id = stopped(tenant)
    tenant.wire.lose(is_a(DebitAll), LOST[0])
    with pytest.raises(DeadlineExceeded):
        tenant.starts(deployment_id, key="k")
    with pytest.raises(Conflict, match="being started already"):
        tenant.starts(deployment_id, key="another")
    tenant.lives(tenant.now + DUE.lease)
    tenant.stops(deployment_id)
    tenant.lives(tenant.now + 40 * DAY)

    again = tenant.starts(deployment_id, key="k")

    assert (again.status, tenant.charged) == (Status.STOPPED, [-PRICE])


def test_a_start_whose_key_did_something_else_meanwhile_is_recorded(tenant: Tenant) -> None:
    deployment_id, other_id = stopped(tenant), tenant.deploys()[0]
    tenant.wire.lose(is_a(DebitAll), LOST[1])
    with pytest.raises(DeadlineExceeded):
        tenant.starts(deployment_id, key="k")
    renames(tenant, other_id, key="k")

    tenant.lives(tenant.now + DUE.lease)

    assert (tenant.charged, tenant.sees(deployment_id).status) == ([-PRICE], Status.ACTIVE)


# What its owner saw.


@pytest.mark.parametrize("less_micros", [-1, 1, -RAN_MICROS])
def test_a_start_that_comes_to_something_else_than_its_owner_saw_charges_nothing(
    tenant: Tenant, less_micros: int
) -> None:
    deployment_id = suspended(tenant)
    tenant.gets(RAN_MICROS + PRICE - 1)
    tenant.gets(1)
    shown = tenant.sees(deployment_id).start_micros
    assert shown == RAN_MICROS + PRICE

    with pytest.raises(PriceChanged) as refused:
        tenant.starts(deployment_id, expected_micros=shown - less_micros)

    assert refused.value.details == (str(shown),)
    assert (tenant.charged, tenant.sees(deployment_id).status) == ([], Status.SUSPENDED)
    started = tenant.starts(deployment_id, expected_micros=shown)
    assert tenant.charged == [-RAN_MICROS, -PRICE]
    assert (started.status, started.start_micros) == (Status.ACTIVE, 0)


def test_what_was_paid_meanwhile_of_what_it_owed_makes_no_difference(tenant: Tenant) -> None:
    """Buying credits pays that by itself, while the page still shows it."""
    deployment_id = suspended(tenant)
    shown = tenant.sees(deployment_id).start_micros
    tenant.gets(RAN_MICROS + PRICE)
    tenant.renewals.run()
    assert (shown, tenant.charged) == (RAN_MICROS + PRICE, [-RAN_MICROS])
    assert tenant.sees(deployment_id).start_micros == PRICE

    started = tenant.starts(deployment_id, expected_micros=shown)

    assert (started.status, tenant.charged) == (Status.ACTIVE, [-RAN_MICROS, -PRICE])


def test_what_was_paid_for_another_one_or_before_it_stopped_is_no_part_of_what_was_seen(
    tenant: Tenant,
) -> None:
    (other,) = tenant.deploys()
    tenant.stops(other)
    deployment_id = suspended(tenant)
    tenant.gets(10 * PRICE)
    tenant.renewals.run()
    with pytest.raises(PriceChanged):
        tenant.starts(other, expected_micros=PRICE + RAN_MICROS)
    tenant.starts(deployment_id, expected_micros=PRICE)
    tenant.now += DAY
    tenant.stops(deployment_id)
    tenant.lives(tenant.now + 32 * DAY)

    with pytest.raises(PriceChanged):
        tenant.starts(deployment_id, expected_micros=PRICE + RAN_MICROS)

    assert tenant.charged == [-RAN_MICROS, -PRICE]


def test_a_price_that_rises_between_the_look_and_the_start_is_not_charged(tenant: Tenant) -> None:
    deployment_id = stopped(tenant)
    tenant.gets(10 * PRICE)
    with tenant.database.begin() as session:
        row = session.get_one(DeploymentRow, deployment_id)
        row.new_price_micros, row.new_price_from = PRICE + 1, tenant.now + DAY
    shown = tenant.sees(deployment_id).start_micros
    tenant.now += DAY

    with pytest.raises(PriceChanged):
        tenant.starts(deployment_id, expected_micros=shown)

    assert (shown, tenant.sees(deployment_id).start_micros) == (PRICE, PRICE + 1)
    assert tenant.charged == []


@pytest.mark.parametrize("when", LOST)
def test_a_start_is_repeated_with_what_was_seen_at_first_and_charged_once(
    tenant: Tenant, when: str
) -> None:
    deployment_id = suspended(tenant)
    tenant.gets(RAN_MICROS + PRICE)
    shown = tenant.sees(deployment_id).start_micros
    tenant.wire.lose(is_a(DebitAll), when)
    with pytest.raises(DeadlineExceeded):
        tenant.starts(deployment_id, key="k", expected_micros=shown)

    started = tenant.starts(deployment_id, key="k", expected_micros=shown)

    assert (started.status, tenant.charged) == (Status.ACTIVE, [-RAN_MICROS, -PRICE])


def test_what_a_start_takes_is_nothing_in_a_paid_month_and_none_where_there_is_no_start(
    tenant: Tenant,
) -> None:
    (deployment_id,) = tenant.deploys()
    running = tenant.sees(deployment_id).start_micros
    tenant.stops(deployment_id)
    before_ends = [
        tenant.sees(deployment_id).start_micros
        for tenant.now in (month(1) - timedelta(microseconds=1), month(1))
    ]
    tenant.cancels(deployment_id)
    (for_once,) = tenant.deploys(period="once")
    tenant.stops(for_once)

    assert (running, before_ends) == (0, [0, PRICE])
    assert tenant.sees(deployment_id).start_micros is None
    assert tenant.sees(for_once).start_micros == 0


def test_what_costs_nothing_any_more_starts_for_nothing_though_it_owes_what_ran(
    tenant: Tenant,
) -> None:
    deployment_id = suspended(tenant)
    with tenant.database.begin() as session:
        row = session.get_one(DeploymentRow, deployment_id)
        row.new_price_micros, row.new_price_from = 0, tenant.now
    shown = tenant.sees(deployment_id).start_micros

    started = tenant.starts(deployment_id, expected_micros=shown)

    assert (shown, started.status, tenant.charged) == (0, Status.ACTIVE, [])
    assert started.owed_micros == RAN_MICROS


# What is owed comes first.


def test_a_start_whose_price_changes_once_what_is_owed_is_paid_says_what_was_charged(
    tenant: Tenant,
) -> None:
    deployment_id = suspended(tenant)
    tenant.gets(10 * PRICE)
    shown = tenant.sees(deployment_id).start_micros

    def costs_more() -> None:
        with tenant.database.begin() as session:
            session.execute(update(DeploymentRow).values(monthly_cost_micros=PRICE + 1))

    after_the_answer(tenant, costs_more)
    with pytest.raises(PriceChanged) as refused:
        tenant.starts(deployment_id, expected_micros=shown)

    assert tenant.charged == [-RAN_MICROS]
    owed = format_usd(RAN_MICROS)
    assert f" {owed} that it owed for time that ran is paid, and it was" in str(refused.value)
    assert "Nothing" not in str(refused.value)


def test_a_start_with_too_little_for_the_month_says_that_what_was_owed_is_paid(
    tenant: Tenant,
) -> None:
    deployment_id = suspended(tenant)
    tenant.gets(RAN_MICROS + PRICE - 1)

    with pytest.raises(InsufficientFunds) as refused:
        tenant.starts(deployment_id)

    assert (tenant.charged, refused.value.available_micros) == ([-RAN_MICROS], PRICE - 1)
    owed = format_usd(RAN_MICROS)
    assert f" {owed} that it owed for time that ran is paid, and it was" in str(refused.value)
    assert "nothing was taken" not in str(refused.value)


def test_no_month_is_taken_from_who_does_not_pay_what_is_owed(tenant: Tenant) -> None:
    deployment_id = suspended(tenant)
    with tenant.database.begin() as session:
        session.execute(update(DeploymentRow).values(monthly_cost_micros=RAN_MICROS // 2))
    tenant.gets(RAN_MICROS - 1)

    with pytest.raises(InsufficientFunds, match="It was not started"):
        tenant.starts(deployment_id)
    tenant.lives(tenant.now + DAY)

    assert (tenant.charged, tenant.sees(deployment_id).status) == ([], Status.SUSPENDED)


def test_what_is_owed_is_asked_for_again_though_nobody_brings_money(tenant: Tenant) -> None:
    """An unfrozen wallet has money that did not come."""
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.freezes()
    tenant.lives(month(1) + DAY)
    tenant.cancels(deployment_id, CancelWhen.NOW)
    tenant.lives(tenant.now + DAY)
    owed_micros = tenant.sees(deployment_id).owed_micros

    tenant.thaws()
    tenant.lives(tenant.now + RULES.renewal_retry)

    assert owed_micros > 0
    assert tenant.charged == [-owed_micros]
    assert tenant.sees(deployment_id).owed_micros == 0
    with tenant.database.read() as session:
        assert session.get_one(DeploymentRow, deployment_id).due_at is None


def test_what_ran_in_its_grace_is_asked_for_when_it_is_suspended(tenant: Tenant) -> None:
    """A wallet that lacks the month may well have three days of it."""
    tenant.deploys()
    tenant.gets(RAN_MICROS)

    tenant.lives(month(1) + RULES.grace)

    assert (tenant.charged, tenant.balance) == ([-RAN_MICROS], 0)


def test_what_ran_in_its_grace_is_paid_by_a_wallet_that_is_frozen_no_more(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.gets(RAN_MICROS)
    tenant.freezes()
    tenant.lives(month(1) + RULES.grace)

    tenant.thaws()
    tenant.lives(tenant.now + RULES.renewal_retry)

    assert tenant.charged == [-RAN_MICROS]


# A wallet that does not answer.


def test_a_month_that_a_held_wallet_does_not_answer_is_asked_for_within_a_minute(
    tenant: Tenant, stack: System
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(10 * PRICE)

    with wallet_held(stack, tenant.user_id):
        tenant.runs(month(1))
    before = tenant.charged
    tenant.lives(month(1) + DUE.lease)

    assert (before, tenant.charged) == ([], [-PRICE])
    assert tenant.sees(deployment_id).paid_until == month(2)
