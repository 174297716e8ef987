"""A calendar month (UTC) of a wallet on paper: every movement, and the balance before and after."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import starmap
from uuid import UUID

from flask import Blueprint, request
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.money import format_usd
from chassis.papers.paper import Amount, Paper
from contracts.wallet import Statement, Transaction
from services.gateway.backend import call, database, settings
from services.gateway.errors import Problem
from services.gateway.months import read_month
from services.gateway.pages.formats import KIND_NAMES, titled
from services.gateway.people import billing_details
from services.gateway.people.identity import login_required, signed_in_user
from services.gateway.people.users import CurrentUser
from services.gateway.security import throttle

blueprint = Blueprint("statements", __name__)

LINES_MAX = 1_000
"""More take longer to draw than a page may take; they are read over the API."""

MONTHS_OFFERED = 24
FOOT = "All amounts in US dollars, all times in UTC."


@blueprint.get("/dashboard/wallet/statement.pdf")
@login_required
def document() -> Response:
    from chassis.papers.drawing import pdf

    user = signed_in_user()
    month = read_month(request.args.get("month", ""))
    throttle("statement", str(user.user_id))
    return Response(
        pdf(_paper(user, month)),
        mimetype="application/pdf",
        headers={"Content-Disposition": f'attachment; filename="statement-{month}.pdf"'},
    )


def months_offered(user: CurrentUser, now: datetime) -> list[str]:
    """From the month in which the account was made, the newest first."""
    months: list[str] = []
    first = user.created_at.strftime("%Y-%m")
    start = _start_of(now.strftime("%Y-%m"))
    while len(months) < MONTHS_OFFERED and start.strftime("%Y-%m") >= first:
        months.append(start.strftime("%Y-%m"))
        start = _start_of((start - timedelta(days=1)).strftime("%Y-%m"))
    return months


def _paper(user: CurrentUser, month: str) -> Paper:
    start = _start_of(month)
    end = _start_of((start + timedelta(days=31)).strftime("%Y-%m"))
    before = call(Statement(user_id=user.user_id, until=start, limit=1)).transactions
    opening_micros = before[0].balance_after_micros if before else 0
    moved = list(_transactions(user.user_id, start, end))[::-1]
    with database().read() as session:
        details = billing_details.details_of(session, user.user_id)
    amounts = [transaction.amount_micros for transaction in moved]
    return Paper(
        title=f"Statement {month}",
        # The same statement is the same file, as long as nothing was added to it.
        made_at=moved[-1].recorded_at if moved else start,
        seller=settings().seller_lines,
        buyer=details.printed or (user.email,),
        facts=(
            ("From", f"{start:%Y-%m-%d}"),
            ("To", f"{end - timedelta(days=1):%Y-%m-%d}" + (", so far" if end > utc_now() else "")),
            ("Account", str(user.user_id)),
        ),
        lines=(Amount("Balance before", opening_micros), *starmap(_line, titled(moved))),
        totals=(
            Amount("In", sum(amount for amount in amounts if amount > 0)),
            Amount("Out", sum(amount for amount in amounts if amount < 0)),
            Amount("Balance after", opening_micros + sum(amounts)),
        ),
        foot=FOOT,
    )


def _transactions(user_id: UUID, start: datetime, end: datetime) -> Iterator[Transaction]:
    """Newest first. Raises a 422 for more than fit."""
    cursor, count = None, 0
    while True:
        page = call(Statement(user_id=user_id, since=start, until=end, cursor=cursor, limit=200))
        count += len(page.transactions)
        if count > LINES_MAX:
            raise Problem(
                422,
                "bad_request",
                f"This month has more than {LINES_MAX:,} transactions, too many for a document. GET"
                " /api/wallet/transactions has them all.",
            )
        yield from page.transactions
        cursor = page.next_cursor
        if cursor is None:
            return


def _line(title: str, transaction: Transaction) -> Amount:
    detail = (
        f"{transaction.recorded_at:%Y-%m-%d %H:%M}  {KIND_NAMES[transaction.kind]}  "
        f"balance {format_usd(transaction.balance_after_micros)}"
    )
    return Amount(title, transaction.amount_micros, detail)


def _start_of(month: str) -> datetime:
    return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
