"""/dashboard/pools-advanced: the pools of the old system, where a setting has the site show them.

No page leads here, and where ``POOLS_PAGE`` is off there is nothing at these addresses.
"""

import re
from collections.abc import Callable
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.money import InvalidAmount
from contracts.errors import (
    NO_ANSWER,
    BadRequest,
    Conflict,
    NotFound,
    ServiceError,
)
from contracts.legacy import (
    UNITS_MAX,
    GetPoolHistory,
    GetPools,
    OrderKind,
    OrderStatus,
    Pool,
    PoolOrder,
    PoolQuote,
    Pools,
    QuoteAddition,
    QuoteExchange,
    QuoteWithdrawal,
    Stake,
    TakeQuote,
    Unstake,
)
from contracts.messages import Command
from contracts.wallet import GetWallet
from services.gateway.backend import ask, ask_all, call
from services.gateway.errors import STATUSES, Problem
from services.gateway.pages.forms import command_key, read_id
from services.gateway.people.identity import login_required, signed_in_user

blueprint = Blueprint("pools", __name__, url_prefix="/dashboard/pools-advanced")

Answer = Response | str | tuple[str, int]

SLIPPAGES_BPS = (10, 50, 100, 500)
USUAL_SLIPPAGE_BPS = 50
DOLLARS = "USD"
UNITS_EACH = 1_000_000
_TYPED = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,6}))?")


@blueprint.get("")
@login_required
def overview() -> str:
    return _overview()


@blueprint.get("/<pool>")
@login_required
def one(pool: str) -> str:
    return _one(pool)


@blueprint.post("/<pool>/quote")
@login_required
def quote(pool: str) -> Answer:
    """What it would come to, before anything is exchanged."""
    asked: dict[str, Callable[[str], PoolQuote]] = {
        OrderKind.EXCHANGE: _quote_exchange,
        OrderKind.ADD: _quote_addition,
        OrderKind.WITHDRAW: _quote_withdrawal,
    }
    what = request.form.get("what", "")
    if what not in asked:
        raise Problem(422, "bad_request", "Choose what to do: exchange, add or withdraw.")
    try:
        quoted = asked[what](pool)
    except InvalidAmount as error:
        return _one(pool, what, str(error)), 422
    except (BadRequest, Conflict) as error:
        return _one(pool, what, str(error)), STATUSES[error.code]
    return render_template(
        "pool_review.html",
        quote=quoted,
        pool=_found(call(GetPools(user_id=quoted.user_id)), pool),
        slippages=SLIPPAGES_BPS,
        usual_slippage=USUAL_SLIPPAGE_BPS,
    )


@blueprint.post("/<pool>/take")
@login_required
def take(pool: str) -> Answer:
    user_id = signed_in_user().user_id
    slippage = request.form.get("slippage_bps", "")
    if slippage not in {str(each) for each in SLIPPAGES_BPS}:
        raise Problem(422, "bad_request", "Choose how far the rate may move.")
    command = TakeQuote(
        idempotency_key=command_key(user_id, "pools"),
        user_id=user_id,
        quote_id=_quote_id(),
        slippage_bps=int(slippage),
    )
    return _carry_out(command, url_for("pools.one", pool=pool), "Done.")


@blueprint.post("/stake")
@login_required
def stake() -> Answer:
    return _restake("stake", Stake, "Staked.")


@blueprint.post("/unstake")
@login_required
def unstake() -> Answer:
    return _restake("unstake", Unstake, "Unstaked.")


def _restake(purpose: str, command: type[Stake] | type[Unstake], done: str) -> Answer:
    user_id = signed_in_user().user_id
    try:
        units = _units("units", "Amount")
    except InvalidAmount as error:
        return _overview(purpose, str(error)), 422
    key = command_key(user_id, "pools")
    made = command(idempotency_key=key, user_id=user_id, units=units)
    return _carry_out(made, url_for("pools.overview"), done)


