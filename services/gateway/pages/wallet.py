"""/dashboard/wallet: the balance, buying credits, cards, auto top-up, transactions."""

from datetime import UTC, date, datetime, timedelta
from urllib.parse import quote
from zoneinfo import ZoneInfo

from flask import Blueprint, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.wrappers import Response

from chassis.clock import start_of_day, utc_now
from chassis.money import whole_cents
from contracts.topup import GetAutoTopup, GetTopupOverview
from contracts.wallet import GetWallet, Statement, TransactionKind
from services.gateway.backend import ask_all, call_while, note
from services.gateway.errors import Problem
from services.gateway.pages import statements
from services.gateway.pages.cards import say_what_happened
from services.gateway.pages.navbar import navbar
from services.gateway.pages.offers import by_card
from services.gateway.pages.topups import payments_arriving
from services.gateway.people.identity import login_required, signed_in_user

blueprint = Blueprint("wallet", __name__)

RECENT = 5
PAGE_SIZE = 25


@blueprint.get("/dashboard/wallet")
@login_required
def overview() -> str | Response:
    user_id = signed_in_user().user_id
    topup_id = request.args.get("topup", "")
    if topup_id and "cancelled" not in request.args:
        return redirect(f"/topups/{quote(topup_id, safe='')}", 303)
    if topup_id or "card_setup" in request.args:
        say_what_happened()
        return redirect(url_for("wallet.overview"), 303)
    wallet, paying, statement = ask_all(
        GetWallet(user_id=user_id),
        GetTopupOverview(user_id=user_id),
        Statement(user_id=user_id, limit=RECENT, with_promotions=True),
    )
    auto_topup = paying.auto_topup if paying else None
    if auto_topup:
        # The menu wants to know it too.
        note(GetAutoTopup(user_id=user_id), auto_topup)
    debt_micros = max(-wallet.available_micros, 0) if wallet else 0
    least_micros = auto_topup.topup_amount_min_micros if auto_topup else 0
    return render_template(
        "wallet.html",
        wallet=wallet,
        promotions=(statement.promotions or []) if statement else [],
        auto_topup=auto_topup,
        debt_micros=debt_micros,
        settles_micros=max(whole_cents(debt_micros), least_micros),
        cards=paying.payment_methods if paying else None,
        statement=statement,
        topups_in_progress=payments_arriving(paying.topups if paying else None),
        by_card=by_card(paying),
    )


@blueprint.get("/dashboard/wallet/transactions")
@login_required
def transactions() -> str:
    """The statement: filtered by kind and by days of the reader's time zone, newest first, with the
    balance after each."""
    zone = ZoneInfo(signed_in_user().time_zone)
    chosen = {
        name: request.args[name] for name in ("kind", "since", "until") if request.args.get(name)
    }
    try:
        question = Statement(
            user_id=signed_in_user().user_id,
            kinds=[TransactionKind(chosen["kind"])] if "kind" in chosen else [],
            since=_start_of(chosen["since"], zone) if "since" in chosen else None,
            until=_end_of(chosen["until"], zone) if "until" in chosen else None,
            cursor=request.args.get("cursor") or None,
            limit=PAGE_SIZE,
        )
    except (ValidationError, ValueError):
        raise Problem(
            422,
            "bad_request",
            "A date is written like 2026-11-22, and the kind is one of the list.",
        ) from None
    page, _ = call_while(question, navbar)
    return render_template(
        "transactions.html",
        page=page,
        chosen=chosen,
        zone=zone.key,
        is_later=bool(question.cursor),
        months=statements.months_offered(signed_in_user(), utc_now()),
    )


def _start_of(day: str, zone: ZoneInfo) -> datetime | None:
    """When a day begins in a time zone; None for the first day of all, before which is nothing."""
    start = start_of_day(day)
    return start.replace(tzinfo=zone).astimezone(UTC) if start.date() > date.min else None


def _end_of(day: str, zone: ZoneInfo) -> datetime | None:
    """When it ends, so that the whole of it is in the statement; None for the last day of all."""
    start = start_of_day(day)
    if start.date() == date.max:
        return None
    return (start + timedelta(days=1)).replace(tzinfo=zone).astimezone(UTC)
