"""/register, /login with its second step, and /logout."""

from datetime import timedelta
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask import session as cookie
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from services.gateway.access import Who, open_to
from services.gateway.backend import database
from services.gateway.errors import STATUSES
from services.gateway.models import User
from services.gateway.pages.forms import return_path
from services.gateway.people import devices, email_addresses, known_devices, signing_in, users
from services.gateway.people.bearer_secrets import fingerprint
from services.gateway.people.identity import (
    current_user,
    end_browser_session,
    ensure_wallet,
    start_browser_session,
)
from services.gateway.people.signing_in import check_second_step
from services.gateway.security import place, throttle, throttle_login

blueprint = Blueprint("accounts", __name__)

SECOND_STEP_WITHIN = timedelta(minutes=10)
_PASSED = "password_passed"

Answer = Response | str | tuple[str, int]


@blueprint.get("/register")
@open_to(Who.EVERYBODY)
def register_form() -> Answer:
    if current_user():
        return redirect(return_path(url_for("dashboard.overview")), 303)
    return render_template("register.html", next=return_path(""))


@blueprint.post("/register")
@open_to(Who.EVERYBODY)
def register() -> Answer:
    throttle("register", place())
    email, password = request.form.get("email", ""), request.form.get("password", "")
    try:
        prepared = users.prepare(email, password)
        with database().begin() as session:
            user = users.register(session, utc_now(), prepared)
            email_addresses.ask_to_confirm(session, utc_now(), user.user_id)
    except users.AccountError as error:
        return _refused("register.html", error)
    start_browser_session(user)
    known_devices.remember(user.email_key)
    ensure_wallet(users.describe(user))
    flash("Welcome. Your account and an empty wallet are ready.", "success")
    return redirect(return_path(url_for("dashboard.overview")), 303)


@blueprint.get("/login")
@open_to(Who.EVERYBODY)
def login_form() -> Answer:
    if current_user():
        return redirect(return_path(url_for("dashboard.overview")), 303)
    return render_template("login.html", next=return_path(""))


@blueprint.post("/login")
@open_to(Who.EVERYBODY)
def login() -> Answer:
    email, password = request.form.get("email", ""), request.form.get("password", "")
    throttle_login(users.email_key(email))
    try:
        user = users.log_in(database(), email, password)
    except users.AccountError as error:
        return _refused("login.html", error)
    if user.second_step_since is not None:
        return _ask_for_second_step(user)
    return _enter(user)


@blueprint.get("/login/second-step")
@open_to(Who.EVERYBODY)
def second_step_form() -> Answer:
    if _who_gave_the_password() is None:
        return redirect(url_for("accounts.login_form", next=return_path("") or None), 303)
    return render_template("second_step.html", next=return_path(""))


@blueprint.post("/login/second-step")
@open_to(Who.EVERYBODY)
def second_step() -> Answer:
    user = _who_gave_the_password()
    if user is None:
        flash("That took too long. Log in again.", "warning")
        return redirect(url_for("accounts.login_form", next=return_path("") or None), 303)
    throttle("password", str(user.user_id))
    try:
        check_second_step(user.user_id, request.form.get("code", ""))
    except users.AccountError as error:
        return _refused("second_step.html", error)
    return _enter(user)


@blueprint.post("/logout")
@open_to(Who.EVERYBODY)
def logout() -> Response:
    end_browser_session()
    flash("You are logged out.", "info")
    return redirect(url_for("home.landing"), 303)


def _enter(user: User) -> Response:
    """Log this browser in, and tell the user of it where it is a new one."""
    is_new = known_devices.device_of(user.email_key) is None
    start_browser_session(user)
    known_devices.remember(user.email_key)
    if is_new:
        with database().begin() as session:
            device = devices.name_of(request.user_agent.string)
            signing_in.tell(session, utc_now(), user.user_id, device)
    ensure_wallet(users.describe(user))
    return redirect(return_path(url_for("dashboard.overview")), 303)


def _ask_for_second_step(user: User) -> Response:
    until = (utc_now() + SECOND_STEP_WITHIN).timestamp()
    # A password that is changed meanwhile was not the right one.
    proof = fingerprint(user.password_hash).hex()
    cookie[_PASSED] = [str(user.user_id), until, proof]
    return redirect(url_for("accounts.second_step_form", next=return_path("") or None), 303)


def _who_gave_the_password() -> User | None:
    """Who has given the right password in this browser a moment ago."""
    passed = cookie.get(_PASSED)
    if passed is None:
        return None
    user_id, until, proof = passed
    if utc_now().timestamp() >= until:
        return None
    with database().read() as session:
        user = session.get(User, UUID(user_id))
        is_right = user is not None and fingerprint(user.password_hash).hex() == proof
        return user if is_right else None


def _refused(template: str, error: users.AccountError) -> tuple[str, int]:
    """The form again, with what was typed except the password, and what is wrong with it."""
    page = render_template(
        template,
        next=return_path(""),
        email=request.form.get("email", "")[:254],
        error=str(error),
        error_field=error.field,
    )
    return page, STATUSES[error.code]
