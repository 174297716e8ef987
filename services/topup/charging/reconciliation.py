"""The books: three that must agree, and how they are compared.

::

    the processor's   payments and balance transactions
    ours              top-ups and reversals
    the ledger        what the wallet credited and took back, by idempotency key and in sum

:func:`compare` is the whole rule; it gets the books as they are. :func:`reconcile` applies it to
a period, and keeps every difference with the time at which it was first found, until a later
comparison finds it gone. When that is done is in ``reconcile.py``.
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
from contracts.keys import is_topup, restored_key, reversal_key, topup_key
from services.topup.automatic import limits
from services.topup.charging.outcomes import PAID, is_given_back, is_paid_with, topup_id_of
from services.topup.models import Difference, Reversal, Topup
from services.topup.processor import CURRENCY, TOPUP_ID, Missing, Object
from services.topup.till import Till

SETTLES_WITHIN = timedelta(minutes=15)
"""What is younger may still be on its way between two books."""
CREDITED_WITHIN = timedelta(days=30)
"""A wallet that was away for longer than this credits what nobody looks for any more."""
UNEXPLAINED = "credit_unexplained"
"""What ``audit.py`` finds, and no comparison of days."""
WITHOUT_TOPUP = "charge_without_topup"
"""A payment that names a top-up which is not there."""
REVERSAL_DIFFERS = "reversal_differs"
"""A refund or dispute, its ``reference``, that moved something else than we know of."""
GOES_BACK = ("refund", "refund_failure", "dispute", "dispute_reversal")
"""What the processor's balance calls money that goes back to a card, or comes back from it."""


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
    """What the three books hold. Ledger amounts are by idempotency key, micro-dollars, signed.

    Payments have their charge inside, and that its movement of the processor's balance.
    """

    payments: list[Object] = field(default_factory=list)
    topups: list[Topup] = field(default_factory=list)
    movements: dict[str, list[Object]] = field(default_factory=dict)
    """By refund or dispute: everything that it ever moved, in the period or not."""
    reversals: list[Reversal] = field(default_factory=list)
    ledger: dict[str, int] = field(default_factory=dict)
    ledger_total_micros: int | None = None
    """All credits of top-ups that the ledger recorded on this day, None for part of a day."""
    ledger_found_micros: int = 0
    """Those of them that belong to our top-ups."""


def compare(books: Books, since: datetime, until: datetime) -> list[Found]:
    """Every difference between the books of [since, until), the oldest first.

    Each is dated so that the comparison of that day finds it again.
    """
    found = [
        *_payments_against_topups(books),
        *_topups_against_payments(books, since, until),
        *_topups_against_ledger(books, until),
        *_payments_against_balance(books),
        *_movements_against_reversals(books),
        *_reversals_against_ledger(books),
        *_ledger_against_topups(books, since),
    ]
    return sorted(found, key=lambda difference: (difference.since, difference.key))


def _payments_against_topups(books: Books) -> Iterable[Found]:
    topups = {str(topup.topup_id): topup for topup in books.topups}
    for payment in _taken(books):
        topup = topups.get(payment["metadata"].get(TOPUP_ID, ""))
        is_credited = topup is not None and is_paid_with(topup, payment)
        if is_credited or not is_given_back(payment):
            yield from _payment_against_topup(payment, topup)


def _payment_against_topup(payment: Object, topup: Topup | None) -> Iterable[Found]:
    amount = from_cents(payment["amount_received"])
    if topup is None:
        message = f"{format_usd(amount)} was taken, and no top-up knows of it"
        yield _of_payment(payment, WITHOUT_TOPUP, message)
        return
    if topup.status not in PAID:
        message = f"{format_usd(amount)} was taken, and the top-up is {topup.status}"
        yield _of_payment(payment, "charged_not_paid", message, topup)
    elif not is_paid_with(topup, payment):
        message = f"one top-up, two payments: {topup.payment_id} and {payment['id']}"
        yield _of_payment(payment, "charged_twice", message, topup)
    if amount != topup.amount_micros or payment["currency"] != CURRENCY:
        message = (
            f"{payment['amount_received']} {payment['currency']} cents were taken for"
            f" {format_usd(topup.amount_micros)}"
        )
        yield _of_payment(payment, "amount_differs", message, topup)


