"""What analytics counts, for tests of it and of the services whose events and records it reads."""

from collections.abc import Container, Iterable, Sequence
from typing import Any

from sqlalchemy import text

from chassis.database import Connected
from contracts import schemas
from contracts.billing import (
    DeploymentActivated,
    DeploymentChanged,
    DeploymentFailed,
    DeploymentRenewed,
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseRefunded,
    PurchaseShortOfFunds,
)
from contracts.messages import Event
from contracts.topup import (
    AutoTopupSettingsChanged,
    TopupFailed,
    TopupPaid,
    TopupRestored,
    TopupReversed,
)
from services.analytics.counting import count
from services.analytics.facts import Told, told


def empty(database: Connected) -> None:
    with database.begin() as session:
        session.execute(text("TRUNCATE facts, activity, counts, product_totals, outbox, inbox"))


def hear(database: Connected, events: Sequence[Event]) -> None:
    with database.begin() as session:
        count(session, map(told, events))


def all_counts(database: Connected) -> dict[tuple[Any, ...], int]:
    """Everything that is counted and is not zero."""
    with database.read() as session:
        rows = session.execute(
            text("SELECT grain, figure, starts_at, detail, value FROM counts WHERE value <> 0")
        )
        counts = {tuple(row)[:4]: row.value for row in rows}
        for row in session.execute(SOLD):
            counts["day", "product_units", row.starts_at, row.product_id] = row.units
            counts["day", "product_sales_micros", row.starts_at, row.product_id] = row.sales_micros
        return counts


SOLD = text(
    "SELECT * FROM (SELECT product_id::text, starts_at,"
    " units - coalesce(lag(units) OVER days, 0) AS units,"
    " sales_micros - coalesce(lag(sales_micros) OVER days, 0) AS sales_micros"
    " FROM product_totals WINDOW days AS (PARTITION BY product_id ORDER BY starts_at)) AS sold"
    " WHERE units <> 0 OR sales_micros <> 0"
)
"""What was sold of each product on each day, of the running totals."""


def assert_records_tell_the_same(
    analytics: Connected,
    source: Connected,
    service: str,
    records: Iterable[Told],
    left_out: Container[str] = (),
) -> None:
    """What was heard of a service comes to the same as what it has on record, and both together.

    ``left_out`` are figures that no record tells.
    """

    def counted() -> dict[tuple[Any, ...], int]:
        return {key: n for key, n in all_counts(analytics).items() if key[1] not in left_out}

    empty(analytics)
    hear(analytics, published(source, service))
    heard, facts = counted(), _facts(analytics)
    empty(analytics)
    with analytics.begin() as session:
        count(session, pages := list(records))
    on_record, on_record_facts = counted(), _facts(analytics)
    hear(analytics, published(source, service))
    with analytics.begin() as session:
        count(session, pages)

    assert on_record == heard
    # To the microsecond, which the hours of the counts do not show.
    assert on_record_facts <= facts
    assert counted() == heard
    assert heard


def _facts(database: Connected) -> set[tuple[Any, ...]]:
    with database.read() as session:
        # A change has no name that both an event and a record know.
        key = "CASE kind WHEN 'changed' THEN '' ELSE key END"
        query = f"SELECT subject_id, kind, {key} AS key, at, data::text FROM facts"  # noqa: S608
        rows = session.execute(text(query))
        return set(map(tuple, rows))


def published(source: Connected, service: str) -> list[Event]:
    """What a service has in its outbox, of what is counted and has no figures of its own alone."""
    by_type = {event.type: event for event in schemas.events(service)}
    with source.read() as session:
        rows = session.execute(text("SELECT type, payload FROM outbox ORDER BY id")).all()
    found = [by_type[row.type].model_validate(row.payload) for row in rows]
    return [event for event in found if isinstance(event, ON_RECORD)]


ON_RECORD = (
    DeploymentActivated,
    DeploymentChanged,
    DeploymentFailed,
    DeploymentRenewed,
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseRefunded,
    PurchaseShortOfFunds,
    TopupPaid,
    TopupFailed,
    TopupReversed,
    TopupRestored,
    AutoTopupSettingsChanged,
)
