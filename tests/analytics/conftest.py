"""Analytics on a real database, and a story of which every figure is known by hand."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import pytest

from chassis.database import Connected, connect
from chassis.identifiers import new_id
from contracts.billing import (
    ChangeCause,
    DeploymentActivated,
    DeploymentChanged,
    DeploymentRenewed,
    DeploymentStatus,
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseRefunded,
    PurchaseShortOfFunds,
    PurchaseStatus,
    PurchaseWay,
    RefundCause,
    SoldLine,
)
from contracts.gateway import PathStep, StepsTaken, StepTaken, UserRegistered
from contracts.messages import Event
from contracts.topup import (
    AutoTopupSettingsChanged,
    TopupFailed,
    TopupKind,
    TopupPaid,
    TopupRestored,
    TopupReversed,
)
from tests.counted import empty

USD = 1_000_000
_SPACE = UUID("6f1d3a52-0d3c-4b0e-9c55-7a1f2d8e4b90")


def an_id(name: str) -> UUID:
    return uuid5(_SPACE, name)


BUY_NOW, CART = PurchaseWay.BUY_NOW, PurchaseWay.CART
ANN, BOB, CLEO = map(an_id, ("ann", "bob", "cleo"))
VM, DISK = an_id("vm"), an_id("disk")


def at(day: int, clock: str) -> datetime:
    """A moment of November 2026, of which the 2nd is a Monday."""
    return datetime.fromisoformat(f"2026-11-{day:02}T{clock}").replace(tzinfo=UTC)


def now_and(moment: datetime, user_id: UUID, **more: Any) -> dict[str, Any]:
    return {"event_id": new_id(), "occurred_at": moment, "user_id": user_id, **more}


def completed(
    name: str,
    user_id: UUID,
    begun: datetime,
    moment: datetime,
    *lines: tuple[UUID, int, int],
    way: PurchaseWay | None = None,
) -> PurchaseCompleted:
    """Lines are a product, how many, and dollars for all of them; a tenth of the first is a fee."""
    sold = [
        SoldLine(product_id=product_id, quantity=quantity, amount_micros=dollars * USD)
        for product_id, quantity, dollars in lines
    ]
    return PurchaseCompleted(
        **now_and(moment, user_id),
        purchase_id=an_id(name),
        total_micros=sum(line.amount_micros for line in sold),
        description=name,
        deployment_ids=[],
        begun_at=begun,
        fee_micros=sold[0].amount_micros // 10,
        lines=sold,
        way=way,
    )


def ended(
    name: str,
    user_id: UUID,
    begun: datetime,
    moment: datetime,
    status: str,
    code: str = "",
    way: PurchaseWay | None = None,
) -> PurchaseEnded:
    return PurchaseEnded(
        **now_and(moment, user_id),
        purchase_id=an_id(name),
        status=PurchaseStatus(status),
        status_code=code,
        reason="",
        begun_at=begun,
        way=way,
    )


def steps(day: int, *taken: tuple[str, PurchaseWay, str, str]) -> StepsTaken:
    """Each a browser of that day, how it is to buy, the step, and the time of the day."""
    return StepsTaken(
        event_id=new_id(),
        occurred_at=at(day, "23:00:00"),
        steps=[
            StepTaken(
                path_id=an_id(f"{name} on {day}"),
                way=way,
                step=PathStep(step),
                taken_at=at(day, clock),
            )
            for name, way, step, clock in taken
        ],
    )


def paid(name: str, user_id: UUID, moment: datetime, kind: str, dollars: int) -> TopupPaid:
    return TopupPaid(
        **now_and(moment, user_id),
        topup_id=an_id(name),
        kind=TopupKind(kind),
        amount_micros=dollars * USD,
        payment_id=name,
    )


def declined(name: str, user_id: UUID, moment: datetime, kind: str, code: str) -> TopupFailed:
    return TopupFailed(
        **now_and(moment, user_id),
        topup_id=an_id(name),
        kind=TopupKind(kind),
        amount_micros=10 * USD,
        failure_code=code,
        message="",
    )


def saved(
    user_id: UUID, moment: datetime, version: int, threshold_micros: int | None
) -> AutoTopupSettingsChanged:
    return AutoTopupSettingsChanged(
        **now_and(moment, user_id), settings_version=version, threshold_micros=threshold_micros
    )


def changed(moment: datetime, status: str, cost_micros: int | None = None) -> DeploymentChanged:
    return DeploymentChanged(
        **now_and(moment, ANN),
        deployment_id=an_id("d1"),
        name="vm",
        status=DeploymentStatus(status),
        cause=ChangeCause.OWNER,
        monthly_cost_micros=cost_micros,
    )


def story() -> list[Event]:
    """Two weeks of three people, in order."""
    back = {"topup_id": an_id("t1"), "reversal_id": "dp_1", "amount_micros": 25 * USD}
    return [
        # Monday 2nd: Ann buys within two minutes; Bob only looks.
        UserRegistered(**now_and(at(2, "10:00:00"), ANN)),
        DeploymentActivated(
            **now_and(at(2, "10:01:30"), ANN),
            deployment_id=an_id("d1"),
            name="vm",
            monthly_cost_micros=30 * USD,
        ),
        completed(
            "p1", ANN, at(2, "10:01:00"), at(2, "10:01:30"), (VM, 2, 20), (DISK, 1, 3), way=BUY_NOW
        ),
        saved(ANN, at(2, "10:02:00"), 1, 5 * USD),
        UserRegistered(**now_and(at(2, "10:30:00"), BOB)),
        # Tuesday 3rd: Bob is short, pays by hand at the second try, and gets it.
        saved(BOB, at(3, "08:00:00"), 1, 5 * USD),
        PurchaseShortOfFunds(
            **now_and(at(3, "09:00:01"), BOB),
            purchase_id=an_id("p2"),
            total_micros=25 * USD,
            shortfall_micros=25 * USD,
            total_shortfall_micros=25 * USD,
            available_micros=0,
            begun_at=at(3, "09:00:00"),
            way=CART,
        ),
        declined("t1", BOB, at(3, "09:04:00"), "manual", "authentication_required"),
        paid("t1", BOB, at(3, "09:05:00"), "manual", 25),
        completed("p2", BOB, at(3, "09:00:00"), at(3, "09:05:10"), (VM, 1, 25), way=CART),
        # Wednesday 4th: Ann is charged by itself, published twice; Bob has a refund.
        paid("t2", ANN, at(4, "12:00:00"), "auto", 10),
        paid("t2", ANN, at(4, "12:10:00"), "auto", 10),
        saved(BOB, at(4, "13:00:00"), 2, None),
        PurchaseRefunded(
            **now_and(at(4, "14:00:00"), BOB),
            purchase_id=an_id("p2"),
            refund_id=an_id("r1"),
            cause=RefundCause.SUPPORT,
            reason="",
            amount_micros=5 * USD,
            description="",
        ),
        # Thursday 5th: a charge is declined twice; Bob's bank takes the money back, until Friday.
        declined("t3", ANN, at(5, "12:00:00"), "auto", "processing_error"),
        declined("t3", ANN, at(5, "12:30:00"), "auto", "card_declined"),
        TopupReversed(**now_and(at(5, "15:00:00"), BOB), **back, is_dispute=True, description="x"),
        TopupRestored(**now_and(at(6, "15:00:00"), BOB), **back, is_dispute=True, description="x"),
        *_next_week(),
        *_paths(),
    ]


def _paths() -> list[Event]:
    return [
        # Ann's browser goes all the way, Bob's looks twice, a third comes from the list.
        steps(
            2,
            ("a", BUY_NOW, "product_page", "10:00:10"),
            ("b", BUY_NOW, "product_page", "10:31:00"),
            ("a", BUY_NOW, "dialog", "10:00:40"),
        ),
        steps(
            2,
            ("a", BUY_NOW, "completed", "10:01:31"),
            ("b", BUY_NOW, "product_page", "10:35:00"),
            ("c", BUY_NOW, "dialog", "11:00:00"),
        ),
        # Looked at as well, and bought in a cart.
        steps(
            3,
            ("b", BUY_NOW, "product_page", "09:00:00"),
            ("b", CART, "filled", "09:00:10"),
            ("b", CART, "cart_page", "09:00:20"),
            ("b", CART, "card_page", "09:00:30"),
            ("b", CART, "completed", "09:05:12"),
        ),
        # Nobody buys anything.
        steps(
            9,
            ("e", BUY_NOW, "product_page", "08:00:00"),
            ("e", BUY_NOW, "dialog", "08:01:00"),
            ("e", BUY_NOW, "card_page", "08:02:00"),
            ("e", CART, "filled", "08:03:00"),
            ("f", CART, "cart_page", "08:04:00"),
            ("g", CART, "filled", "08:05:00"),
            ("g", CART, "cart_page", "08:06:00"),
            ("g", CART, "card_page", "08:07:00"),
        ),
    ]


def _next_week() -> list[Event]:
    return [
        # A month, dearer; suspended, running again, another size, and over.
        DeploymentRenewed(
            **now_and(at(9, "10:00:00"), ANN),
            deployment_id=an_id("d1"),
            name="vm",
            amount_micros=35 * USD,
            starts_at=at(9, "10:00:00"),
            ends_at=at(30, "10:00:00"),
            transaction_id=an_id("x1"),
            fee_micros=3 * USD,
        ),
        UserRegistered(**now_and(at(9, "08:00:00"), CLEO)),
        ended("p3", CLEO, at(9, "08:10:00"), at(9, "08:10:01"), "failed", "out_of_stock", BUY_NOW),
        ended("p4", CLEO, at(9, "08:20:00"), at(10, "08:20:00"), "expired", "card_declined", CART),
        ended("p5", ANN, at(10, "11:00:00"), at(10, "11:01:00"), "cancelled"),
        changed(at(10, "12:00:00"), "suspended"),
        changed(at(11, "12:00:00"), "active"),
        changed(at(11, "13:00:00"), "active", 50 * USD),
        changed(at(12, "12:00:00"), "cancelled"),
    ]


@pytest.fixture(scope="session")
def analytics_database(databases: dict[str, str]) -> Iterator[Connected]:
    database = connect(databases["analytics"], pool_size=8)
    yield database
    database.engine.dispose()


@pytest.fixture
def database(analytics_database: Connected) -> Connected:
    empty(analytics_database)
    return analytics_database
