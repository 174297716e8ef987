"""Everybody's purchases as billing records them: the same as its events said."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest

from chassis.database import Connected, connect
from chassis.identifiers import new_id
from contracts.billing import (
    CancelWhen,
    DeploymentRecord,
    DeploymentStatus,
    ExportDeployments,
    ExportPurchases,
    PurchaseRecord,
    PurchaseStatus,
    RefundPurchase,
    RenameDeployment,
)
from contracts.catalog import Category
from contracts.legacy import MovedService, PersonMoved
from services.analytics.facts import of_deployment, of_purchase
from services.billing.deployments import commands
from services.billing.deployments.export import export_deployments
from services.billing.purchases import lifecycle, moving, returns
from services.billing.purchases.claims import Claim
from services.billing.purchases.export import export_purchases
from services.billing.refunds import settling
from tests.billing.conftest import NOW, RULES, at, quoted, recorded
from tests.billing.test_discounts import hears
from tests.billing.test_renewals import DAY, PRICE, month
from tests.billing.test_resizing import HALF, Owner, owner, sizes
from tests.counted import assert_records_tell_the_same

__all__ = ["owner", "sizes"]

USD = 1_000_000
S = PurchaseStatus


@pytest.fixture(scope="module")
def analytics(databases: dict[str, str]) -> Iterator[Connected]:
    connected = connect(databases["analytics"])
    yield connected
    connected.engine.dispose()


def completed(database: Connected, claimed: Claim, after_s: int) -> Claim:
    with database.begin() as session:
        now = NOW + timedelta(seconds=after_s)
        lifecycle.complete(session, now, claimed.purchase_id, new_id(), RULES)
    return claimed


def short(database: Connected, claimed: Claim, after_s: int) -> Claim:
    with database.begin() as session:
        now = NOW + timedelta(seconds=after_s)
        lifecycle.wait_for_funds(session, now, claimed, 0, now, RULES)
    return claimed


def closed(database: Connected, claimed: Claim, status: PurchaseStatus, code: str) -> None:
    with database.begin() as session:
        row = session.get_one(lifecycle.PurchaseRow, claimed.purchase_id, with_for_update=True)
        lifecycle.begin_closing(NOW, row, status, code, "Why.")
    with database.begin() as session:
        lifecycle.end_unpaid(session, NOW + timedelta(days=1), claimed.purchase_id)


def refunded(database: Connected, claimed: Claim) -> None:
    """Its first line, the wallet having done its part."""
    command = RefundPurchase(
        idempotency_key=f"{uuid4()}",
        purchase_id=claimed.purchase_id,
        line=0,
        reason="It was slow",
        actor="me",
    )
    with database.begin() as session:
        refund = returns.refund_purchase(session, at(NOW + timedelta(hours=2)), command, RULES)
        lines = {line.position: line for line in claimed.row.lines}
        settling._finish(session, at(NOW + timedelta(hours=3)), refund.refund_id, lines)


def everything(database: Connected, limit: int = 2) -> list[PurchaseRecord]:
    found: list[PurchaseRecord] = []
    cursor = None
    while True:
        with database.read() as session:
            page = export_purchases(session, ExportPurchases(cursor=cursor, limit=limit))
        assert len(page.records) <= limit
        found += page.records
        if (cursor := page.next_cursor) is None:
            return found


def deployments(database: Connected, limit: int = 2) -> list[DeploymentRecord]:
    found: list[DeploymentRecord] = []
    cursor = None
    while True:
        with database.read() as session:
            page = export_deployments(session, ExportDeployments(cursor=cursor, limit=limit))
        assert len(page.records) <= limit
        found += page.records
        if (cursor := page.next_cursor) is None:
            return found


def some_of_each(database: Connected) -> None:
    sold = quoted(10 * USD, 2, provider_id=uuid4())
    refunded(database, completed(database, recorded(database, sold, quoted(3 * USD)), 1))
    completed(database, short(database, recorded(database), 1), 4_000)
    short(database, recorded(database), 2)
    staker = uuid4()
    hears(database, staker, 500)
    completed(database, recorded(database, quoted(3 * USD), user_id=staker), 1)
    closed(database, short(database, recorded(database), 1), S.EXPIRED, "card_declined")
    closed(database, recorded(database), S.FAILED, "out_of_stock")
    closed(database, recorded(database), S.CANCELLED, "")


def test_what_is_recorded_comes_to_what_was_heard(
    database: Connected, analytics: Connected
) -> None:
    some_of_each(database)

    found = [*map(of_purchase, everything(database)), *map(of_deployment, deployments(database))]
    assert_records_tell_the_same(analytics, database, "billing", found)


def test_each_is_on_one_page_in_the_order_in_which_they_were_made(database: Connected) -> None:
    some_of_each(database)

    found = everything(database)
    assert [record.purchase_id for record in found] == [
        record.purchase_id for record in everything(database, limit=500)
    ]
    assert [record.status for record in found] == [
        S.COMPLETED,
        S.COMPLETED,
        S.AWAITING_FUNDS,
        S.COMPLETED,
        S.EXPIRED,
        S.FAILED,
        S.CANCELLED,
    ]
    assert (found[0].total_micros, found[0].fee_micros) == (23 * USD, 2 * USD)
    assert [refund.amount_micros for refund in found[0].refunds] == [20 * USD]


def test_what_is_under_way_and_what_came_from_the_old_system_is_left_out(
    database: Connected,
) -> None:
    recorded(database)
    old = MovedService(
        deployment_id=new_id(),
        name="old",
        category=Category.COMPUTE,
        monthly_cost_micros=USD,
        renews_at=NOW + timedelta(days=3),
    )
    moved = PersonMoved(
        event_id=new_id(),
        occurred_at=NOW,
        user_id=uuid4(),
        email="a@example.com",
        balance_micros=0,
        services=[old],
    )
    with database.begin() as session:
        moving.take_over(session, NOW, [moved], RULES)

    assert everything(database) == []


def test_months_states_and_sizes_on_record_come_to_what_was_heard(
    owner: Owner, analytics: Connected
) -> None:
    """One has another size, another name and ends; one is suspended, started and given up."""
    sold = owner.buys(owner.sizes.one, provider_id=uuid4())
    owner.lives(HALF)
    owner.resize(sold, owner.sizes.two)
    wish = {"user_id": owner.user_id, "deployment_id": sold, "name": "Shop"}
    with owner.database.begin() as session:
        commands.rename(session, at(owner.now), RenameDeployment(idempotency_key="k", **wish))
    owner.lives(month(2))
    owner.cancels(sold)
    (poor,) = owner.deploys(20 * PRICE)
    owner.lives(month(3) + RULES.grace + DAY)
    assert owner.sees(poor).status == DeploymentStatus.SUSPENDED
    owner.gets(60 * PRICE)
    owner.starts(poor)
    owner.lives(owner.now + 40 * DAY)
    owner.cancels(poor, CancelWhen.NOW)
    database = owner.database
    months = {each.deployment_id: each.months for each in deployments(database, limit=1)}

    found = [*map(of_purchase, everything(database)), *map(of_deployment, deployments(database))]
    assert_records_tell_the_same(analytics, database, "billing", found)
    assert [month.fee_micros for month in months[sold]] == [2 * PRICE // 10] * 2
    assert len(months[poor]) == 2
