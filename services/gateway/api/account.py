"""The account itself: its address, password, sessions, and what its owner wants to hear of."""

from typing import Annotated
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, StringConstraints

from chassis.clock import utc_now
from services.gateway.api.accounts import Code, Email, Password
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import AnyText, ApiBody, ApiReply, NoReply
from services.gateway.backend import database
from services.gateway.errors import Problem
from services.gateway.notifications import topics
from services.gateway.people import (
    closing,
    devices,
    email_addresses,
    passwords,
    sessions,
    time_zones,
    users,
)
from services.gateway.people.identity import current_identity, forget_identity
from services.gateway.people.signing_in import check_second_step
from services.gateway.people.users import CurrentUser
from services.gateway.security import throttle

blueprint = Blueprint("api_account", __name__)

Zone = Annotated[AnyText, StringConstraints(min_length=1, max_length=time_zones.LENGTH_MAX)]
TopicName = Annotated[AnyText, StringConstraints(min_length=1, max_length=40)]


class ChoiceBody(ApiBody):
    page: bool
    mail: bool


class ChoiceReply(ApiReply):
    """``always_mailed``: ``mail`` cannot be switched off."""

    page: bool
    mail: bool
    always_mailed: bool


class AccountBody(ApiBody):
    """What is left out stays. Another ``email`` needs the ``current_password`` (and the ``code`` of
    the second step), and is in force once the link is opened that is mailed to it."""

    time_zone: Zone | None = None
    notifications: dict[TopicName, ChoiceBody] | None = None
    email: Email | None = None
    current_password: Password | None = None
    code: Code = ""


class AccountReply(ApiReply):
    """``notifications`` has a choice for each topic."""

    user_id: UUID
    email: str
    is_email_confirmed: bool
    has_second_step: bool
    time_zone: str
    created_at: AwareDatetime
    notifications: dict[str, ChoiceReply]


class PasswordBody(ApiBody):
    """``code`` is of the second step, for who has switched it on."""

    current_password: Password
    new_password: Password
    code: Code = ""


class DeletionBody(ApiBody):
    """``code`` is of the second step, for who has switched it on."""

    current_password: Password
    code: Code = ""


class SessionReply(ApiReply):
    session_id: UUID
    device: str
    address: str
    created_at: AwareDatetime
    last_seen_at: AwareDatetime
    expires_at: AwareDatetime


class SessionReplies(ApiReply):
    """Browsers that are logged in, the one that was used last first."""

    sessions: list[SessionReply]


@endpoint(blueprint, "GET", "/api/account", reply=AccountReply)
def get_account(user: CurrentUser) -> AccountReply:
    """The account, and what its owner wants to hear of."""
    with database().read() as session:
        return _shown(user, topics.choices(session, user.user_id))


@endpoint(blueprint, "PATCH", "/api/account", body=AccountBody, reply=AccountReply)
def change_account(user: CurrentUser, body: AccountBody) -> AccountReply:
    """Change some of it. 422: an unknown time zone or topic, or a wrong password."""
    unknown = set(body.notifications or ()) - set(topics.BY_NAME)
    if unknown:
        message = f"notifications: there is no topic {min(unknown)!r}."
        raise Problem(422, "bad_request", message, {"field": "notifications"})
    if body.time_zone is not None and not time_zones.is_known(body.time_zone):
        message = "time_zone: name one as IANA does, such as Europe/Berlin."
        raise Problem(422, "bad_request", message, {"field": "time_zone"})
    if body.email is not None:
        throttle("password", str(user.user_id))
        users.check_password(database(), user.user_id, body.current_password or "")
        check_second_step(user.user_id, body.code)
        throttle("reset_account", str(user.user_id))
    now = utc_now()
    with database().begin() as session:
        if body.email is not None:
            email_addresses.ask_to_change(session, now, user.user_id, body.email)
        if body.time_zone is not None:
            time_zones.choose(session, user.user_id, body.time_zone)
        for name, said in (body.notifications or {}).items():
            topics.choose(session, user.user_id, {name: topics.Choice(said.page, said.mail)})
        chosen = topics.choices(session, user.user_id)
    forget_identity()
    return _shown(user, chosen, time_zone=body.time_zone or user.time_zone)


@endpoint(blueprint, "POST", "/api/account/password", body=PasswordBody, reply=NoReply)
def change_password(user: CurrentUser, body: PasswordBody) -> NoReply:
    """Another password. All other browsers are logged out, and tokens that logins gave end, but for
    this one; so do those with the scope ``sell`` or ``admin``. Others that you named go on."""
    identity = current_identity()
    throttle("password", str(user.user_id))
    known = users.check_password(database(), user.user_id, body.current_password)
    check_second_step(user.user_id, body.code)
    new = users.new_password_hash(user.email, body.new_password)
    stays = identity.credential_id if identity else user.user_id
    with database().begin() as session:
        passwords.change(session, utc_now(), user.user_id, known, new, stays=stays)
    return NoReply()


@endpoint(blueprint, "DELETE", "/api/account", body=DeletionBody, reply=NoReply)
def delete_account(user: CurrentUser, body: DeletionBody) -> NoReply:
    """Delete the account and what is known of the person, at once and for ever. 409: money, or what
    costs money, is left; the message says what. Automatic charges end, saved cards are removed."""
    throttle("password", str(user.user_id))
    users.check_password(database(), user.user_id, body.current_password)
    check_second_step(user.user_id, body.code)
    reasons = closing.close(user.user_id)
    if reasons:
        raise Problem(409, "conflict", " ".join(reason.sentence for reason in reasons))
    forget_identity()
    return NoReply()


@endpoint(blueprint, "GET", "/api/sessions", reply=SessionReplies)
def list_sessions(user: CurrentUser) -> SessionReplies:
    """The browsers that are logged in."""
    with database().read() as session:
        found = sessions.open_ones(session, utc_now(), user.user_id)
    return SessionReplies(
        sessions=[SessionReply.of(row, device=devices.name_of(row.user_agent)) for row in found]
    )


@endpoint(blueprint, "DELETE", "/api/sessions/<uuid:session_id>", reply=NoReply)
def end_session(user: CurrentUser, session_id: UUID) -> NoReply:
    """Log a browser out."""
    with database().begin() as session:
        sessions.end(session, utc_now(), user.user_id, session_id)
    return NoReply()


def _shown(
    user: CurrentUser, chosen: dict[str, topics.Choice], time_zone: str | None = None
) -> AccountReply:
    choices = {
        name: ChoiceReply(
            page=choice.on_page, mail=choice.by_mail, always_mailed=topics.BY_NAME[name].must_mail
        )
        for name, choice in chosen.items()
    }
    return AccountReply.of(user, time_zone=time_zone or user.time_zone, notifications=choices)
