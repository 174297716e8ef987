"""Reconciliation: three books that must agree, compared over a period.

::

    the processor's   payments and balance transactions
    ours              top-ups and reversals
    the ledger        what the wallet credited and took back, by idempotency key and in sum

:func:`compare` is the whole rule; it gets the books as they are. Every difference is kept with
the time at which it was first found, until a later comparison finds it gone.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.money import format_usd, from_cents
from contracts.topup import TopupStatus
from services.topup.models import Difference, Reversal, Topup
from services.topup.processor import CURRENCY, Missing, Object
from services.topup.till import Till

PAID = (TopupStatus.PAID, TopupStatus.CREDITED)
SETTLES_WITHIN = timedelta(minutes=15)
"""What is younger may still be on its way between two books."""
PAGES_LIVE = timedelta(hours=25)
"""A payment may be taken this long after its intent was made."""
DISPUTE_CATEGORIES = ("dispute", "dispute_reversal")


@dataclass(frozen=True)
class Found:
    """One difference. ``key`` is the same each time the same one is found."""

    code: str
    reference: str
    message: str
    since: datetime
    amount_micros: int = 0
    topup_id: UUID | None = None
    user_id: UUID | None = None
    payment_id: str = ""

    @property
    def key(self) -> str:
        return f"{self.code}:{self.reference}"


@dataclass
class Books:
    """What the three books hold. Ledger amounts are by idempotency key, micro-dollars, signed."""

    payments: list[Object] = field(default_factory=list)
    movements: list[Object] = field(default_factory=list)
    topups: list[Topup] = field(default_factory=list)
    reversals: list[Reversal] = field(default_factory=list)
    ledger: dict[str, int] = field(default_factory=dict)
    ledger_total_micros: int | None = None
    """All credits of top-ups that the ledger recorded in the period, None if not asked."""
    ledger_found_micros: int = 0
    """Those of them that belong to our top-ups."""


def credit_key(topup_id: UUID) -> str:
    """The key under which the wallet credits a top-up."""
    return f"topup:{topup_id}"


def reversal_key(reversal_id: str) -> str:
    """The key under which the wallet takes a reversal back."""
    return f"reversal:{reversal_id}"


def compare(books: Books, since: datetime, until: datetime) -> list[Found]:
    """Every difference between the books, the oldest first."""
    found = [
        *_payments_against_topups(books),
        *_topups_against_payments(books, since),
        *_topups_against_ledger(books),
        *_movements_against_payments(books),
        *_movements_against_reversals(books),
        *_reversals_against_ledger(books),
        *_ledger_against_topups(books, until),
    ]
    return sorted(found, key=lambda difference: (difference.since, difference.key))


def _payments_against_topups(books: Books) -> Iterable[Found]:
    topups = {str(topup.topup_id): topup for topup in books.topups}
    taken: dict[str, list[Object]] = defaultdict(list)
    for payment in books.payments:
        if payment["status"] == "succeeded":
            taken[payment["metadata"].get("topup_id", "")].append(payment)
    for name, payments in taken.items():
        topup = topups.get(name)
        for payment in payments:
            yield from _payment_against_topup(payment, topup)
        if topup is not None and len(payments) > 1:
            ids = ", ".join(payment["id"] for payment in payments)
            yield _about(topup, "charged_twice", name, f"one top-up, two payments: {ids}")


def _payment_against_topup(payment: Object, topup: Topup | None) -> Iterable[Found]:
    amount = from_cents(payment["amount_received"])
    if topup is None:
        yield Found(
            "charge_without_topup",
            payment["id"],
            f"{format_usd(amount)} was taken, and no top-up knows of it",
            _moment(payment["created"]),
            amount,
            payment_id=payment["id"],
        )
        return
    if topup.status not in PAID:
        message = f"{format_usd(amount)} was taken, and the top-up is {topup.status}"
        yield _about(topup, "charged_not_paid", payment["id"], message, payment["id"])
    if amount != topup.amount_micros or payment["currency"] != CURRENCY:
        message = (
            f"{payment['amount_received']} {payment['currency']} cents were taken for"
            f" {format_usd(topup.amount_micros)}"
        )
        yield _about(topup, "amount_differs", payment["id"], message, payment["id"])


def _topups_against_payments(books: Books, since: datetime) -> Iterable[Found]:
    taken = {payment["id"] for payment in books.payments if payment["status"] == "succeeded"}
    for topup in books.topups:
        is_paid = topup.status in PAID and topup.paid_at is not None and topup.paid_at >= since
        if is_paid and topup.payment_id not in taken:
            message = f"is {topup.status}, and the processor has no such payment"
            yield _about(topup, "paid_without_charge", str(topup.topup_id), message)


def _topups_against_ledger(books: Books) -> Iterable[Found]:
    for topup in books.topups:
        credited = books.ledger.get(credit_key(topup.topup_id))
        reference = str(topup.topup_id)
        if topup.status in PAID and credited is None:
            message = f"{format_usd(topup.amount_micros)} was paid and not credited"
            yield _about(topup, "paid_not_credited", reference, message)
        elif topup.status not in PAID and credited is not None:
            message = f"{format_usd(credited)} was credited, and the top-up is {topup.status}"
            yield _about(topup, "credited_not_paid", reference, message)
        elif credited is not None and credited != topup.amount_micros:
            message = f"{format_usd(credited)} credited for {format_usd(topup.amount_micros)}"
            yield _about(topup, "credit_differs", reference, message)


def _movements_against_payments(books: Books) -> Iterable[Found]:
    charged = {
        (movement["source"] or {}).get("payment_intent"): movement
        for movement in books.movements
        if movement["reporting_category"] == "charge"
    }
    for payment in books.payments:
        if payment["status"] != "succeeded":
            continue
        movement = charged.get(payment["id"])
        if movement is None or movement["amount"] != payment["amount_received"]:
            moved = 0 if movement is None else from_cents(movement["amount"])
            yield Found(
                "balance_differs",
                payment["id"],
                f"{format_usd(from_cents(payment['amount_received']))} was taken, and"
                f" {format_usd(moved)} reached the processor's balance",
                _moment(payment["created"]),
                from_cents(payment["amount_received"]) - moved,
                payment_id=payment["id"],
            )


def _movements_against_reversals(books: Books) -> Iterable[Found]:
    known = {reversal.reversal_id: reversal for reversal in books.reversals}
    moved: dict[str, int] = defaultdict(int)
    when: dict[str, datetime] = {}
    for movement in books.movements:
        category = movement["reporting_category"]
        if category in ("refund", "refund_failure", *DISPUTE_CATEGORIES):
            source = str((movement["source"] or {}).get("id") or movement["id"])
            moved[source] += from_cents(movement["amount"])
            when.setdefault(source, _moment(movement["created"]))
    for source, amount in moved.items():
        reversal = known.get(source)
        expected = 0
        if reversal is not None and reversal.restored_at is None:
            expected = -reversal.amount_micros
        if amount != expected:
            yield Found(
                "reversal_differs",
                source,
                f"{format_usd(amount)} moved at the processor, {format_usd(expected)} with us",
                when[source],
                amount - expected,
                topup_id=reversal.topup_id if reversal else None,
                user_id=reversal.user_id if reversal else None,
                payment_id=source,
            )


def _reversals_against_ledger(books: Books) -> Iterable[Found]:
    for reversal in books.reversals:
        taken = books.ledger.get(reversal_key(reversal.reversal_id))
        if taken is None or abs(taken) != reversal.amount_micros:
            yield Found(
                "reversal_not_in_ledger",
                reversal.reversal_id,
                f"{format_usd(reversal.amount_micros)} went back to the card, and the wallet took"
                f" {format_usd(abs(taken or 0))}",
                reversal.taken_at,
                reversal.amount_micros - abs(taken or 0),
                topup_id=reversal.topup_id,
                user_id=reversal.user_id,
                payment_id=reversal.reversal_id,
            )


def _ledger_against_topups(books: Books, until: datetime) -> Iterable[Found]:
    if books.ledger_total_micros is None:
        return
    amount = books.ledger_total_micros - books.ledger_found_micros
    if amount:
        yield Found(
            "ledger_total_differs",
            f"{until:%Y-%m-%d}",
            f"the ledger credited {format_usd(books.ledger_total_micros)} as top-ups,"
            f" of which {format_usd(books.ledger_found_micros)} belong to top-ups of ours",
            until,
            amount,
        )


def _about(topup: Topup, code: str, reference: str, message: str, payment_id: str = "") -> Found:
    return Found(
        code,
        reference,
        message,
        topup.paid_at or topup.created_at,
        topup.amount_micros,
        topup.topup_id,
        topup.user_id,
        payment_id or topup.payment_id or "",
    )


def _moment(unix_s: int) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def run(till: Till, since: datetime, until: datetime) -> list[Found]:
    """Gather the books of [since, until), compare, and keep what differs.

    Raises ``ProcessorError`` and the errors of a wallet that does not answer: no comparison
    is better than half of one.
    """
    books = _gather(till, since, until)
    found = compare(books, since, until)
    now = till.clock()
    with till.database.begin() as session:
        _remember(session, found, since, until, now)
    return found


def _gather(till: Till, since: datetime, until: datetime) -> Books:
    start_s, end_s = int(since.timestamp()), int(until.timestamp())
    payments = till.processor.payments_between(int((since - PAGES_LIVE).timestamp()), end_s)
    names = {payment["metadata"].get("topup_id") for payment in payments}
    with till.database.read() as session:
        topups = _topups(session, since, until, names)
        reversals = list(
            session.scalars(
                select(Reversal).where(Reversal.taken_at >= since, Reversal.taken_at < until)
            )
        )
    payments = _only_of_period(till, payments, topups, since)
    movements = till.processor.movements_between(start_s, end_s)
    books = Books(payments, _settled(movements, payments), topups, reversals)
    keys = [credit_key(topup.topup_id) for topup in topups]
    keys += [reversal_key(reversal.reversal_id) for reversal in reversals]
    for key in keys:
        entry = till.wallet.entry(key)
        if entry is None:
            continue
        books.ledger[key] = entry.amount_micros
        if key.startswith("topup:") and since <= entry.recorded_at < until:
            books.ledger_found_micros += entry.amount_micros
    if _is_whole_days(since, until):
        books.ledger_total_micros = till.wallet.topup_credits_micros(since, until)
    return books


def _topups(
    session: Session, since: datetime, until: datetime, names: set[str | None]
) -> list[Topup]:
    """Top-ups made or paid in the period, and those that a payment of it names."""
    ids = []
    for name in names:
        try:
            ids.append(UUID(name or ""))
        except ValueError:
            continue
    return list(
        session.scalars(
            select(Topup).where(
                or_(
                    (Topup.created_at >= since) & (Topup.created_at < until),
                    (Topup.paid_at >= since - PAGES_LIVE) & (Topup.paid_at < until),
                    Topup.topup_id.in_(ids),
                )
            )
        )
    )


def _only_of_period(
    till: Till, payments: list[Object], topups: list[Topup], since: datetime
) -> list[Object]:
    """Payments of the period, and older ones that a top-up of the period was paid with."""
    wanted = {topup.payment_id for topup in topups if topup.paid_at and topup.paid_at >= since}
    listed = {payment["id"] for payment in payments}
    kept = [
        payment
        for payment in payments
        if _moment(payment["created"]) >= since or payment["id"] in wanted
    ]
    for payment_id in wanted - listed - {None}:
        try:
            kept.append(till.processor.get_payment(str(payment_id)))
        except Missing:
            continue
    return kept


def _settled(movements: list[Object], payments: list[Object]) -> list[Object]:
    """Movements with their charge's payment inside, as a dict, whatever the processor sent."""
    by_charge = {_id_of(payment.get("latest_charge")): payment["id"] for payment in payments}
    settled = []
    for movement in movements:
        source = movement.get("source")
        if not isinstance(source, dict):
            source = {"id": source, "payment_intent": by_charge.get(source)}
        settled.append({**movement, "source": source})
    return settled


