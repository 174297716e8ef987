"""Billing on a real database, and with the catalog and the wallet as real processes."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.database import Connected, connect
from contracts.billing import PurchaseLine, StartPurchase
from contracts.catalog import BillingPeriod, Category, Meter, Product, Quote, QuotedLine
from services.billing.models import PurchaseRow
from services.billing.purchases import recording
from services.billing.purchases.claims import Claim
from services.billing.purchases.recording import Order
from services.billing.renewals import plain
from services.billing.renewals.plain import Month
from services.billing.renewals.renewals import DUE
from services.billing.settings import BillingSettings
from tests.conftest import LastingStack
from tests.system import System

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
# The services are asked for real: a machine that stalls for some seconds leaves no call unanswered.
RULES = BillingSettings(amqp_uri="", database_url="", call_timeout_s=30)
EXTERNAL = RULES.model_copy(update={"provisioning": "external"})


@pytest.fixture(scope="session")
def billing_database(databases: dict[str, str]) -> Iterator[Connected]:
    database = connect(databases["billing"], pool_size=25)
    yield database
    database.engine.dispose()


@pytest.fixture
def database(billing_database: Connected) -> Connected:
    return emptied(billing_database)


def emptied(billing_database: Connected) -> Connected:
    """Without what other tests left in it."""
    with billing_database.begin() as session:
        session.execute(
            text(
                "TRUNCATE purchases, purchase_lines, deployments, deployment_changes, periods,"
                " payouts, receipts, refunds, refunded_units, debts, stock_releases, fee_changes,"
                " discounts, sales,"
                " usage_records, usage_totals, usage_wallets, usage_charges, usage_charge_lines,"
                " usage_refunds,"
                " runways, shortages, outbox, inbox"
            )
        )
    return billing_database


@pytest.fixture(scope="session")
def stack(lasting_stack: LastingStack) -> Iterator[System]:
    """Wallet, catalog and billing as processes, with short waits."""
    settings = {"CALL_TIMEOUT_S": "2"}
    with lasting_stack("wallet", "catalog", "billing", settings=settings) as stack:
        yield stack


def quoted(
    price_micros: int,
    quantity: int = 1,
    period: str = "month",
    name: str = "VM-Production",
    provider_id: UUID | None = None,
    meters: Sequence[Meter] = (),
) -> QuotedLine:
    """A line as the catalog quotes it."""
    product = Product(
        product_id=uuid4(),
        slug=name.lower(),
        name=name,
        category=Category.COMPUTE,
        summary="",
        description="",
        provider_name="Example Provider",
        provider_id=provider_id,
        price_micros=price_micros,
        billing_period=BillingPeriod(period),
        specification=[],
        meters=list(meters),
    )
    return QuotedLine(
        product=product,
        quantity=quantity,
        unit_price_micros=price_micros,
        amount_micros=price_micros * quantity,
    )


def at(moment: datetime) -> Clock:
    """A clock that stands."""
    return lambda: moment


def quote_of(*lines: QuotedLine) -> Quote:
    return Quote(lines=list(lines), total_micros=sum(line.amount_micros for line in lines))


def command_for(quote: Quote, user_id: UUID, key: str) -> StartPurchase:
    return StartPurchase(
        idempotency_key=key,
        user_id=user_id,
        lines=[
            PurchaseLine(product_id=line.product.product_id, quantity=line.quantity)
            for line in quote.lines
        ],
    )


def recorded(
    database: Connected,
    *lines: QuotedLine,
    user_id: UUID | None = None,
    now: datetime = NOW,
    rules: BillingSettings = RULES,
) -> Claim:
    """A purchase that was just written and is claimed by its writer."""
    quote = quote_of(*(lines or (quoted(5_000_000),)))
    command = command_for(quote, user_id or uuid4(), f"key-{uuid4()}")
    with database.begin() as session:
        claimed = recording.record(session, now, Order(command, quote), rules)
    assert claimed is not None
    return claimed


def row_of(database: Connected, purchase_id: UUID) -> PurchaseRow:
    """A purchase as it is stored by now."""
    with database.read() as session:
        return session.get_one(PurchaseRow, purchase_id)


def owed_month(session: Session, now: datetime, deployment_id: UUID) -> list[Month]:
    """The month of a plain deployment, which is leased and written down; none where it is not."""
    leased = DUE.take_with(session, now, *plain.TOLD_BY_LEASE)
    return plain.owe(session, now, [each for each in leased if each[0] == deployment_id], RULES)
