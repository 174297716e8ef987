"""Whoever decides over a purchase has it to himself: each lock, held elsewhere, is waited for.

Before anything is decided, that is: whoever read the row first and waits only when he writes it
would write what he decided from old news. So what is waited at is the reading.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.billing import (
    CancelPurchase,
    DeploymentStatus,
    PurchaseStatus,
    ReportDeployment,
)
from contracts.errors import Unavailable
from services.billing.deployments.lifecycle import report_deployment
from services.billing.models import PurchaseRow
from services.billing.purchases import claims, lifecycle, recording, refusals
from services.billing.purchases.checkout import Checkout
from services.billing.purchases.claims import Claim
from services.billing.purchases.recording import Order
from tests.billing.conftest import EXTERNAL, NOW, RULES, at, command_for, quote_of, quoted, recorded
from tests.billing.test_purchases import events
from tests.locks import held, until_waiting, waits_at
from tests.patience import insist

PURCHASE = "SELECT FROM purchases WHERE purchase_id = :id FOR UPDATE"
DEPLOYMENT = "SELECT FROM deployments WHERE deployment_id = :id FOR UPDATE"
BUYER = "SELECT pg_advisory_xact_lock(hashtextextended('buyer:' || CAST(:id AS text), 0))"
LATER = NOW + RULES.claim_lease
AFTER_HOLD = NOW + RULES.stock_hold


class Away:
    """Other services that cannot be reached: what is looked at here comes before them."""

    def call(self, request: Any, timeout_s: float) -> Any:
        raise Unavailable(f"{request.service} did nothing within {timeout_s} s.")


class Setting(NamedTuple):
    database: Connected
    claimed: Claim

    def checkout(self, now: datetime) -> Checkout:
        return Checkout(self.database, cast(RpcClient, Away()), RULES, lambda: now)

    @property
    def user_id(self) -> UUID:
        return self.claimed.row.user_id

    def within(self, rule: Callable[[Session], object]) -> None:
        with self.database.begin() as session:
            rule(session)


@pytest.fixture
def setting(database: Connected) -> Setting:
    return Setting(database, recorded(database))


def wait_for_funds(setting: Setting) -> None:
    setting.within(
        lambda session: lifecycle.wait_for_funds(session, NOW, setting.claimed, 0, NOW, RULES)
    )


def begin_closing(setting: Setting) -> None:
    def rule(session: Session) -> None:
        row = session.get_one(PurchaseRow, setting.claimed.purchase_id)
        lifecycle.begin_closing(NOW, row, PurchaseStatus.CANCELLED, "why", "A reason.")

    setting.within(rule)


def nothing(_: Setting) -> None:
    """The purchase as its writer has it."""


def cancel(setting: Setting) -> None:
    setting.checkout(NOW).cancel(
        CancelPurchase(user_id=setting.user_id, purchase_id=setting.claimed.purchase_id)
    )


def close(setting: Setting) -> None:
    setting.checkout(NOW)._close(setting.claimed, PurchaseStatus.FAILED, "why", "A reason.")


def end_stock_hold(setting: Setting) -> None:
    setting.checkout(AFTER_HOLD)._end_stock_hold(setting.claimed)


def claim(setting: Setting) -> None:
    setting.within(
        lambda session: claims.claim(session, LATER, RULES.claim_lease, setting.claimed.purchase_id)
    )


def postpone(setting: Setting) -> None:
    setting.within(lambda session: claims.postpone(session, NOW, setting.claimed))


def mark_owed(setting: Setting) -> None:
    setting.within(lambda session: claims.mark_owed(session, NOW, setting.user_id))


def complete(setting: Setting) -> None:
    purchase_id = setting.claimed.purchase_id
    setting.within(lambda session: lifecycle.complete(session, NOW, purchase_id, uuid4(), RULES))


def end_unpaid(setting: Setting) -> None:
    setting.within(lambda session: lifecycle.end_unpaid(session, NOW, setting.claimed.purchase_id))


def explain(setting: Setting) -> None:
    setting.within(lambda session: refusals.explain(session, NOW, setting.user_id, "code", "…"))


@pytest.mark.parametrize(
    ("before", "act"),
    [
        (nothing, cancel),
        (nothing, close),
        (nothing, end_stock_hold),
        (nothing, claim),
        (nothing, postpone),
        (nothing, mark_owed),
        (nothing, wait_for_funds),
        (nothing, complete),
        (begin_closing, end_unpaid),
        (wait_for_funds, explain),
    ],
)
def test_whoever_decides_over_a_purchase_waits_for_who_holds_it(
    setting: Setting, before: Callable[[Setting], None], act: Callable[[Setting], None]
) -> None:
    before(setting)

    statement = waits_at(
        setting.database, lambda: act(setting), PURCHASE, id=setting.claimed.purchase_id
    )

    assert statement is not None
    assert statement.startswith(("SELECT", lifecycle._HOLD_SHORT.numbered(0).split("(")[0]))


def test_whoever_reports_a_deployment_waits_for_who_holds_it(setting: Setting) -> None:
    with setting.database.begin() as session:
        row = lifecycle.complete(session, NOW, setting.claimed.purchase_id, uuid4(), EXTERNAL)
        (deployment_id,) = (one.deployment_id for one in row.deployments)
    report = ReportDeployment(deployment_id=deployment_id, status=DeploymentStatus.ACTIVE)

    statement = waits_at(
        setting.database,
        lambda: setting.within(lambda session: report_deployment(session, at(NOW), report, RULES)),
        DEPLOYMENT,
        id=deployment_id,
    )

    assert statement is not None
    assert statement.startswith("SELECT")


def record(setting: Setting) -> None:
    recorded(setting.database, user_id=setting.user_id)


@pytest.mark.parametrize("act", [record, wait_for_funds])
def test_whoever_decides_over_all_of_a_buyers_purchases_waits_for_who_does(
    setting: Setting, act: Callable[[Setting], None]
) -> None:
    statement = waits_at(setting.database, lambda: act(setting), BUYER, id=str(setting.user_id))

    assert statement is not None
    assert statement.startswith(recording._LOCK_BUYERS.numbered(0).split("(")[0])


@pytest.mark.parametrize("act", [record, wait_for_funds])
def test_another_buyer_keeps_nobody_waiting(
    setting: Setting, act: Callable[[Setting], None]
) -> None:
    statement = waits_at(setting.database, lambda: act(setting), BUYER, id=str(uuid4()))

    assert statement is None


def test_two_that_fall_short_at_once_are_both_in_the_last_shortfall(database: Connected) -> None:
    user_id = uuid4()
    made = [recorded(database, quoted(5_000_000), user_id=user_id) for _ in range(2)]

    def fall_short(claimed: Claim) -> None:
        with database.begin() as session:
            lifecycle.wait_for_funds(session, NOW, claimed, 0, NOW, RULES)

    with ThreadPoolExecutor(1) as workers:
        with database.begin() as session:
            lifecycle.wait_for_funds(session, NOW, made[0], 0, NOW, RULES)
            second = workers.submit(insist, lambda: fall_short(made[1]))
            until_waiting(database, session, second)
        second.result()

    totals = [
        event["total_shortfall_micros"] for event in events(database, "purchase_short_of_funds")
    ]
    assert totals == [5_000_000, 10_000_000]


def test_a_purchase_that_is_held_is_passed_over(database: Connected) -> None:
    first, second = recorded(database), recorded(database, now=NOW + timedelta(seconds=1))

    with held(database, PURCHASE, id=first.purchase_id), database.begin() as session:
        taken = claims.claim_next(session, LATER + timedelta(seconds=1), RULES.claim_lease)

    assert taken is not None
    assert taken.purchase_id == second.purchase_id


def test_one_key_at_once_is_recorded_once(database: Connected) -> None:
    quote, user_id = quote_of(quoted(5_000_000)), uuid4()
    command = command_for(quote, user_id, "key")

    def record_it() -> Claim | None:
        with database.begin() as session:
            return recording.record(session, NOW, Order(command, quote), RULES)

    with ThreadPoolExecutor(1) as workers, database.begin() as session:
        first = recording.record(session, NOW, Order(command, quote), RULES)
        second = workers.submit(insist, record_it)
        until_waiting(database, session, second)

    assert (first is not None, second.result()) == (True, None)