def _id_of(value: object) -> object:
    return value.get("id") if isinstance(value, dict) else value


def _is_whole_days(since: datetime, until: datetime) -> bool:
    midnight = since.replace(hour=0, minute=0, second=0, microsecond=0)
    return since == midnight and (until - since) % timedelta(days=1) == timedelta(0)


def _remember(
    session: Session, found: list[Found], since: datetime, until: datetime, now: datetime
) -> None:
    """Keep what differs; what was known of the period and is not found any more is gone."""
    keys = [difference.key for difference in found]
    for difference in found:
        values = {
            "code": difference.code,
            "topup_id": difference.topup_id,
            "user_id": difference.user_id,
            "payment_id": difference.payment_id,
            "amount_micros": difference.amount_micros,
            "message": difference.message,
            "occurred_at": difference.since,
            "seen_at": now,
            "gone_at": None,
        }
        session.execute(
            insert(Difference)
            .values(key=difference.key, found_at=now, **values)
            .on_conflict_do_update(index_elements=["key"], set_=values)
        )
    session.execute(
        update(Difference)
        .where(
            Difference.gone_at.is_(None),
            Difference.key.not_in(keys),
            Difference.occurred_at >= since,
            Difference.occurred_at <= until,
        )
        .values(gone_at=now)
    )