def _taken(books: Books) -> list[Object]:
    return [payment for payment in books.payments if payment["status"] == "succeeded"]


def _topups_against_payments(books: Books, since: datetime, until: datetime) -> Iterable[Found]:
    taken = {payment["id"] for payment in _taken(books)}
    for topup in books.topups:
        if _is_paid_in(topup, since, until) and topup.payment_id not in taken:
            message = f"is {topup.status}, and the processor has no such payment"
            yield _of_topup(topup, "paid_without_charge", message)


def _is_paid_in(topup: Topup, since: datetime, until: datetime) -> bool:
    return topup.status in PAID and topup.paid_at is not None and since <= topup.paid_at < until


def _topups_against_ledger(books: Books, until: datetime) -> Iterable[Found]:
    for topup in books.topups:
        credited = books.ledger.get(topup_key(topup.topup_id))
        if topup.status in PAID and credited is None:
            if topup.paid_at is not None and topup.paid_at < until:
                message = f"{format_usd(topup.amount_micros)} was paid and not credited"
                yield _of_topup(topup, "paid_not_credited", message)
        elif topup.status not in PAID and credited is not None:
            message = f"{format_usd(credited)} was credited, and the top-up is {topup.status}"
            yield _of_topup(topup, "credited_not_paid", message)
        elif credited is not None and credited != topup.amount_micros:
            message = f"{format_usd(credited)} credited for {format_usd(topup.amount_micros)}"
            yield _of_topup(topup, "credit_differs", message)


def _payments_against_balance(books: Books) -> Iterable[Found]:
    for payment in _taken(books):
        movement = (payment["latest_charge"] or {}).get("balance_transaction") or {}
        moved, taken = movement.get("amount", 0), payment["amount_received"]
        if moved != taken:
            message = (
                f"{format_usd(from_cents(taken))} was taken, and"
                f" {format_usd(from_cents(moved))} reached the processor's balance"
            )
            yield _of_payment(payment, "balance_differs", message)


def _movements_against_reversals(books: Books) -> Iterable[Found]:
    ours: dict[str, list[Reversal]] = defaultdict(list)
    for reversal in books.reversals:
        ours[reversal.source_id].append(reversal)
    for source_id, movements in books.movements.items():
        reversals = ours[source_id]
        moved = sum(from_cents(movement["amount"]) for movement in movements)
        expected = -sum(
            reversal.amount_micros for reversal in reversals if reversal.restored_at is None
        )
        if moved != expected:
            yield Found(
                REVERSAL_DIFFERS,
                source_id,
                f"{format_usd(moved)} moved at the processor, {format_usd(expected)} with us",
                min(
                    [_moment(movement["created"]) for movement in movements]
                    + [reversal.taken_at for reversal in reversals]
                ),
                moved - expected,
                topup_id=reversals[0].topup_id if reversals else None,
                user_id=reversals[0].user_id if reversals else None,
                payment_id=source_id,
            )


def _reversals_against_ledger(books: Books) -> Iterable[Found]:
    for reversal in books.reversals:
        amount = reversal.amount_micros
        taken = abs(books.ledger.get(reversal_key(reversal.reversal_id), 0))
        if taken != amount:
            message = f"{format_usd(amount)} went back to the card, and the wallet took"
            yield _of_reversal(reversal, "reversal_not_in_ledger", message, amount, taken)
        due = amount if reversal.restored_at is not None else 0
        restored = abs(books.ledger.get(restored_key(reversal.reversal_id), 0))
        if restored != due:
            message = f"{format_usd(due)} came back from the card, and the wallet returned"
            yield _of_reversal(reversal, "restoration_not_in_ledger", message, due, restored)


