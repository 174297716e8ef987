"""Receipts: numbered without gaps, kept as they were issued, for who bought."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.database import Connected
from contracts.billing import (
    DeploymentStatus,
    GetReceipt,
    IssueReceipt,
    ListPaidMonths,
    Receipt,
    RenderReceipt,
)
from contracts.errors import BadRequest, Conflict, NotFound
from contracts.papers import BillingDetails
from services.billing.models import (
    DeploymentRow,
    PeriodRow,
    ReceiptRow,
    RefundedUnitRow,
    RefundRow,
)
from services.billing.purchases import lifecycle
from services.billing.receipts import documents, issuing
from services.billing.receipts.usage import list_paid_months
from services.billing.settings import BillingSettings
from tests.billing.conftest import NOW, RULES, at, quoted, recorded
from tests.billing.test_usage import CALLS, HOUR, TRAFFIC, Metered, corrects
from tests.locks import done_after
from tests.papers import pages_of, texts_of
from tests.patience import insist
from tests.system import System

USD = 1_000_000
ADA = BillingDetails(name="Ada Łovelace", address="1 Main St\nOslo", country="Norway", tax_id="NO1")


class Buyer:
    """Somebody who bought, and asks for receipts by a clock that is set."""

    def __init__(self, database: Connected) -> None:
        self.database = database
        self.user_id = uuid4()
        self.now = NOW
        self.rules: BillingSettings = RULES

    def buys(self, *lines: Any, is_free: bool = False) -> UUID:
        claimed = recorded(self.database, *lines, user_id=self.user_id, now=self.now)
        paid_by = None if is_free else uuid4()
        with self.database.begin() as session:
            lifecycle.complete(session, self.now, claimed.purchase_id, paid_by, self.rules)
        return claimed.purchase_id

    def issues(self, purchase_id: UUID, buyer: BillingDetails = ADA) -> Receipt:
        with self.database.begin() as session:
            return issuing.issue(
                session, at(self.now), self.command(purchase_id, buyer), self.rules
            )

    def command(self, purchase_id: UUID, buyer: BillingDetails = ADA) -> IssueReceipt:
        return IssueReceipt(user_id=self.user_id, purchase_id=purchase_id, buyer=buyer)

    def sees(self, **what: Any) -> Receipt:
        with self.database.read() as session:
            return issuing.get(session, GetReceipt(**{"user_id": self.user_id, **what}), self.rules)

    def deployment(self, purchase_id: UUID) -> DeploymentRow:
        with self.database.read() as session:
            return session.scalars(
                select(DeploymentRow).where(DeploymentRow.purchase_id == purchase_id)
            ).one()

    def renews(
        self,
        purchase_id: UUID,
        kind: str = "month",
        status: str = "paid",
        paid_by: UUID | None = None,
        amount_micros: int = 5 * USD,
    ) -> PeriodRow:
        """A charge of its one deployment, as renewals write it."""
        unit = self.deployment(purchase_id)
        row = PeriodRow(
            deployment_id=unit.deployment_id,
            starts_at=self.now,
            kind=kind,
            ends_at=self.now + timedelta(days=31),
            user_id=self.user_id,
            amount_micros=amount_micros,
            status=status,
            transaction_id=(paid_by or uuid4()) if status != "due" else None,
            created_at=self.now,
            changed_at=self.now + timedelta(minutes=1),
        )
        with self.database.begin() as session:
            session.add(row)
        return row


@pytest.fixture
def buyer(database: Connected) -> Buyer:
    return Buyer(database)


def test_a_receipt_says_what_was_paid_for_and_by_whom(buyer: Buyer) -> None:
    bought = buyer.buys(
        quoted(5 * USD, 2), quoted(3 * USD, period="once", name="Setup"), quoted(USD, name="Key")
    )
    buyer.now += timedelta(days=1)

    receipt = buyer.issues(bought)

    assert [(line.label, line.detail, line.amount_micros) for line in receipt.lines] == [
        (
            "VM-Production × 2",
            "$5.00 each, the month 2026-03-02 12:00 to 2026-04-02 12:00 UTC",
            10 * USD,
        ),
        ("Setup", "", 3 * USD),
        ("Key", "the month 2026-03-02 12:00 to 2026-04-02 12:00 UTC", USD),
    ]
    assert receipt.paid_at == NOW
    assert receipt.issued_at == NOW + timedelta(days=1)
    assert receipt.buyer == ADA
    assert receipt.seller == ["Mycelium"]
    assert (receipt.total_micros, receipt.tax_micros, receipt.net_micros) == (14 * USD, 0, 14 * USD)


def test_numbers_follow_one_another_in_each_year(buyer: Buyer) -> None:
    purchases = [buyer.buys() for _ in range(4)]
    first, second = (buyer.issues(each).number for each in purchases[:2])
    buyer.now = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    third = buyer.issues(purchases[2]).number
    buyer.now = datetime(2027, 1, 1, tzinfo=UTC)

    fourth = buyer.issues(purchases[3]).number

    assert [first, second, third, fourth] == [
        "2026-000001", "2026-000002", "2026-000003", "2027-000001",
    ]  # fmt: skip


def test_what_is_issued_again_is_what_was_issued(buyer: Buyer) -> None:
    bought = buyer.buys()
    first = buyer.issues(bought)
    buyer.now += timedelta(days=400)
    buyer.rules = RULES.model_copy(update={"seller_name": "Somebody else", "tax_bps": 2_000})

    again = buyer.issues(bought, BillingDetails(name="Bob"))

    assert again == first
    assert buyer.sees(purchase_id=bought) == first
    assert documents.rendered(again) == documents.rendered(first)


def test_a_draft_has_no_number_and_takes_none(buyer: Buyer) -> None:
    one, other = buyer.buys(), buyer.buys()

    draft = buyer.sees(purchase_id=one)

    assert (draft.number, draft.issued_at, draft.total_micros) == (None, None, 5 * USD)
    assert buyer.issues(other).number == "2026-000001"


def test_numbers_have_no_gaps_however_many_ask_at_once(buyer: Buyer) -> None:
    purchases = [buyer.buys() for _ in range(12)]

    with ThreadPoolExecutor(8) as pool:
        issued = list(pool.map(lambda each: insist(lambda: buyer.issues(each)), purchases * 2))

    assert sorted({receipt.number for receipt in issued}, key=str) == [
        f"2026-{n:06}" for n in range(1, 13)
    ]
    assert all(one == again for one, again in zip(issued[:12], issued[12:], strict=True))


def test_what_is_rolled_back_leaves_no_gap(buyer: Buyer) -> None:
    one, other = buyer.buys(), buyer.buys()

    with buyer.database.begin() as session:
        issuing.issue(session, at(NOW), buyer.command(one), RULES)
        session.rollback()

    assert buyer.issues(other).number == "2026-000001"


def test_a_number_waits_for_who_takes_one_before(buyer: Buyer) -> None:
    one, other = buyer.buys(), buyer.buys()

    receipt = done_after(
        buyer.database,
        lambda session: issuing.issue(session, at(NOW), buyer.command(one), RULES),
        lambda: buyer.issues(other),
    )

    assert receipt.number == "2026-000002"


def test_who_waited_for_the_same_receipt_gets_the_first_one(buyer: Buyer) -> None:
    bought = buyer.buys()

    receipt = done_after(
        buyer.database,
        lambda session: issuing.issue(session, at(NOW), buyer.command(bought), RULES),
        lambda: buyer.issues(bought, BillingDetails(name="Bob")),
    )

    assert (receipt.number, receipt.buyer) == ("2026-000001", ADA)


def test_a_purchase_waits_for_no_number(buyer: Buyer) -> None:
    one, other = buyer.buys(), buyer.buys()

    with buyer.database.begin() as session:
        issuing.issue(session, at(NOW), buyer.command(one), RULES)
        buyer.buys()

    assert buyer.issues(other).number == "2026-000002"


def test_the_tax_is_what_the_price_contains(buyer: Buyer) -> None:
    buyer.rules = RULES.model_copy(update={"tax_bps": 1_900})

    receipt = buyer.issues(buyer.buys(quoted(119 * USD)))

    assert (receipt.tax_bps, receipt.tax_micros, receipt.total_micros) == (
        1_900, 19 * USD, 119 * USD,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("month", "The month 2026-03-02 12:00 to 2026-04-02 12:00 UTC"),
        ("resize", "A larger size, 2026-03-02 12:00 to 2026-04-02 12:00 UTC"),
        ("arrears", "Time that had run unpaid, 2026-03-02 12:00 to 2026-04-02 12:00 UTC"),
    ],
)
def test_a_charge_after_the_purchase_has_its_own(buyer: Buyer, kind: str, detail: str) -> None:
    bought = buyer.buys()
    charge = buyer.renews(bought, kind)

    receipt = buyer.sees(deployment_id=charge.deployment_id, transaction_id=charge.transaction_id)

    assert [(line.label, line.detail) for line in receipt.lines] == [("VM-Production", detail)]
    assert receipt.purchase_id == bought
    assert receipt.paid_at == NOW + timedelta(minutes=1)


def test_a_month_that_came_back_says_so(buyer: Buyer) -> None:
    charge = buyer.renews(buyer.buys(), status="refunded")

    receipt = buyer.sees(deployment_id=charge.deployment_id, transaction_id=charge.transaction_id)

    assert [(line.label, line.amount_micros) for line in receipt.refunds] == [
        ("Refunded on 2026-03-02", -5 * USD)
    ]
    assert (receipt.total_micros, receipt.net_micros) == (5 * USD, 0)


def test_what_came_back_for_a_smaller_size_is_a_line(buyer: Buyer) -> None:
    bought = buyer.buys(quoted(20 * USD))
    paid_by = buyer.sees(purchase_id=bought).transaction_id
    buyer.renews(bought, "credit", "refunded", paid_by)
    charge = buyer.renews(bought, "month", "refunded")
    buyer.now += timedelta(hours=1)
    buyer.renews(bought, "credit", "refunding", charge.transaction_id)
    whole = buyer.sees(deployment_id=charge.deployment_id, transaction_id=charge.transaction_id)
    buyer.now += timedelta(hours=1)
    row = buyer.renews(bought, "credit", "refunded", charge.transaction_id, 2 * USD)

    first = buyer.sees(purchase_id=bought)
    second = buyer.sees(deployment_id=charge.deployment_id, transaction_id=row.transaction_id)

    label = "Smaller size, refunded on 2026-03-02"
    assert [(line.label, line.amount_micros) for line in first.refunds] == [(label, -5 * USD)]
    assert first.net_micros == 15 * USD
    assert [line.amount_micros for line in whole.refunds] == [-5 * USD]
    assert [line.amount_micros for line in second.refunds] == [-2 * USD, -3 * USD]
    assert (second.total_micros, second.net_micros) == (5 * USD, 0)


def refunded(session: Session, unit: DeploymentRow, done_at: datetime | None) -> None:
    """A refund of a unit, as it is written down; it is done unless ``done_at`` is None."""
    refund = RefundRow(
        refund_id=uuid4(),
        purchase_id=unit.purchase_id,
        user_id=unit.user_id,
        cause="support",
        reason="",
        actor="",
        body_hash="",
        created_at=NOW,
        due_at=None if done_at else NOW,
        done_at=done_at,
    )
    session.add(refund)
    session.flush()
    session.add(
        RefundedUnitRow(
            deployment_id=unit.deployment_id,
            refund_id=refund.refund_id,
            line_position=0,
            amount_micros=5 * USD,
            fee_micros=0,
            advanced_micros=0,
            transaction_id=uuid4() if done_at else None,
            done_at=done_at,
        )
    )


def test_what_came_back_later_is_a_line_below_and_the_rest_stays(buyer: Buyer) -> None:
    bought = buyer.buys()
    before = buyer.issues(bought)
    with buyer.database.begin() as session:
        refunded(session, buyer.deployment(bought), NOW + timedelta(days=3))

    after = buyer.sees(purchase_id=bought)

    assert [(line.label, line.amount_micros) for line in after.refunds] == [
        ("VM-Production, refunded on 2026-03-05", -5 * USD)
    ]
    assert after.net_micros == 0
    assert after.model_copy(update={"refunds": [], "net_micros": 5 * USD}) == before


def test_what_is_on_its_way_back_is_no_line_yet(buyer: Buyer) -> None:
    bought = buyer.buys()
    with buyer.database.begin() as session:
        refunded(session, buyer.deployment(bought), None)

    assert buyer.sees(purchase_id=bought).refunds == []


def test_what_cost_nothing_has_no_receipt(buyer: Buyer) -> None:
    with pytest.raises(Conflict):
        buyer.issues(buyer.buys(quoted(0), is_free=True))


def test_what_is_not_paid_has_no_receipt(buyer: Buyer) -> None:
    waiting = recorded(buyer.database, user_id=buyer.user_id).purchase_id
    due = buyer.renews(buyer.buys(), status="due")

    with pytest.raises(Conflict):
        buyer.issues(waiting)
    with pytest.raises(NotFound):
        buyer.sees(deployment_id=due.deployment_id, transaction_id=uuid4())


def test_somebody_elses_receipt_is_not_found(buyer: Buyer) -> None:
    bought = buyer.buys()
    charge = buyer.renews(bought)
    buyer.issues(bought)
    stranger, other = Buyer(buyer.database), Buyer(buyer.database)
    others = other.renews(other.buys())

    looks: list[Callable[[], Any]] = [
        lambda: stranger.sees(purchase_id=bought),
        lambda: stranger.issues(bought),
        lambda: stranger.sees(
            deployment_id=charge.deployment_id, transaction_id=charge.transaction_id
        ),
        lambda: buyer.sees(
            deployment_id=charge.deployment_id, transaction_id=others.transaction_id
        ),
    ]

    for look in looks:
        with pytest.raises(NotFound):
            look()


def test_a_draft_is_no_document(buyer: Buyer) -> None:
    bought = buyer.buys()
    question = RenderReceipt(user_id=buyer.user_id, purchase_id=bought)

    with buyer.database.read() as session, pytest.raises(Conflict):
        issuing.get_issued(session, question, RULES)


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"deployment_id": uuid4()},
        {"transaction_id": uuid4()},
        {"purchase_id": uuid4(), "deployment_id": uuid4(), "transaction_id": uuid4()},
    ],
)
def test_a_receipt_is_for_one_thing(buyer: Buyer, named: dict[str, UUID]) -> None:
    with pytest.raises(BadRequest):
        buyer.sees(**named)


def test_the_document_has_all_of_it_on_as_many_pages_as_it_takes(buyer: Buyer) -> None:
    bought = buyer.buys(*(quoted(USD, name=f"Thing {n}") for n in range(50)))
    receipt = buyer.issues(bought, BillingDetails(name="محمد 王小明", address="Łódź\nПольша"))

    rendered = documents.rendered(receipt)
    document = base64.b64decode(rendered.pdf_base64)
    texts = texts_of(document)

    assert rendered.file_name == "receipt-2026-000001.pdf"
    assert len(pages_of(document)) > 1
    assert [each for each in texts if each.startswith("Thing ")] == [
        f"Thing {n}" for n in range(50)
    ]
    for said in (
        "Receipt 2026-000001", "Mycelium", "محمد 王小明", "Łódź", "Польша", "Tax (0%), included",
        "Total", "$50.00", str(buyer.user_id), str(receipt.transaction_id),
    ):  # fmt: skip
        assert said in texts
    facts = [texts.index(each) for each in ("Issued on", "Paid on", "Account", "Transaction")]
    assert facts == sorted(facts)


def test_the_document_tells_what_came_back(buyer: Buyer) -> None:
    receipt = buyer.issues(buyer.buys())
    with buyer.database.begin() as session:
        refunded(session, buyer.deployment(receipt.purchase_id), NOW)

    texts = texts_of(
        base64.b64decode(documents.rendered(buyer.sees(purchase_id=receipt.purchase_id)).pdf_base64)
    )

    assert texts[texts.index("Total") + 1 :][:5] == [
        "$5.00", "VM-Production, refunded on 2026-03-02", "−$5.00", "Remaining", "$0.00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x" * 201},
        {"name": "a\u0007b"},
        {"address": "\n".join("abcdefg")},
        {"tax_id": "x" * 51},
        {"country": "a\0"},
    ],
)
def test_details_that_cannot_be_printed_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        BillingDetails(**wrong)


def test_details_are_kept_as_they_are_printed() -> None:
    details = BillingDetails(name="  A\u030asa \t B ", address=" 1 St \r\n\n Oslo ")

    assert (details.name, details.address) == ("Åsa B", "1 St\nOslo")
    assert details.printed == ("Åsa B", "1 St", "Oslo")


def test_only_what_was_issued_takes_a_number(buyer: Buyer) -> None:
    buyer.issues(buyer.buys())

    with buyer.database.read() as session:
        rows = session.scalars(select(ReceiptRow)).all()
    assert [(row.year, row.sequence, row.user_id) for row in rows] == [(2026, 1, buyer.user_id)]
    assert buyer.deployment(UUID(rows[0].content["purchase_id"])).status == DeploymentStatus.ACTIVE


# Usage.


class Statements(Metered):
    """A user who pays for usage, and asks for the receipt of a month."""

    def issues(self, month: str) -> Receipt:
        command = IssueReceipt(user_id=self.user_id, month=month, buyer=ADA)
        with self.database.begin() as session:
            return issuing.issue(session, at(self.now), command, RULES)

    def drafts(self, month: str) -> Receipt:
        with self.database.read() as session:
            return issuing.get(session, GetReceipt(user_id=self.user_id, month=month), RULES)

    def months(self) -> list[tuple[str, int, str | None]]:
        with self.database.read() as session:
            found = list_paid_months(session, ListPaidMonths(user_id=self.user_id)).months
        return [(each.month, each.total_micros, each.number) for each in found]


FEBRUARY, MARCH = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def statements(stack: System, database: Connected) -> Statements:
    """$9.00 were paid at the last instant of February, and $1.00 at the first of March."""
    others = [Statements(stack, database) for _ in range(2)]
    tenant = Statements(stack, database)
    for each in (others[0], tenant, others[1]):
        each.gets(100 * USD)
        each.now = MARCH - 2 * HOUR
        other = each.gets_deployment(TRAFFIC, name="Gateway")
        each.uses(3)
        each.uses(4_000, CALLS)
        first = each.uses(250, TRAFFIC, deployment_id=other)
        each.now = MARCH - timedelta(microseconds=1)
        each.charges.run()
        corrects(each, first, 50)
        each.uses(1)
        each.now = MARCH + HOUR
        each.charges.run()
        each.refunds.run()
    return tenant


def test_what_was_paid_for_usage_in_a_month_has_one_receipt_with_a_line_for_each_meter(
    statements: Statements,
) -> None:
    receipt = statements.issues("2026-02")

    assert [(line.label, line.detail, line.amount_micros) for line in receipt.lines] == [
        ("VM-Production: Calls", "4,000 call", 6_000),
        ("VM-Production: Hours", "3 hour", 3 * USD),
        ("Gateway: Traffic", "250 GB", 3 * USD),
    ]
    assert (receipt.number, receipt.total_micros) == ("2026-000001", 6_006_000)
    assert (receipt.transaction_id, receipt.purchase_id, receipt.month) == (None, None, "2026-02")
    # Fifty GB of it were corrected, and paid back a month later.
    assert [(line.label, line.amount_micros) for line in receipt.refunds] == [
        ("Gateway: usage corrected, refunded on 2026-03-01", -USD)
    ]
    assert receipt.net_micros == 5_006_000
    assert statements.issues("2026-02") == receipt
    assert statements.months() == [("2026-03", USD, None), ("2026-02", 6_006_000, "2026-000001")]
    assert {"2026-02 (UTC)", "$6.006", "Gateway: Traffic"} <= set(texts_of(printed(receipt)))


def printed(receipt: Receipt) -> bytes:
    return base64.b64decode(documents.rendered(receipt).pdf_base64)


def test_a_month_is_issued_an_hour_after_its_end_and_not_before(statements: Statements) -> None:
    statements.now = MARCH + HOUR - timedelta(microseconds=1)
    with pytest.raises(Conflict, match="2026-03-01 01:00 UTC"):
        statements.issues("2026-02")
    draft = statements.drafts("2026-02")
    statements.now = MARCH + HOUR

    assert draft.number is None
    assert statements.issues("2026-02").lines == draft.lines


def test_a_month_in_which_nothing_was_paid_has_no_receipt(statements: Statements) -> None:
    for month in ("2026-01", "2026-04"):
        with pytest.raises(NotFound):
            statements.drafts(month)
    with pytest.raises(NotFound):
        statements.issues("2025-12")


@pytest.mark.parametrize("month", ["2026-2", "2026-13", "2026-00", "202602", "2026-02-01", ""])
def test_what_is_no_month_is_refused(month: str) -> None:
    with pytest.raises(ValidationError):
        GetReceipt(user_id=uuid4(), month=month)
