"""Registering, logging in and out, as a program does it: with bearer tokens."""

import logging
from datetime import datetime
from typing import Annotated
from uuid import UUID

from flask import Blueprint
from pydantic import StringConstraints
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import AnyText, ApiBody, ApiReply, NoReply
from services.gateway.backend import database
from services.gateway.people import email_addresses, signing_in, tokens, users
from services.gateway.people.identity import (
    current_identity,
    end_browser_session,
    end_token,
    ensure_wallet,
    session_lifetime,
)
from services.gateway.people.signing_in import check_second_step
from services.gateway.people.users import CurrentUser
from services.gateway.security import place, throttle, throttle_login

log = logging.getLogger(__name__)

blueprint = Blueprint("api_accounts", __name__)

Email = Annotated[AnyText, StringConstraints(min_length=1, max_length=users.TYPED_LENGTH_MAX)]
Password = Annotated[AnyText, StringConstraints(min_length=1, max_length=users.TYPED_LENGTH_MAX)]
Code = Annotated[AnyText, StringConstraints(max_length=40)]


class NewAccount(ApiBody):
    email: Email
    password: Password


class Credentials(NewAccount):
    """``code`` is of the second step, for who has switched it on."""

    code: Code = ""


class Registered(ApiReply):
    """``token`` ends 30 days after it was last used, and 180 days after it was given."""

    user_id: UUID
    token: str


class LoggedIn(Registered):
    pass


class Account(ApiReply):
    user_id: UUID
    email: str


@endpoint(
    blueprint,
    "POST",
    "/api/auth/register",
    body=NewAccount,
    reply=Registered,
    status=201,
    public=True,
)
def register(body: NewAccount) -> Registered:
    """Make an account, with an empty wallet, and a token for it. Passwords have 8 characters
    or more."""
    throttle("register", place())
    account = users.prepare(body.email, body.password)
    now = utc_now()
    with database().begin() as session:
        user = users.register(session, now, account)
        email_addresses.ask_to_confirm(session, now, user.user_id)
        token = _token(session, now, user.user_id, "registration")
    ensure_wallet(users.describe(user))
    return Registered(user_id=user.user_id, token=token)


@endpoint(blueprint, "POST", "/api/auth/login", body=Credentials, reply=LoggedIn, public=True)
def log_in(body: Credentials) -> LoggedIn:
    """Get a new token for an account, which may do everything."""
    throttle_login(users.email_key(body.email))
    user = users.log_in(database(), body.email, body.password)
    if user.second_step_since is not None:
        throttle("password", str(user.user_id))
        check_second_step(user.user_id, body.code)
    now = utc_now()
    with database().begin() as session:
        token = _token(session, now, user.user_id, "login")
        signing_in.tell(session, now, user.user_id, "A program")
    log.info("logged in", extra={"user_id": str(user.user_id), "by": "program"})
    return LoggedIn(user_id=user.user_id, token=token)


def _token(session: Session, now: datetime, user_id: UUID, name: str) -> str:
    until = now + session_lifetime()
    return tokens.issue(session, now, user_id, name, expires_at=until, is_of_login=True)


@endpoint(blueprint, "POST", "/api/auth/logout", reply=NoReply)
def log_out(user: CurrentUser) -> NoReply:  # noqa: ARG001 - it is for users only
    """End the token, or the browser session, that this request came with."""
    identity = current_identity()
    if identity is not None and identity.via == "token":
        end_token(identity.credential_id)
    else:
        end_browser_session()
    return NoReply()


@endpoint(blueprint, "GET", "/api/auth/me", reply=Account)
def who_am_i(user: CurrentUser) -> Account:
    """Whose token this is."""
    return Account(user_id=user.user_id, email=user.email)
