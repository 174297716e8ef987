"""/admin/finance: the books, and what does not agree in them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

from flask import (
    Blueprint,
    Response,
    flash,
    redirect,
    render_template,
    request,
    url_for,
)
from werkzeug.wrappers import Response as AnyResponse

from chassis.clock import start_of_day, utc_now
from chassis.money import usd_number
from contracts.billing import SALES_DAYS_MAX, Payout
from contracts.errors import NO_ANSWER, BadRequest, Conflict, NotFound
from contracts.wallet import GetJournal, Journal
from services.gateway import spreadsheets
from services.gateway.access import Role
from services.gateway.backend import ask, call, database
from services.gateway.errors import STATUSES, Problem
from services.gateway.pages.forms import command_key
from services.gateway.people import users
from services.gateway.people.users import ReasonMissing
from services.gateway.staff import books as kept
from services.gateway.staff import commands, payment_evidence
from services.gateway.staff.acts import read_reason
from services.gateway.staff.guard import Staff, acts, current_staff, reads

blueprint = Blueprint("admin_finance", __name__, url_prefix="/admin/finance")

Answer = AnyResponse | str | tuple[str, int]

CHUNK = timedelta(days=31)
REFERENCE_LENGTH_MAX = 200
JOURNAL_DAYS_MAX = 3_660
"""Ten years."""
DISPUTED = {
    "warning_needs_response": "Inquiry: needs evidence",
    "warning_under_review": "Inquiry: the bank decides",
    "warning_closed": "Inquiry: closed",
    "needs_response": "Needs evidence",
    "under_review": "The bank decides",
    "appeal_needs_response": "Appeal: needs evidence",
    "appeal_under_review": "Appeal: the bank decides",
    "won": "Won",
    "prevented": "Prevented",
    "lost": "Lost",
}
"""What the processor's words for a dispute mean."""
COLUMNS = ("day", "house_account", "kind", "transactions", "received_usd", "given_usd", "net_usd")


@dataclass(frozen=True)
class Refusal:
    """What is wrong with a ``form`` that closes a payout; an empty ``field``: with none of them."""

    payout_id: UUID
    form: str
    field: str
    error: str


@blueprint.get("")
@reads(Role.FINANCE)
def overview() -> str:
    return _page()


@blueprint.get("/sellers")
@reads(Role.FINANCE)
def sellers() -> str:
    """What buyers paid for what others sell, who earned it, and what the marketplace kept."""
    since, until = _range()
    until -= timedelta(days=1)
    if (until - since).days >= SALES_DAYS_MAX:
        raise Problem(422, "bad_request", f"This page shows {SALES_DAYS_MAX} days at most.")
    sums = ask(kept.sold(since, until))
    with database().read() as session:
        people = (each.provider_id for each in sums.providers) if sums else ()
        emails = users.emails(session, people)
    return render_template(
        "admin/finance_sellers.html", sums=sums, emails=emails, since=since, until=until
    )


@blueprint.get("/journal.csv")
@reads(Role.FINANCE)
def journal() -> Response:
    """A month at a time, as the wallet is asked."""
    since, until = _range()
    name = f"journal-{since}-{until - timedelta(days=1)}.csv"
    return spreadsheets.download(name, _lines(since, until))


@blueprint.post("/verify")
@acts(Role.FINANCE)
def verify() -> AnyResponse | tuple[str, int]:
    staff = current_staff()
    try:
        reason = read_reason(request.form.get("reason", ""))
    except ReasonMissing as error:
        return _page(typed=request.form.get("reason", ""), error=error), 422
    commands.verify(staff, command_key(staff.user.user_id, "verification"), reason)
    flash("The ledger is verified now. Its result appears here when it has ended.", "success")
    return redirect(url_for("admin_finance.overview") + "#verification", 303)


@blueprint.post("/payouts/<uuid:payout_id>/review")
@acts(Role.FINANCE)
def review(payout_id: UUID) -> Answer:
    """The payout and its reference once more, before it is marked as sent for good."""

    def act(staff: Staff, reason: str) -> Answer:
        reference = _reference()
        return _review(commands.payout_of_another(staff, payout_id), reference, reason)

    return _with_payout(payout_id, act)


@blueprint.post("/payouts/<uuid:payout_id>/paid")
@acts(Role.FINANCE)
def pay(payout_id: UUID) -> Answer:
    def act(staff: Staff, reason: str) -> Answer:
        reference, key = _reference(), command_key(staff.user.user_id, f"payout:{payout_id}")
        payout = commands.payout_of_another(staff, payout_id)
        try:
            commands.pay(staff, payout, reference, key, reason)
        except NO_ANSWER as error:
            # Perhaps it was marked: the same form, with the same key, is the way to find out.
            said = f"{error} Pressing again is safe: it is marked once."
            return _review(payout, reference, reason, warning=said), STATUSES[error.code]
        return _back("Marked as sent. The seller is notified.")

    return _with_payout(payout_id, act)