def _carry_out(command: Command[PoolOrder], back: str, done: str) -> Answer:
    try:
        order = call(command)
    except NO_ANSWER as error:
        # Perhaps it was done: then it is in the history, or under way.
        flash(f"{error} Look at your history below before you try again.", "warning")
        return redirect(url_for("pools.overview"), 303)
    except ServiceError as error:
        flash(str(error), "danger")
        return redirect(back, 303)
    if order.status is OrderStatus.DONE:
        flash(done, "success")
    else:
        flash("Done. The dollars are still on their way; this takes a minute.", "info")
    return redirect(url_for("pools.overview"), 303)


def _quote_id() -> UUID:
    try:
        return read_id(request.form.get("quote_id", ""))
    except ValueError:
        raise Problem(422, "bad_request", "That is no quote. Ask for a new one.") from None


def _quote_exchange(pool: str) -> PoolQuote:
    return call(
        QuoteExchange(
            user_id=signed_in_user().user_id,
            pool=_name(pool),
            give=_coin(),
            give_units=_units("give_units", "Amount"),
        )
    )


def _coin() -> str:
    coin = request.form.get("give", "")
    if not 3 <= len(coin) <= 4:
        raise Problem(422, "bad_request", "Choose which coin to give.")
    return coin


def _quote_addition(pool: str) -> PoolQuote:
    return call(
        QuoteAddition(
            user_id=signed_in_user().user_id,
            pool=_name(pool),
            base_units=_units("base_units", "First amount"),
            other_units=_units("other_units", "Second amount"),
        )
    )


def _quote_withdrawal(pool: str) -> PoolQuote:
    """A part of what the user has in the pool: by percent, so that all of it is all of it."""
    user_id = signed_in_user().user_id
    percent = request.form.get("percent", "")
    if percent not in ("25", "50", "75", "100"):
        raise InvalidAmount("Choose how much to withdraw.")
    own = _found(call(GetPools(user_id=user_id)), pool).own_share_units
    shares = own * int(percent) // 100
    if shares == 0:
        raise InvalidAmount("You have nothing in this pool.")
    return call(QuoteWithdrawal(user_id=user_id, pool=pool, share_units=shares))


def _units(name: str, label: str) -> int:
    """The amount of a coin in a field, in millionths. Raises :class:`InvalidAmount`."""
    typed = _TYPED.fullmatch(request.form.get(name, "").strip())
    if typed is None:
        raise InvalidAmount(f"{label}: enter a number with at most 6 decimals, such as 12.5.")
    whole, part = typed.groups(default="")
    units = int(whole) * UNITS_EACH + int(part.ljust(6, "0"))
    if not 0 < units <= UNITS_MAX:
        raise InvalidAmount(f"{label}: enter more than 0, and at most a billion.")
    return units


def _name(pool: str) -> str:
    """Raises a 404 for what cannot be a pool's name."""
    if not 7 <= len(pool) <= 8:
        raise NotFound("There is no such pool.")
    return pool


def _found(pools: Pools, name: str) -> Pool:
    for each in pools.pools:
        if each.pool == name:
            return each
    raise NotFound("There is no such pool.")


def _overview(section: str = "", error: str = "") -> str:
    user_id = signed_in_user().user_id
    cursor = request.args.get("cursor") or None
    return render_template(
        "pools.html",
        pools=call(GetPools(user_id=user_id)),
        history=ask(GetPoolHistory(user_id=user_id, cursor=cursor)),
        is_later=cursor is not None,
        section=section,
        error=error,
        typed=request.form,
    )


def _one(name: str, section: str = "", error: str = "") -> str:
    user_id = signed_in_user().user_id
    pools = call(GetPools(user_id=user_id))
    wallet, _ = ask_all(GetWallet(user_id=user_id), None)
    free = {each.coin: each.units for each in pools.holdings}
    if wallet is not None:
        free[DOLLARS] = wallet.available_micros
    return render_template(
        "pool.html",
        pool=_found(pools, name),
        free=free,
        under_way=pools.under_way,
        section=section,
        error=error,
        typed=request.form,
    )
