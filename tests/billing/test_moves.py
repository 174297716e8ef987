"""What each move leaves in a row, and what it tells: all of it, not only the status."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from chassis.database import Connected
from contracts.billing import ChangeCause, DeploymentStatus, PurchaseCompleted, PurchaseStatus
from contracts.messages import MAX_AMOUNT_MICROS
from services.billing.deployments.lifecycle import change_status
from services.billing.models import DeploymentRow, PurchaseRow, StockReleaseRow
from services.billing.purchases import claims, lifecycle, refusals
from services.billing.purchases.claims import Claim
from services.billing.purchases.queries import as_purchase
from services.billing.settings import BillingSettings
from tests.billing.conftest import EXTERNAL, NOW, RULES, quoted, recorded, row_of

LATER = NOW + timedelta(minutes=5)
PRICE_MICROS = 5_000_000


def told(database: Connected) -> list[tuple[str, dict[str, Any]]]:
    with database.read() as session:
        rows = session.execute(text("SELECT type, payload FROM outbox ORDER BY id"))
        return [(row.type, row.payload) for row in rows]


def explained_and_short(database: Connected, available_micros: int = 0) -> Claim:
    """A purchase that waits, was told why no money came, and is claimed anew."""
    claimed = recorded(database, quoted(PRICE_MICROS))
    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, available_micros, NOW, RULES)
    with database.begin() as session:
        refusals.explain(session, NOW, claimed.row.user_id, "daily_limit", "A limit.")
        claims.mark_owed(session, NOW, claimed.row.user_id)
    with database.begin() as session:
        again = claims.claim(session, NOW, RULES.claim_lease, claimed.purchase_id)
        session.execute(text("DELETE FROM outbox"))
    assert again is not None
    return again


def test_what_is_complete_holds_nothing_of_the_time_when_it_waited(database: Connected) -> None:
    claimed, transaction_id = explained_and_short(database), uuid4()

    with database.begin() as session:
        lifecycle.complete(session, LATER, claimed.purchase_id, transaction_id, RULES)

    row = row_of(database, claimed.purchase_id)
    assert (row.status, row.status_code, row.status_reason) == (PurchaseStatus.COMPLETED, "", "")
    assert (row.transaction_id, row.shortfall_micros) == (transaction_id, 0)
    assert (row.ended_at, row.updated_at) == (LATER, LATER)
    assert (row.stock_held_until, row.claim_id, row.claimed_until, row.due_at) == (None,) * 4


def test_what_was_paid_while_it_was_closed_is_not_being_closed_any_more(
    database: Connected,
) -> None:
    claimed = explained_and_short(database)
    with database.begin() as session:
        row = session.get_one(PurchaseRow, claimed.purchase_id, with_for_update=True)
        lifecycle.begin_closing(NOW, row, PurchaseStatus.CANCELLED, "cancelled", "By the buyer.")

    with database.begin() as session:
        lifecycle.complete(session, LATER, claimed.purchase_id, uuid4(), RULES)

    row = row_of(database, claimed.purchase_id)
    assert (row.status, row.closing_status) == (PurchaseStatus.COMPLETED, None)


def test_a_completion_tells_what_was_bought(database: Connected) -> None:
    claimed = recorded(database, quoted(PRICE_MICROS, 2))

    with database.begin() as session:
        lifecycle.complete(session, NOW, claimed.purchase_id, uuid4(), RULES)

    row = row_of(database, claimed.purchase_id)
    (event,) = [payload for kind, payload in told(database) if kind == "purchase_completed"]
    assert event["description"] == "VM-Production ×2"
    assert event["total_micros"] == 2 * PRICE_MICROS
    assert event["deployment_ids"] == [str(item.deployment_id) for item in row.deployments]


def test_what_ended_unpaid_holds_and_tells_its_reason(database: Connected) -> None:
    claimed = explained_and_short(database)
    with database.begin() as session:
        row = session.get_one(PurchaseRow, claimed.purchase_id, with_for_update=True)
        lifecycle.begin_closing(NOW, row, PurchaseStatus.EXPIRED, "expired", "Too late.")

    with database.begin() as session:
        lifecycle.end_unpaid(session, LATER, claimed.purchase_id)

    row = row_of(database, claimed.purchase_id)
    ended = (PurchaseStatus.EXPIRED, "expired", "Too late.")
    assert (row.status, row.status_code, row.status_reason) == ended
    assert (row.shortfall_micros, row.ended_at, row.updated_at) == (0, LATER, LATER)
    assert (row.stock_held_until, row.claim_id, row.claimed_until, row.due_at) == (None,) * 4
    ((kind, event),) = told(database)
    assert kind == "purchase_ended"
    assert (event["status"], event["status_code"], event["reason"]) == ended


def test_a_try_that_fell_short_starts_the_count_of_tries_anew(database: Connected) -> None:
    claimed = explained_and_short(database)

    with database.begin() as session:
        money_came = lifecycle.wait_for_funds(
            session, LATER, claimed, PRICE_MICROS - 1, LATER, RULES
        )

    row = row_of(database, claimed.purchase_id)
    assert not money_came
    assert (row.attempts, row.updated_at, row.shortfall_micros) == (0, LATER, 1)
    assert (row.claim_id, row.due_at) == (None, LATER + RULES.stock_hold)


def test_a_purchase_that_is_being_closed_does_not_wait_for_money(database: Connected) -> None:
    claimed = explained_and_short(database)
    with database.begin() as session:
        row = session.get_one(PurchaseRow, claimed.purchase_id, with_for_update=True)
        lifecycle.begin_closing(NOW, row, PurchaseStatus.CANCELLED, "cancelled", "By the buyer.")

    with database.begin() as session:
        lifecycle.wait_for_funds(session, LATER, claimed, 0, LATER, RULES)

    row = row_of(database, claimed.purchase_id)
    assert (row.claim_id, row.due_at, told(database)) == (None, LATER, [])


def test_a_purchase_that_nobody_works_on_is_closed_at_once(database: Connected) -> None:
    claimed = recorded(database)
    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, 0, NOW, RULES)

    with database.begin() as session:
        row = session.get_one(PurchaseRow, claimed.purchase_id, with_for_update=True)
        lifecycle.begin_closing(LATER, row, PurchaseStatus.CANCELLED, "cancelled", "A reason.")

    assert row_of(database, claimed.purchase_id).due_at == LATER


def test_a_purchase_that_somebody_works_on_is_closed_when_its_lease_ends(
    database: Connected,
) -> None:
    claimed = recorded(database)

    with database.begin() as session:
        row = session.get_one(PurchaseRow, claimed.purchase_id, with_for_update=True)
        lifecycle.begin_closing(LATER, row, PurchaseStatus.CANCELLED, "cancelled", "A reason.")

    assert row_of(database, claimed.purchase_id).due_at == NOW + RULES.claim_lease


def test_a_debt_makes_no_shortfall_larger_than_an_amount_may_be(database: Connected) -> None:
    claimed = recorded(database, quoted(PRICE_MICROS))

    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, -MAX_AMOUNT_MICROS, NOW, RULES)

    ((_, event),) = told(database)
    largest = (MAX_AMOUNT_MICROS, MAX_AMOUNT_MICROS)
    assert (event["shortfall_micros"], event["total_shortfall_micros"]) == largest


def test_the_next_thing_to_do_is_the_first_of_what_waits_and_of_stock_to_put_back(
    database: Connected,
) -> None:
    nothing = _next_at(database)
    done = recorded(database, now=NOW - timedelta(hours=2))
    recorded(database, now=NOW)
    recorded(database, now=LATER)
    with database.begin() as session:
        lifecycle.complete(session, NOW, done.purchase_id, uuid4(), RULES)
    purchase = _next_at(database)
    with database.begin() as session:
        session.add(StockReleaseRow(reservation_id=uuid4(), requested_at=NOW - timedelta(days=1)))

    assert (nothing, purchase) == (None, NOW + RULES.claim_lease)
    assert _next_at(database) == NOW - timedelta(days=1)


def _next_at(database: Connected) -> object:
    with database.read() as session:
        return claims.next_at(session)


@pytest.mark.parametrize(
    ("to", "kinds", "is_over"),
    [
        (DeploymentStatus.FAILED, ["deployment_failed"], True),
        (DeploymentStatus.CANCELLED, ["deployment_changed"], True),
        (DeploymentStatus.ACTIVE, ["deployment_activated"], False),
    ],
)
def test_a_deployment_tells_what_it_became(
    database: Connected, to: DeploymentStatus, kinds: list[str], is_over: bool
) -> None:
    claimed = recorded(database, quoted(PRICE_MICROS))
    with database.begin() as session:
        row = lifecycle.complete(session, NOW, claimed.purchase_id, uuid4(), EXTERNAL)
        (deployment_id,) = [deployment.deployment_id for deployment in row.deployments]
    with database.begin() as session:
        session.execute(text("DELETE FROM outbox"))

    with database.begin() as session:
        change_status(
            session,
            LATER,
            session.get_one(DeploymentRow, deployment_id),
            to,
            ChangeCause.PROVISIONER,
            RULES,
            reason="So.",
        )

    with database.read() as session:
        deployment = session.get_one(DeploymentRow, deployment_id)
    assert [kind for kind, _ in told(database)] == kinds
    assert (deployment.status_reason, deployment.status_changed_at) == ("So.", LATER)
    assert deployment.ended_at == (LATER if is_over else None)


def test_a_deployment_that_runs_again_keeps_its_months(database: Connected) -> None:
    claimed = recorded(database, quoted(PRICE_MICROS))
    with database.begin() as session:
        row = lifecycle.complete(session, NOW, claimed.purchase_id, uuid4(), RULES)
        (deployment_id,) = [deployment.deployment_id for deployment in row.deployments]

    for to in (DeploymentStatus.STOPPED, DeploymentStatus.ACTIVE):
        with database.begin() as session:
            change_status(
                session,
                LATER,
                session.get_one(DeploymentRow, deployment_id),
                to,
                ChangeCause.OWNER,
                RULES,
            )

    with database.read() as session:
        deployment = session.get_one(DeploymentRow, deployment_id)
    assert (deployment.active_at, deployment.period_anchor_at) == (NOW, NOW)
    assert deployment.paid_until == NOW.replace(month=NOW.month + 1)


@pytest.mark.parametrize("rules", [RULES, EXTERNAL])
def test_a_completed_purchase_is_told_as_it_is_seen_then(
    database: Connected, rules: BillingSettings
) -> None:
    claimed = recorded(database)
    with database.begin() as session:
        row = lifecycle.complete(session, NOW, claimed.purchase_id, uuid4(), rules)
    seen = as_purchase(row, rules)

    event = PurchaseCompleted.model_validate(dict(told(database))["purchase_completed"])

    assert event.transaction_id == seen.transaction_id
    assert event.deployment_ids == seen.deployment_ids
    assert (event.occurred_at, event.returnable_until) == (seen.updated_at, seen.returnable_until)
    assert (event.returnable_until is not None) == (rules is EXTERNAL)