def _ledger_against_topups(books: Books, since: datetime) -> Iterable[Found]:
    if books.ledger_total_micros is None:
        return
    amount = books.ledger_total_micros - books.ledger_found_micros
    if amount:
        yield Found(
            "ledger_total_differs",
            f"{since:%Y-%m-%d}",
            f"the ledger credited {format_usd(books.ledger_total_micros)} as top-ups,"
            f" of which {format_usd(books.ledger_found_micros)} belong to top-ups of ours",
            since,
            amount,
        )


def _of_payment(payment: Object, code: str, message: str, topup: Topup | None = None) -> Found:
    return Found(
        code,
        payment["id"],
        message,
        _moment(payment["created"]),
        from_cents(payment["amount_received"]),
        topup.topup_id if topup else None,
        topup.user_id if topup else None,
        payment["id"],
    )


def _of_topup(topup: Topup, code: str, message: str) -> Found:
    return Found(
        code,
        str(topup.topup_id),
        message,
        topup.paid_at or topup.created_at,
        topup.amount_micros,
        topup.topup_id,
        topup.user_id,
        topup.payment_id or "",
    )


def _of_reversal(
    reversal: Reversal, code: str, message: str, due_micros: int, found_micros: int
) -> Found:
    return Found(
        code,
        reversal.reversal_id,
        f"{message} {format_usd(found_micros)}",
        reversal.taken_at,
        due_micros - found_micros,
        reversal.topup_id,
        reversal.user_id,
        reversal.source_id,
    )


def _moment(unix_s: int) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def reconcile(till: Till, since: datetime, until: datetime) -> list[Found]:
    """Compare the books of [since, until), each UTC day by itself, and keep what differs.

    Raises ``ProcessorError`` and the errors of a wallet that does not answer: no comparison
    is better than half of one.
    """
    found: dict[str, Found] = {}
    while since < until:
        end = min(limits.day_end(since), until)
        differences = compare(_gather(till, since, end), since, end)
        with till.database.begin() as session:
            _remember(session, differences, since, end, till.clock())
        found |= {difference.key: difference for difference in differences}
        since = end
    return sorted(found.values(), key=lambda difference: (difference.since, difference.key))


def _gather(till: Till, since: datetime, until: datetime) -> Books:
    start_s, end_s = int(since.timestamp()), int(until.timestamp())
    payments = [
        payment
        for payment in till.processor.payments_between(start_s, end_s)
        if TOPUP_ID in payment["metadata"]  # others of the account are none of ours
    ]
    went_back = _payments_by_source(till.processor.movements_between(start_s, end_s))
    with till.database.read() as session:
        topups = _topups(session, since, until, payments)
        reversals = _reversals(session, since, until, list(went_back))
        credited = _credited(session, went_back.values())
    payments += _older_payments(till, payments, topups, since, until)
    sources = {reversal.source_id for reversal in reversals}
    sources |= {source for source, payment in went_back.items() if payment in credited}
    movements = _movements(till, sources)
    newest = _newest(movements, reversals, till.clock() - SETTLES_WITHIN)
    books = Books(
        payments,
        topups,
        {source: found for source, found in movements.items() if source not in newest},
        [reversal for reversal in reversals if reversal.source_id not in newest],
    )
    _read_ledger(till, books, since, until)
    return books


def _payments_by_source(movements: list[Object]) -> dict[str, str | None]:
    """The refunds and disputes among these movements, each with the payment that it is of."""
    sources = [
        movement["source"] for movement in movements if movement["reporting_category"] in GOES_BACK
    ]
    return {source["id"]: source["payment_intent"] for source in sources}


