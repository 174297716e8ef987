"""Where links in mails lead, and what sends them to who has no session: a new password, a confirmed
address, no more mails about something.

Opening one changes nothing, as mail programs open them too: a button does.
"""

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from services.gateway.access import Who, open_to
from services.gateway.backend import database, settings
from services.gateway.errors import STATUSES
from services.gateway.models import MailLink
from services.gateway.notifications import links, topics
from services.gateway.notifications.links import Purpose
from services.gateway.people import email_addresses, passwords, users
from services.gateway.people.identity import current_user, forget_identity
from services.gateway.people.passwords import LINK_ENDED
from services.gateway.security import place, throttle

blueprint = Blueprint("mailed_links", __name__)

Answer = Response | str | tuple[str, int]
_SETTING_A_PASSWORD = (Purpose.PASSWORD_RESET, Purpose.INVITATION)
_CONFIRMING = (Purpose.CONFIRM_EMAIL, Purpose.CHANGE_EMAIL)


@blueprint.get("/password/forgot")
@open_to(Who.EVERYBODY)
def forgot_form() -> str:
    return render_template("forgot_password.html", can_mail=settings().smtp_url is not None)


@blueprint.post("/password/forgot")
@open_to(Who.EVERYBODY)
def forgot() -> Answer:
    """Says the same whether there is such an account or not."""
    email = request.form.get("email", "")
    throttle("reset", place())
    throttle("reset_account", users.email_key(email))
    with database().begin() as session:
        passwords.ask_for_reset(session, utc_now(), email)
    shown = email.strip()[:254]
    return render_template("forgot_password.html", can_mail=True, sent_to=shown)


@blueprint.get("/password/reset")
@open_to(Who.LINK_HOLDERS)
def reset_form() -> Answer:
    link = _opened(*_SETTING_A_PASSWORD)
    if link is None:
        return _ended()
    return render_template("reset_password.html", link=request.args["link"], email=link.email)


@blueprint.post("/password/reset")
@open_to(Who.LINK_HOLDERS)
def reset() -> Answer:
    throttle("reset", place())
    link = _opened(*_SETTING_A_PASSWORD)
    if link is None:
        return _ended()
    text, password = request.form["link"], request.form.get("password", "")
    try:
        # Slow on purpose, and therefore outside of the transaction.
        password_hash = users.new_password_hash(link.email, password)
        now, key = utc_now(), settings().secret_key
        with database().begin() as session:
            found = links.opened(session, now, key, text, *_SETTING_A_PASSWORD, to_use=True)
            passwords.reset(session, now, found, password_hash)
    except users.LinkEnded:
        return _ended()
    except users.AccountError as error:
        page = render_template("reset_password.html", link=text, email=link.email, error=str(error))
        return page, STATUSES[error.code]
    flash("Your password is changed. Log in with it.", "success")
    return redirect(url_for("accounts.login_form"), 303)


@blueprint.get("/email/confirm")
@open_to(Who.LINK_HOLDERS)
def confirm_form() -> Answer:
    link = _opened(*_CONFIRMING)
    if link is None:
        return _ended()
    return render_template("confirm_email.html", link=request.args["link"], email=link.email)


@blueprint.post("/email/confirm")
@open_to(Who.LINK_HOLDERS)
def confirm() -> Answer:
    now, key, text = utc_now(), settings().secret_key, request.form.get("link", "")
    try:
        with database().begin() as session:
            found = links.opened(session, now, key, text, *_CONFIRMING, to_use=True)
            email = email_addresses.confirm(session, now, found)
    except users.LinkEnded:
        return _ended()
    forget_identity()
    flash(f"{email} is confirmed.", "success")
    home = "account.overview" if current_user() else "accounts.login_form"
    return redirect(url_for(home), 303)


@blueprint.get("/unsubscribe")
@open_to(Who.LINK_HOLDERS)
def unsubscribe_form() -> Answer:
    found = links.unsubscribes(settings().secret_key, request.args.get("link", ""))
    if found is None:
        return _ended()
    topic = topics.BY_NAME.get(found[1])
    return render_template("unsubscribe.html", link=request.args["link"], topic=topic)


@blueprint.post("/unsubscribe")
@open_to(Who.LINK_HOLDERS)
def unsubscribe() -> Answer:
    """By the button of our page, or by a mail program with one click (RFC 8058)."""
    text = request.values.get("link", "")
    found = links.unsubscribes(settings().secret_key, text)
    if found is None or found[1] not in topics.BY_NAME:
        return _ended()
    user_id, name = found
    with database().begin() as session:
        on_page = topics.choices(session, user_id)[name].on_page
        topics.choose(session, user_id, {name: topics.Choice(on_page, by_mail=False)})
    return render_template("unsubscribe.html", topic=topics.BY_NAME[name], is_done=True)


def _opened(*purposes: Purpose) -> MailLink | None:
    text = request.values.get("link", "")
    with database().read() as session:
        return links.opened(session, utc_now(), settings().secret_key, text, *purposes)


def _ended() -> tuple[str, int]:
    return render_template("link_ended.html", message=LINK_ENDED), STATUSES["link_ended"]
