"""/dashboard/account: everything that belongs to the person, a section each."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import segno
from flask import Blueprint, flash, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.digits import whole_number
from contracts.papers import BillingDetails
from services.gateway.backend import database, settings
from services.gateway.errors import STATUSES, Problem
from services.gateway.notifications import mails, topics
from services.gateway.pages.forms import read_id
from services.gateway.people import (
    billing_details,
    closing,
    devices,
    email_addresses,
    passwords,
    second_step,
    sessions,
    time_zones,
    tokens,
    users,
)
from services.gateway.people.identity import (
    current_identity,
    end_browser_session,
    forget_identity,
    login_required,
    signed_in_user,
)
from services.gateway.people.signing_in import check_second_step
from services.gateway.people.tokens import Scope
from services.gateway.people.users import CurrentUser
from services.gateway.security import throttle
from services.gateway.staff.grants import roles_of
from services.gateway.staff.guard import FOR_ROLES, check_scopes
from services.gateway.staff.guard import make_token as make_token_of

blueprint = Blueprint("account", __name__, url_prefix="/dashboard/account")

Answer = Response | str | tuple[str, int]
SCOPE_TEXTS = {
    Scope.READ: "Read: everything that these pages show. Every token may.",
    Scope.BUY: "Buy: pay from the wallet, and change what was bought.",
    Scope.MONEY: "Manage money: cards, auto top-up and payouts.",
    Scope.SELL: "Sell: add, change and retire your products, and edit your profile.",
    Scope.ADMIN: "Do what your roles allow, for 30 days at most.",
}
EXPIRIES_DAYS = (30, 90, 366)
LACKING = ("role_missing", "second_step_missing")
"""What a section says of who asks for more than they may by now."""


@blueprint.get("")
@login_required
def overview() -> str:
    return _page()


@blueprint.post("/email")
@login_required
def change_email() -> Answer:
    def act(user: CurrentUser) -> Response:
        email = request.form.get("email", "")
        _check_who(user)
        throttle("reset_account", str(user.user_id))
        with database().begin() as session:
            email_addresses.ask_to_change(session, utc_now(), user.user_id, email)
        return _done(
            "email", "Open the link that we sent to the new address. Until then nothing changes."
        )

    return _in_section("email", act)


@blueprint.post("/email/confirmation")
@login_required
def send_confirmation() -> Response:
    """The link to the present address once more."""
    user = signed_in_user()
    throttle("reset_account", str(user.user_id))
    with database().begin() as session:
        email_addresses.ask_to_confirm(session, utc_now(), user.user_id)
    return _done("email", f"We sent a link to {user.email}.")


@blueprint.post("/password")
@login_required
def change_password() -> Answer:
    def act(user: CurrentUser) -> Response:
        known = _check_who(user)
        new = users.new_password_hash(user.email, request.form.get("password", ""))
        identity = current_identity()
        stays = identity.credential_id if identity else user.user_id
        with database().begin() as session:
            passwords.change(session, utc_now(), user.user_id, known, new, stays=stays)
        return _done("password", "Your password is changed. Other browsers are logged out.")

    return _in_section("password", act)


@blueprint.post("/second-step")
@login_required
def begin_second_step() -> Answer:
    """A new secret, shown this once."""

    def act(user: CurrentUser) -> Answer:
        _check_who(user)
        with database().begin() as session:
            secret = second_step.begin(session, user.user_id, settings().secret_key)
        return _setup_page(user, secret)

    return _in_section("second-step", act)


@blueprint.post("/second-step/confirm")
@login_required
def confirm_second_step() -> Answer:
    """In force from now on; browsers and programs that were never asked for it are logged out."""
    user, identity, now = signed_in_user(), current_identity(), utc_now()
    throttle("password", str(user.user_id))
    try:
        with database().begin() as session:
            codes = second_step.confirm(
                session,
                now,
                user.user_id,
                settings().secret_key,
                request.form.get("code", ""),
            )
            but = identity.credential_id if identity else None
            sessions.end_all(session, now, user.user_id, but=but)
            tokens.revoke_all(session, now, user.user_id, of_logins_only=True)
    except users.SecondStepRequired as error:
        return render_template("second_step_setup.html", error=str(error)), 422
    forget_identity()
    return render_template("recovery_codes.html", codes=codes)


@blueprint.post("/second-step/off")
@login_required
def end_second_step() -> Answer:
    def act(user: CurrentUser) -> Response:
        _check_who(user)
        with database().begin() as session:
            second_step.switch_off(session, utc_now(), user.user_id)
        forget_identity()
        return _done("second-step", "The second step is off.")

    return _in_section("second-step", act)


@blueprint.post("/sessions/end")
@login_required
def end_session() -> Response:
    """One session, or all others where the form names none."""
    user, identity = signed_in_user(), current_identity()
    wanted, now = request.form.get("session_id", ""), utc_now()
    with database().begin() as session:
        if wanted:
            sessions.end(session, now, user.user_id, _id(wanted))
        else:
            but = identity.credential_id if identity else None
            sessions.end_all(session, now, user.user_id, but=but)
    return _done("sessions", "It is logged out." if wanted else "All others are logged out.")


@blueprint.post("/tokens")
@login_required
def make_token() -> Answer:
    def act(user: CurrentUser) -> Answer:
        name = " ".join(request.form.get("name", "").split())
        if not 0 < len(name) <= tokens.NAME_LENGTH_MAX:
            raise users.InvalidName(f"Give it a name of 1 to {tokens.NAME_LENGTH_MAX} characters.")
        wanted = set(request.form.getlist("scopes"))
        scopes = [scope for scope in Scope if scope in wanted]
        now = utc_now()
        check_scopes(user, scopes, request.form.get("code", ""))
        with database().begin() as session:
            secret = make_token_of(session, now, user.user_id, name, scopes, _expiry(now))
        return _page(new_token=secret)

    return _in_section("tokens", act)


@blueprint.post("/tokens/revoke")
@login_required
def revoke_token() -> Response:
    user, now = signed_in_user(), utc_now()
    with database().begin() as session:
        found = tokens.get(session, now, user.user_id, _id(request.form.get("token_id", "")))
        tokens.revoke(session, now, found.token_id)
    return _done("tokens", f"{found.name} works no more.")


@blueprint.post("/notifications")
@login_required
def choose_notifications() -> Response:
    wanted = {
        topic.name: topics.Choice(
            on_page=f"page.{topic.name}" in request.form,
            by_mail=f"mail.{topic.name}" in request.form,
        )
        for topic in topics.TOPICS
    }
    with database().begin() as session:
        topics.choose(session, signed_in_user().user_id, wanted)
    return _done("notifications", "Your choice is saved.")


@blueprint.post("/time-zone")
@login_required
def choose_time_zone() -> Response:
    name = request.form.get("time_zone", "")
    if not time_zones.is_known(name):
        return _done("time-zone", "Choose a time zone of the list.", "danger")
    with database().begin() as session:
        time_zones.choose(session, signed_in_user().user_id, name)
    forget_identity()
    return _done("time-zone", "Your time zone is saved.")


@blueprint.post("/billing-details")
@login_required
def save_billing_details() -> Answer:
    typed = {name: request.form.get(name, "") for name in BillingDetails.model_fields}
    try:
        details = BillingDetails.model_validate(typed)
    except ValidationError as error:
        return _page(billing=typed, refused_detail=str(error.errors()[0]["loc"][0])), 422
    with database().begin() as session:
        billing_details.save(session, utc_now(), signed_in_user().user_id, details)
    return _done("billing-details", "Receipts that you issue from now on are made out so.")


@blueprint.get("/delete")
@login_required
def delete_form() -> str:
    user = signed_in_user()
    return render_template("delete_account.html", reasons=closing.reasons_against(user.user_id))


@blueprint.post("/delete")
@login_required
def delete() -> Answer:
    user = signed_in_user()
    try:
        _check_who(user)
    except users.AccountError as error:
        reasons = closing.reasons_against(user.user_id)
        page = render_template("delete_account.html", reasons=reasons, error=error)
        return page, 422
    reasons = closing.close(user.user_id)
    if reasons:
        return render_template("delete_account.html", reasons=reasons), 409
    end_browser_session()
    flash("Your account is deleted.", "success")
    return redirect(url_for("home.landing"), 303)


def _check_who(user: CurrentUser) -> str:
    """The password again, and the second step where there is one; the password's hash."""
    throttle("password", str(user.user_id))
    known = users.check_password(database(), user.user_id, request.form.get("current_password", ""))
    check_second_step(user.user_id, request.form.get("code", ""))
    return known


