"""What was sold of products, in running totals: whatever was there before them is in them."""

from datetime import date

from sqlalchemy import text

from chassis.database import Connected, connect
from chassis.migrate import migrate
from contracts.analytics import GetPopularProducts
from contracts.billing import PurchaseRefunded, RefundCause
from deploy.local.postgres import Postgres
from services.analytics import questions
from tests.analytics.conftest import ANN, DISK, USD, VM, an_id, at, completed, now_and
from tests.counted import hear

COUNTED = text(
    "INSERT INTO counts (grain, figure, starts_at, detail, value)"
    " VALUES ('day', :figure, :day, :product, :value), ('week', :figure, :day, :product, :value)"
)


def sold(database: Connected, first: int, last: int) -> list[tuple[str, int, int]]:
    asked = GetPopularProducts(since=date(2026, 11, first), until=date(2026, 11, last))
    names = {VM: "vm", DISK: "disk"}
    with database.read() as session:
        found = questions.get_popular_products(session, asked).products
    return [(names[each.product_id], each.units, each.sales_micros) for each in found]


def test_what_is_heard_late_counts_on_its_day_and_on_none_after_it(database: Connected) -> None:
    def buys(name: str, day: int, units: int) -> None:
        moment = at(day, "10:00:00")
        hear(database, [completed(name, ANN, moment, moment, (VM, units, 5 * units))])

    buys("p1", 4, 1)
    buys("p2", 20, 2)
    # Between them, before them, and on a day that is there.
    for name, day in (("p3", 10), ("p4", 2), ("p5", 4)):
        buys(name, day, 1)

    assert [sold(database, day, day) for day in (2, 4, 10, 20)] == [
        [("vm", 1, 5 * USD)],
        [("vm", 2, 10 * USD)],
        [("vm", 1, 5 * USD)],
        [("vm", 2, 10 * USD)],
    ]
    assert sold(database, 3, 19) == [("vm", 3, 15 * USD)]
    assert sold(database, 1, 30) == [("vm", 6, 30 * USD)]
    assert [sold(database, 1, 1), sold(database, 11, 19), sold(database, 21, 30)] == [[], [], []]


def test_a_refund_writes_no_total_again(database: Connected) -> None:
    def versions() -> list[str]:
        with database.read() as session:
            return list(session.scalars(text("SELECT xmin::text FROM product_totals ORDER BY 1")))

    for name, day in (("p1", 4), ("p2", 20)):
        hear(database, [completed(name, ANN, at(day, "10:00:00"), at(day, "10:00:00"), (VM, 1, 5))])
    before = versions()
    refund = PurchaseRefunded(
        **now_and(at(21, "14:00:00"), ANN),
        purchase_id=an_id("p1"),
        refund_id=an_id("r1"),
        cause=RefundCause.SUPPORT,
        reason="",
        amount_micros=5 * USD,
        description="",
    )
    hear(database, [refund])

    assert (len(before), versions()) == (2, before)


def test_what_was_counted_by_days_before_is_in_the_totals(postgres: Postgres) -> None:
    url = postgres.create_database("totals")
    migrate("services.analytics", url, "0001")
    database = connect(url)
    with database.begin() as session:
        for product, day, units in ((VM, 2, 3), (VM, 9, 1), (DISK, 9, 2)):
            given = {"day": at(day, "00:00:00"), "product": str(product)}
            for figure, value in (("product_units", units), ("product_sales_micros", units * USD)):
                session.execute(COUNTED, {**given, "figure": figure, "value": value})

    migrate("services.analytics", url)
    moment = at(5, "10:00:00")
    hear(database, [completed("p1", ANN, moment, moment, (VM, 1, 5))])

    assert sold(database, 1, 30) == [("vm", 5, 9 * USD), ("disk", 2, 2 * USD)]
    assert sold(database, 3, 8) == [("vm", 1, 5 * USD)]
    assert sold(database, 9, 9) == [("disk", 2, 2 * USD), ("vm", 1, USD)]
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM counts WHERE detail <> ''")) == 0
    database.engine.dispose()
    postgres.drop_database("totals")
