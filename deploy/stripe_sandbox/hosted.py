"""The pages that a person sees: card form, 3-D Secure challenge, receipt, and the front page.

Plain forms, no scripts. A page's address holds an unguessable id, posts must come from the page
itself, and everything shown goes through the templates' escaping.
"""

import re
import secrets
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from flask import Blueprint, Response, current_app, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from . import cards, checkout, payments, setups
from .errors import ApiError, CardError, InvalidRequest
from .sandbox import Sandbox
from .store import Object

pages = Blueprint("hosted", __name__)
_EXPIRY = re.compile(r"^\s*(\d{1,2})\s*[/.\- ]?\s*(\d{2}|\d{4})\s*$")
_SHOWN_MAX = 25


def _sandbox() -> Sandbox:
    sandbox: Sandbox = current_app.extensions["sandbox"]
    return sandbox


def _page(
    template: str, status: int = 200, to: tuple[str | None, ...] = (), **facts: Any
) -> Response:
    """A page under a policy that allows its own style, and forms to itself and to `to`."""
    nonce = secrets.token_urlsafe(16)
    ahead_days = _sandbox().settings.clock_offset_days
    facts |= {"money": _money, "moment": _moment, "clock_offset_days": ahead_days}
    text = render_template(template, nonce=nonce, **facts)
    # A browser applies form-action to the redirect after a post as well.
    origins = {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, filter(None, to))}
    reply = Response(text, status, content_type="text/html; charset=utf-8")
    reply.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none';"
        f" form-action 'self' {' '.join(sorted(origins))}; frame-ancestors 'none'"
    )
    reply.headers["Referrer-Policy"] = "same-origin"
    reply.headers["X-Content-Type-Options"] = "nosniff"
    reply.headers["Cache-Control"] = "no-store"
    return reply


def _money(cents: int | None) -> str:
    dollars, rest = divmod(abs(cents or 0), 100)
    return f"{'-' if (cents or 0) < 0 else ''}${dollars:,}.{rest:02d}"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _check_origin() -> None:
    """A post must come from one of our own pages."""
    origin = request.headers.get("Origin")
    own = {request.host, urlsplit(_sandbox().base_url).netloc}
    if origin is not None and urlsplit(origin).netloc not in own:
        raise InvalidRequest("This form was sent from another site.", status=403)


@pages.errorhandler(ApiError)
def show_error(error: ApiError) -> Response:
    """An error as a page."""
    return _page("message.html", error.status, title="That did not work", text=error.message)


@pages.get("/c/pay/<session_id>")
def show_card_form(session_id: str) -> AnyResponse:
    """The card page; `?card=` fills in a test card."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        session = sandbox.store.get("checkout.session", session_id)
        checkout.expire_if_due(sandbox, session)
        if session["status"] != "open":
            return _closed(session)
        notice = sandbox.store.find("notice", session_id)
        if notice is not None:
            sandbox.store.remove("notice", session_id)
        chosen = cards.BY_NUMBER.get(request.args.get("card", ""))
        filled = _sample(chosen) if chosen else {}
        return _card_form(sandbox, session, filled, notice)


def _sample(card: cards.TestCard) -> dict[str, str]:
    code = "1234" if card.brand == "amex" else "123"
    return {"number": _grouped(card), "expiry": "12 / 34", "cvc": code, "name": "Test Person"}


def _grouped(card: cards.TestCard) -> str:
    number = card.number
    cuts = (4, 10) if len(number) < 16 else tuple(range(4, len(number), 4))
    return " ".join(number[a:b] for a, b in zip((0, *cuts), (*cuts, None), strict=True))


def _closed(session: Object) -> AnyResponse:
    if session["status"] == "complete":
        return redirect(checkout.success_address(session), 303)
    return _page(
        "message.html",
        410,
        title="This page has expired",
        text="Nothing was charged. Go back to the shop and start again.",
        link=session["cancel_url"],
    )


def _card_form(
    sandbox: Sandbox, session: Object, filled: dict[str, str], error: dict[str, Any] | None
) -> Response:
    known = sandbox.store.find("customer", session["customer"]) or {}
    offered = session["saved_payment_method_options"] or {}
    return _page(
        "card_form.html",
        402 if error and request.method == "POST" else 200,
        to=(session["success_url"], session["cancel_url"]),
        session=session,
        items=sandbox.store.get("line_items", session["id"])["items"],
        filled=filled,
        error=error,
        email=known.get("email") or session["customer_email"],
        saves=checkout.saves_card(sandbox, session),
        may_save=offered.get("payment_method_save") == "enabled",
        test_cards=[(card, _grouped(card)) for card in cards.CARDS if card.shown],
    )


@pages.post("/c/pay/<session_id>")
def submit_card_form(session_id: str) -> AnyResponse:
    """The person pressed Pay or Save card."""
    _check_origin()
    sandbox, form = _sandbox(), request.form
    with sandbox.store.transaction():
        session = sandbox.store.get("checkout.session", session_id)
        checkout.expire_if_due(sandbox, session)
        if session["status"] != "open":
            return _closed(session)
        try:
            asks = checkout.submit(
                sandbox,
                session,
                _card(form.get("number", ""), form.get("expiry", ""), form.get("cvc", "")),
                {"name": form.get("name") or None, "email": form.get("email") or None},
                save=form.get("save") == "yes",
            )
        except CardError as error:
            return _card_form(sandbox, session, form.to_dict(), error.error)
    if asks is not None:
        return redirect(f"/3ds/{asks['client_secret']}", 303)
    return redirect(checkout.success_address(session), 303)


def _card(number: str, expiry: str, cvc: str) -> dict[str, Any]:
    match = _EXPIRY.match(expiry)
    if match is None:
        raise CardError(
            "Your card's expiration date is incomplete: write it as MM / YY.",
            code="invalid_expiry_month",
            param="exp_month",
        )
    if not cvc.strip():
        raise CardError("Your card's security code is incomplete.", code="invalid_cvc", param="cvc")
    month, year = int(match[1]), int(match[2])
    return {"number": number, "exp_month": month, "exp_year": year, "cvc": cvc.strip()}


def _intent(sandbox: Sandbox, secret: str) -> Object:
    """The intent whose client secret this is, while it waits for its owner."""
    object_id = secret.split("_secret_", maxsplit=1)[0]
    kind = "setup_intent" if object_id.startswith("seti_") else "payment_intent"
    intent = sandbox.store.get(kind, object_id, "intent")
    if not secrets.compare_digest(intent["client_secret"].encode(), secret.encode()):
        raise InvalidRequest("This address is not right.", status=404)
    if intent["status"] != "requires_action":
        raise InvalidRequest("This payment no longer waits for its authentication.", status=410)
    return intent


@pages.get("/3ds/<secret>")
def show_challenge(secret: str) -> Response:
    """The card issuer's challenge."""
    sandbox = _sandbox()
    with sandbox.store.transaction():
        intent = _intent(sandbox, secret)
        method = sandbox.store.get("payment_method", intent["payment_method"])
        session = payments.checkout_of(sandbox, intent["id"]) or {}
        back = (intent["next_action"].get("redirect_to_url") or {}).get("return_url")
        to = (session.get("success_url"), back)
        return _page("challenge.html", to=to, intent=intent, card=method["card"])