def _in_section(section: str, act: Callable[[CurrentUser], Answer]) -> Answer:
    """What ``act`` comes to, or the page again with what is wrong in this section."""
    try:
        return act(signed_in_user())
    except users.AccountError as error:
        status = STATUSES[error.code]
        return _page(section=section, error=error), 422 if status == 401 else status
    except Problem as problem:
        if problem.code not in LACKING:
            raise
        return _page(section=section, error=problem), problem.status


def _done(section: str, sentence: str, tone: str = "success") -> Response:
    flash(sentence, tone)
    return redirect(url_for("account.overview") + f"#{section}", 303)


def _page(**said: Any) -> str:
    user, identity, now = signed_in_user(), current_identity(), utc_now()
    with database().read() as session:
        roles = roles_of(session, user.user_id)
        shown = {
            "sessions": sessions.open_ones(session, now, user.user_id),
            "tokens": tokens.living(session, now, user.user_id),
            "choices": topics.choices(session, user.user_id),
            "billing": billing_details.details_of(session, user.user_id).model_dump(),
            "codes_left": second_step.codes_left(session, user.user_id),
            "mail_refusal": mails.last_refusal(session, user.user_id, user.email),
        }
    return render_template(
        "account.html",
        **{**shown, **said},
        user=user,
        this_session=identity.credential_id if identity else None,
        topics=topics.TOPICS,
        zones=time_zones.names(),
        device_name=devices.name_of,
        scope_texts={
            scope: about
            for scope, about in SCOPE_TEXTS.items()
            if scope not in FOR_ROLES or roles & FOR_ROLES[scope]
        },
        # Of a token that was refused; of others the fields are empty.
        typed=request.form if said.get("section") == "tokens" else MultiDict(),
        asks_for_code=any(roles & each for each in FOR_ROLES.values()),
        expiries=EXPIRIES_DAYS,
    )


def _setup_page(user: CurrentUser, secret: str) -> str:
    picture = segno.make(second_step.address(secret, user.email), error="m")
    return render_template(
        "second_step_setup.html",
        picture=picture.svg_data_uri(scale=5, border=4, light="#ffffff"),
        secret=" ".join(secret[at : at + 4] for at in range(0, len(secret), 4)),
    )


def _expiry(now: Any) -> Any:
    try:
        days = whole_number(request.form.get("expires_in_days", ""))
    except ValueError:
        return None
    return now + timedelta(days=days) if days in EXPIRIES_DAYS else None


def _id(text: str) -> UUID:
    try:
        return read_id(text)
    except ValueError:
        # Nobody has it.
        return UUID(int=0)
