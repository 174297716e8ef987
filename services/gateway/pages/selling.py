"""/dashboard/selling: becoming a seller, what was sold, and asking to be paid."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any
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
from werkzeug.wrappers import Response as Answer

from chassis.clock import utc_now
from chassis.money import InvalidAmount, format_usd, usd_number
from contracts.billing import (
    SALES_DAYS_MAX,
    GetSalesSums,
    ListPayouts,
    ListSales,
    Payout,
    PayoutStatus,
    ProductSales,
    RequestPayout,
)
from contracts.errors import NO_ANSWER, Conflict, ServiceError
from contracts.messages import day_from
from services.gateway import selling
from services.gateway.backend import ask, ask_all, call, database, settings
from services.gateway.errors import STATUSES, Problem
from services.gateway.pages.forms import command_key, money_field
from services.gateway.people.identity import forget_identity, login_required, signed_in_user
from services.gateway.people.signing_in import check_may_pay_out
from services.gateway.people.users import AccountError
from services.gateway.security import throttle
from services.gateway.spreadsheets import download, harmless, lines

blueprint = Blueprint("selling", __name__, url_prefix="/dashboard/selling")

DAYS = 31
SALES_MAX = 200
SHOWN_PAYOUTS = 25

STATES = {
    PayoutStatus.REQUESTED: ("Being set aside", "wait"),
    PayoutStatus.HELD: ("Waiting to be sent", "wait"),
    PayoutStatus.PAYING: ("Waiting to be sent", "wait"),
    PayoutStatus.REFUSING: ("Refused", "bad"),
    PayoutStatus.PAID: ("Sent", "good"),
    PayoutStatus.REFUSED: ("Refused", "bad"),
    PayoutStatus.DECLINED: ("Not made", "bad"),
}
"""What a payout is called, and whether it is good news, a wait or bad news."""


@blueprint.get("/join")
@login_required
def join_form() -> Answer | str:
    user_id = signed_in_user().user_id
    with database().read() as session:
        if selling.is_seller(session, user_id):
            return redirect(url_for("selling.overview"), 303)
    return _join_page()


@blueprint.post("/join")
@login_required
def join() -> Answer | tuple[str, int]:
    user = signed_in_user()
    try:
        if request.form.get("agree") != "yes":
            raise Conflict("Tick that you agree to the terms. Nothing was agreed.")
        fee_bps = settings().marketplace_fee_bps
        if request.form.get("fee_bps") != str(fee_bps):
            raise Conflict("The fee has changed meanwhile. Read the terms; nothing was agreed.")
        with database().begin() as session:
            selling.join(
                session,
                utc_now(),
                user.user_id,
                request.form.get("terms", ""),
                fee_bps,
                request.remote_addr or "unknown",
            )
    except Conflict as error:
        return _join_page(error=error), STATUSES[error.code]
    forget_identity()
    flash("You are a seller now.", "success")
    return redirect(url_for("selling.overview"), 303)


def _join_page(**said: Any) -> str:
    fee_bps = settings().marketplace_fee_bps
    return render_template(
        "selling_join.html", fee_bps=fee_bps, version=selling.TERMS_VERSION, **said
    )


@blueprint.get("")
@login_required
def overview() -> Answer | str:
    """What was earned is paid to whom an operator took the role from, too."""
    user_id = signed_in_user().user_id
    with database().read() as session:
        sells = selling.sells(session, user_id)
    if not sells and not _has_earned(user_id):
        return redirect(url_for("selling.join_form"), 303)
    return _page()


def _has_earned(user_id: UUID) -> bool:
    """Of who sells without having agreed here to anything: operators put up products as well."""
    payouts = ask(ListPayouts(user_id=user_id, limit=SHOWN_PAYOUTS))
    return payouts is not None and bool(
        payouts.payouts or payouts.payable_micros or payouts.owed_micros
    )


@blueprint.get("/sales.csv")
@login_required
def sales_file() -> Response:
    """The days that are shown, all of their rows."""
    since, until = _days()
    rows = _rows(ListSales(user_id=signed_in_user().user_id, since=since, until=until,
                           limit=SALES_MAX))  # fmt: skip
    return download(f"sales-{since}-{until}.csv", rows)


def _rows(question: ListSales) -> Iterator[str]:
    yield lines([_COLUMNS])
    found = call(question)
    yield lines(map(_fields, found.sales))
    while found.next_cursor is not None:
        found = call(question.model_copy(update={"cursor": found.next_cursor}))
        yield lines(map(_fields, found.sales))


@blueprint.post("/payouts/review")
@login_required
def review() -> str | tuple[str, int]:
    """The amount once more, before anything is set aside."""
    try:
        amount_micros = money_field("amount", "Amount")
    except InvalidAmount as error:
        return _page(error=str(error)), 422
    return _review(amount_micros)


@blueprint.post("/payouts")
@login_required
def request_payout() -> Answer | str | tuple[str, int]:
    user = signed_in_user()
    try:
        amount_micros = money_field("amount", "Amount")
        key, code = command_key(user.user_id, "payout"), request.form.get("code", "")
        throttle("password", str(user.user_id))
        check_may_pay_out(user, code, key)
        made = call(
            RequestPayout(idempotency_key=key, user_id=user.user_id, amount_micros=amount_micros)
        )
    except InvalidAmount as error:
        return _page(error=str(error)), 422
    except AccountError as error:
        return _review(amount_micros, error=error), 422
    except NO_ANSWER as error:
        # Perhaps it was set aside: the same form, with the same key, is the way to find out.
        said = f"{error} Pressing again is safe: it is asked for once."
        return _review(amount_micros, warning=said), STATUSES[error.code]
    except ServiceError as error:
        return _page(error=str(error)), STATUSES.get(error.code, 502)
    flash(_said(made), "success" if made.status is not PayoutStatus.DECLINED else "danger")
    return redirect(url_for("selling.overview") + "#payouts", 303)


def _said(made: Payout) -> str:
    amount = format_usd(made.amount_micros)
    if made.status is PayoutStatus.DECLINED:
        return f"{amount} was not set aside. {made.reason}"
    return f"{amount} is set aside until it is sent. You are told then."


def _review(amount_micros: int, **said: Any) -> str:
    return render_template(
        "payout_review.html",
        amount_micros=amount_micros,
        asks_for_code=signed_in_user().has_second_step,
        key=request.form.get("key"),
        **said,
    )


def _page(error: str = "") -> str:
    user_id = signed_in_user().user_id
    since, until = _days()
    cursor = request.args.get("cursor") or None
    sales, sums, payouts = ask_all(
        ListSales(user_id=user_id, since=since, until=until, cursor=cursor, limit=SALES_MAX),
        GetSalesSums(user_id=user_id, since=since, until=until, limit=1),
        ListPayouts(user_id=user_id, limit=SHOWN_PAYOUTS),
    )
    with database().read() as session:
        agreed = selling.agreed(session, user_id)
        is_seller = selling.is_seller(session, user_id)
    return render_template(
        "selling.html",
        sales=sales,
        sums=sums.total if sums else None,
        payouts=payouts,
        states=STATES,
        agreed=agreed,
        is_seller=is_seller,
        since=since,
        until=until,
        is_later=bool(cursor),
        error=error,
    )


def _days() -> tuple[date, date]:
    """The days that are asked for, or the last month."""
    today = utc_now().date()
    try:
        until = day_from(request.args["until"]) if request.args.get("until") else today
        given = request.args.get("since")
        since = day_from(given) if given else until - timedelta(days=DAYS - 1)
    except (ValueError, OverflowError):
        raise Problem(422, "bad_request", "A day is written like 2026-11-28.") from None
    if since > until:
        raise Problem(422, "bad_request", "The first day comes before the last one.")
    if (until - since).days >= SALES_DAYS_MAX:
        raise Problem(422, "bad_request", f"{SALES_DAYS_MAX} days at most are shown at once.")
    return since, until


_COLUMNS = (
    "day", "product_id", "product", "units", "renewals", "units_refunded",
    "gross_usd", "refunded_usd", "fee_usd", "net_usd",
)  # fmt: skip


def _fields(row: ProductSales) -> tuple[object, ...]:
    amounts = (row.gross_micros, row.refunded_micros, row.fee_micros, row.net_micros)
    return (
        row.day,
        row.product_id,
        harmless(row.product_name),
        row.units,
        row.renewals,
        row.units_refunded,
        *map(usd_number, amounts),
    )