@pages.post("/3ds/<secret>")
def answer_challenge(secret: str) -> AnyResponse:
    """Complete or Fail was pressed."""
    _check_origin()
    sandbox = _sandbox()
    with sandbox.store.transaction():
        intent = _intent(sandbox, secret)
        back = (intent["next_action"].get("redirect_to_url") or {}).get("return_url")
        error = authenticate(sandbox, intent, request.form.get("answer") == "complete")
        session = payments.checkout_of(sandbox, intent["id"])
        if session is not None and error is not None:
            notice = {"id": session["id"], "message": error.message}
            sandbox.store.put("notice", notice)
            return redirect(f"/c/pay/{session['id']}", 303)
        if session is not None:
            return redirect(checkout.success_address(session), 303)
    if back:
        name = intent["object"]
        outcome = "failed" if error else "succeeded"
        query = urlencode({name: intent["id"], f"{name}_client_secret": secret,
                           "redirect_status": outcome})  # fmt: skip
        return redirect(f"{back}{'&' if '?' in back else '?'}{query}", 303)
    title = "Not authenticated" if error else "Authenticated"
    text = error.message if error else "You can close this page."
    return _page("message.html", title=title, text=text)


def authenticate(sandbox: Sandbox, intent: Object, passed: bool) -> CardError | None:
    """End the challenge of a payment or setup intent, and its checkout session with it."""
    act = setups.authenticate if intent["object"] == "setup_intent" else payments.authenticate
    error = act(sandbox, intent, passed)
    session = payments.checkout_of(sandbox, intent["id"])
    if session is not None and error is None and session["status"] == "open":
        checkout.finish(sandbox, session)
    return error


@pages.get("/receipts/<charge_id>")
def show_receipt(charge_id: str) -> Response:
    """A charge's receipt."""
    sandbox = _sandbox()
    with sandbox.store.lock:
        charge = sandbox.store.get("charge", charge_id)
        if not charge["paid"]:
            raise InvalidRequest("This charge was not paid.", status=404)
        return _page("receipt.html", charge=charge)


@pages.get("/")
def show_overview() -> Response:
    """What this is, and what happened lately."""
    sandbox = _sandbox()
    with sandbox.store.lock:
        return _page(
            "overview.html",
            payments=sandbox.store.newest("payment_intent")[:_SHOWN_MAX],
            events=sandbox.store.newest("event")[:_SHOWN_MAX],
            deliveries={item["id"]: item for item in sandbox.store.newest("delivery")},
            webhook_url=sandbox.settings.webhook_url,
            cards=[(card, _grouped(card)) for card in cards.CARDS],
        )