@blueprint.post("/payouts/<uuid:payout_id>/refused")
@acts(Role.FINANCE)
def refuse(payout_id: UUID) -> Answer:
    def act(staff: Staff, reason: str) -> Answer:
        key = command_key(staff.user.user_id, f"payout:{payout_id}")
        commands.refuse(staff, commands.payout_of_another(staff, payout_id), key, reason)
        return _back("Rejected. The money is available to the seller again; they see your reason.")

    return _with_payout(payout_id, act)


def _with_payout(payout_id: UUID, act: Callable[[Staff, str], Answer]) -> Answer:
    """What ``act`` comes to, or the page again with what was typed, and what is wrong with it."""
    try:
        return act(current_staff(), read_reason(request.form.get("reason", "")))
    except (ReasonMissing, BadRequest, Conflict, NotFound) as error:
        # Only who marks it as sent types a reference.
        form = "paid" if "reference" in request.form else "refused"
        field = getattr(error, "field", "")
        refusal = Refusal(payout_id, form, field if field in request.form else "", str(error))
        return _page(refusal=refusal), STATUSES[error.code]


def _reference() -> str:
    reference = " ".join(request.form.get("reference", "").split())
    if not 0 < len(reference) <= REFERENCE_LENGTH_MAX:
        raise BadRequest("Enter the transfer's reference", "reference")
    return reference


def _review(payout: Payout, reference: str, reason: str, warning: str = "") -> str:
    with database().read() as session:
        emails = users.emails(session, [payout.user_id])
    return render_template(
        "admin/payout_review.html",
        payout=payout,
        seller=emails.get(payout.user_id, payout.user_id),
        reference=reference,
        reason=reason,
        warning=warning,
        key=request.form.get("key"),
    )


def _back(sentence: str) -> AnyResponse:
    flash(sentence, "success")
    return redirect(url_for("admin_finance.overview") + "#payouts", 303)


@blueprint.post("/disputes/<string(maxlength=255):dispute_id>/payment.csv")
@acts(Role.FINANCE)
def payment_evidence_file(dispute_id: str) -> AnyResponse:
    """Why somebody wants it stands in the audit log before they see anything."""
    dispute = payment_evidence.find(dispute_id)
    try:
        reason = read_reason(request.form.get("reason", ""))
    except ReasonMissing as error:
        flash(str(error), "danger")
        return redirect(url_for("admin_finance.overview") + "#disputes", 303)
    content = payment_evidence.read(current_staff().actor(), dispute, reason)
    return spreadsheets.download(f"payment-{dispute.topup_id}.csv", [content])


def _lines(since: date, until: date) -> Iterator[str]:
    yield spreadsheets.lines([COLUMNS])
    while since < until:
        yield _rows(call(GetJournal(since=since, until=min(since + CHUNK, until))))
        since += CHUNK


def _rows(journal: Journal) -> str:
    return spreadsheets.lines(
        (
            line.day.isoformat(),
            line.account.value,
            line.kind.value,
            line.transaction_count,
            usd_number(line.received_micros),
            usd_number(line.given_micros),
            usd_number(line.received_micros - line.given_micros),
        )
        for line in journal.lines
    )


def _range() -> tuple[date, date]:
    """The days that were asked for, the last one not included. Raises a 422."""
    try:
        since, last = (start_of_day(request.args.get(name, "")).date() for name in _BOUNDS)
        until = last + timedelta(days=1)
    except (ValueError, OverflowError):
        raise Problem(422, "bad_request", "A date is written like 2026-11-22.") from None
    if not 0 < (until - since).days <= JOURNAL_DAYS_MAX:
        raise Problem(
            422, "bad_request", "Choose a last day on or after the first, within ten years."
        )
    return since, until


_BOUNDS = ("since", "until")


def _page(**said: object) -> str:
    now = utc_now()
    books, payments, payouts = kept.ask()
    people: set[UUID] = set()
    for listed in (
        books.negative if books else [],
        payments.disputes if payments else [],
        payments.stuck if payments else [],
        payouts.payouts if payouts else [],
    ):
        people |= {each.user_id for each in listed}
    with database().read() as session:
        emails = users.emails(session, people)
    return render_template(
        "admin/finance.html",
        books=books,
        payments=payments,
        payouts=payouts,
        emails=emails,
        disputed=DISPUTED,
        is_of_credits=payment_evidence.is_of_credits,
        days=kept.by_day(payments.differences if payments else []),
        age=lambda since: _age(now - since),
        month_began=_month_began(now),
        today=now.date(),
        **said,
    )


def _month_began(now: datetime) -> date:
    return now.date().replace(day=1)


def _age(difference: timedelta) -> str:
    """How long something has been so: ``5 h``, ``3 d``."""
    hours = int(difference.total_seconds() // 3_600)
    return f"{hours // 24} d" if hours >= 48 else f"{hours} h"
