"""/register, /login and /logout."""

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from services.gateway.backend import database
from services.gateway.errors import STATUSES
from services.gateway.pages.forms import return_path
from services.gateway.people import known_devices, users
from services.gateway.people.identity import (
    current_user,
    end_browser_session,
    ensure_wallet,
    start_browser_session,
)
from services.gateway.security import place, throttle, throttle_login

blueprint = Blueprint("accounts", __name__)

Answer = Response | str | tuple[str, int]


@blueprint.get("/register")
def register_form() -> Answer:
    if current_user():
        return redirect(return_path(url_for("dashboard.overview")), 303)
    return render_template("register.html", next=return_path(""))


@blueprint.post("/register")
def register() -> Answer:
    throttle("register", place())
    email, password = request.form.get("email", ""), request.form.get("password", "")
    try:
        prepared = users.prepare(email, password)
        with database().begin() as session:
            user = users.register(session, utc_now(), prepared)
    except users.AccountError as error:
        return _refused("register.html", error)
    start_browser_session(user)
    known_devices.remember(user.email_key)
    ensure_wallet(users.describe(user))
    flash("Welcome. Your account and an empty wallet are ready.", "success")
    return redirect(return_path(url_for("dashboard.overview")), 303)


@blueprint.get("/login")
def login_form() -> Answer:
    if current_user():
        return redirect(return_path(url_for("dashboard.overview")), 303)
    return render_template("login.html", next=return_path(""))


@blueprint.post("/login")
def login() -> Answer:
    email, password = request.form.get("email", ""), request.form.get("password", "")
    throttle_login(users.email_key(email))
    try:
        user = users.log_in(database(), email, password)
    except users.AccountError as error:
        return _refused("login.html", error)
    start_browser_session(user)
    known_devices.remember(user.email_key)
    ensure_wallet(users.describe(user))
    return redirect(return_path(url_for("dashboard.overview")), 303)


@blueprint.post("/logout")
def logout() -> Response:
    end_browser_session()
    flash("You are logged out.", "info")
    return redirect(url_for("home.landing"), 303)


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