def _topups(
    session: Session, since: datetime, until: datetime, payments: list[Object]
) -> list[Topup]:
    """Top-ups made, paid or credited in the period, and those that a payment of it names."""
    ids = [found for payment in payments if (found := topup_id_of(payment)) is not None]
    was_credited_since = or_(Topup.credited_at.is_(None), Topup.credited_at >= since)
    return list(
        session.scalars(
            select(Topup).where(
                or_(
                    (Topup.created_at >= since) & (Topup.created_at < until),
                    (Topup.paid_at >= since - CREDITED_WITHIN)
                    & (Topup.paid_at < until)
                    & was_credited_since,
                    Topup.topup_id.in_(ids),
                )
            )
        )
    )


def _reversals(
    session: Session, since: datetime, until: datetime, sources: list[str]
) -> list[Reversal]:
    """All takes of each refund and dispute that moved in the period, at the processor or here."""
    of_the_period = select(Reversal.source_id).where(
        or_(
            (Reversal.taken_at >= since) & (Reversal.taken_at < until),
            (Reversal.restored_at >= since) & (Reversal.restored_at < until),
            Reversal.source_id.in_(sources),
        )
    )
    return list(session.scalars(select(Reversal).where(Reversal.source_id.in_(of_the_period))))


def _credited(session: Session, payment_ids: Iterable[str | None]) -> set[str | None]:
    """Those of these payments that are the credit of a top-up."""
    return set(
        session.scalars(
            select(Topup.payment_id).where(
                Topup.payment_id.in_(list(payment_ids)), Topup.status.in_(PAID)
            )
        )
    )


def _older_payments(
    till: Till, payments: list[Object], topups: list[Topup], since: datetime, until: datetime
) -> list[Object]:
    """Payments made before the period that a top-up of the period was paid with."""
    wanted = {topup.payment_id for topup in topups if _is_paid_in(topup, since, until)}
    older = []
    for payment_id in wanted - {payment["id"] for payment in payments} - {None}:
        try:
            older.append(till.processor.get_payment(str(payment_id)))
        except Missing:
            continue
    return older


def _movements(till: Till, sources: set[str]) -> dict[str, list[Object]]:
    """All that each refund and dispute ever moved: one may be undone months later."""
    movements: dict[str, list[Object]] = {}
    for source in sorted(sources):
        try:
            found = till.processor.movements_of(source)
        except Missing:
            found = []
        movements[source] = [item for item in found if item["reporting_category"] in GOES_BACK]
    return movements


def _newest(
    movements: dict[str, list[Object]], reversals: list[Reversal], settled_at: datetime
) -> set[str]:
    """What moved a moment ago on either side: it is for the next comparison."""
    there = {
        source
        for source, found in movements.items()
        if any(_moment(movement["created"]) > settled_at for movement in found)
    }
    here = {
        reversal.source_id
        for reversal in reversals
        if max(reversal.taken_at, reversal.restored_at or reversal.taken_at) > settled_at
    }
    return there | here


def _read_ledger(till: Till, books: Books, since: datetime, until: datetime) -> None:
    keys = [topup_key(topup.topup_id) for topup in books.topups]
    for reversal in books.reversals:
        keys += [reversal_key(reversal.reversal_id), restored_key(reversal.reversal_id)]
    for key in keys:
        entry = till.wallet.entry(key)
        if entry is None:
            continue
        books.ledger[key] = entry.amount_micros
        if is_topup(key) and since <= entry.recorded_at < until:
            books.ledger_found_micros += entry.amount_micros
    if (since, until) == (limits.day_start(since), limits.day_end(since)):
        books.ledger_total_micros = till.wallet.topup_credits_micros(since, until)


def _remember(
    session: Session, found: list[Found], since: datetime, until: datetime, now: datetime
) -> None:
    """Keep what differs; what was known of the period and is not found any more is gone."""
    keep(session, found, now)
    session.execute(
        update(Difference)
        .where(
            Difference.gone_at.is_(None),
            Difference.code != UNEXPLAINED,
            Difference.key.not_in([difference.key for difference in found]),
            Difference.occurred_at >= since,
            Difference.occurred_at < until,
        )
        .values(gone_at=now)
    )


def keep(session: Session, found: list[Found], now: datetime) -> None:
    """Keep what differs, with the time at which it was first found."""
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
