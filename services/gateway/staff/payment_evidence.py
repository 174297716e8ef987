"""What we know of a disputed payment, as a file that finance hands in at the processor."""

from collections.abc import Iterator

from chassis.clock import utc_now
from chassis.money import format_usd, usd_number
from contracts.errors import NotFound
from contracts.topup import Consent, DisputeRecord, GetConsent, GetPaymentBooks, GetReceipt
from contracts.wallet import Statement, Transaction, TransactionKind
from services.gateway.backend import call, database
from services.gateway.people import users
from services.gateway.spreadsheets import harmless, lines
from services.gateway.staff import acts
from services.gateway.staff.acts import Actor
from services.gateway.staff.books import SHOWN

SPENT = [TransactionKind.PURCHASE, TransactionKind.RENEWAL, TransactionKind.USAGE]
PAGE = 100
PAGES_MAX = 20
COLUMNS = ("what", "at_utc", "description", "reference", "amount_usd")
Line = tuple[object, ...]


def is_of_credits(dispute: DisputeRecord) -> bool:
    """Whether the receipt of its top-up is of this payment: a second one was never credited."""
    return dispute.taken_at is not None or dispute.status.startswith("warning_")


def find(dispute_id: str) -> DisputeRecord:
    """A dispute of which a file can be made. Raises ``NotFound``."""
    for each in call(GetPaymentBooks(limit=SHOWN)).disputes:
        if each.dispute_id == dispute_id and is_of_credits(each):
            return each
    raise NotFound("There is no such dispute of credits that were sold.")


def read(actor: Actor, dispute: DisputeRecord, reason: str) -> str:
    """The file of a dispute. Why somebody wants it stands in the audit log before they see
    anything."""
    with database().begin() as session:
        acts.record(
            session,
            utc_now(),
            actor,
            "dispute.read",
            str(dispute.user_id),
            reason,
            before={"dispute_id": dispute.dispute_id},
        )
        email = users.emails(session, {dispute.user_id}).get(dispute.user_id, "")
    return file_of(dispute, email)


def file_of(dispute: DisputeRecord, email: str) -> str:
    """The payment, whose it was, what they had agreed to where it was automatic, and what credit
    was spent on from then on, newest first.

    Raises what :func:`call` does: a part of it is not handed in as if it were all.
    """
    return lines([COLUMNS, *_lines(dispute, email)])


def _lines(dispute: DisputeRecord, email: str) -> Iterator[Line]:
    receipt = call(GetReceipt(user_id=dispute.user_id, topup_id=dispute.topup_id))
    paid_at = receipt.paid_at.isoformat()
    card = f"{receipt.card_brand} ending in {receipt.card_last4}"
    yield ("customer", "", harmless(email), str(dispute.user_id), "")
    yield ("payment", paid_at, f"{receipt.description}, {card}", receipt.payment_id, "")
    for each in receipt.lines:
        amount = usd_number(each.amount_micros)
        yield ("receipt", paid_at, harmless(each.label), receipt.number, amount)
    asked = GetConsent(user_id=dispute.user_id, topup_id=dispute.topup_id)
    consent = call(asked).consent
    if consent is not None:
        yield from _agreed(consent)
    cursor = None
    for _ in range(PAGES_MAX):
        page = call(
            Statement(
                user_id=dispute.user_id,
                kinds=SPENT,
                since=receipt.paid_at,
                cursor=cursor,
                limit=PAGE,
            )
        )
        yield from map(_spent, page.transactions)
        cursor = page.next_cursor
        if cursor is None:
            return
    yield ("not listed", "", "older ones, of the time since the payment", "", "")


def _agreed(consent: Consent) -> Iterator[Line]:
    at, version = consent.agreed_at.isoformat(), f"version {consent.version}"
    yield ("consent", at, harmless(consent.text), version, "")
    yield ("consent given from", at, harmless(consent.client_address), version, "")
    limits = {"daily": consent.daily_limit_micros, "monthly": consent.monthly_limit_micros}
    terms = [
        f"below {format_usd(consent.threshold_micros)}",
        f"{format_usd(consent.topup_amount_micros)} each",
        *(
            f"{name} limit {format_usd(limit) if limit is not None else 'none'}"
            for name, limit in limits.items()
        ),
    ]
    yield ("consent terms", at, ", ".join(terms), version, "")


def _spent(each: Transaction) -> Line:
    return (
        each.kind.value,
        each.effective_at.isoformat(),
        harmless(each.description),
        str(each.transaction_id),
        usd_number(each.amount_micros),
    )
