"""What belongs to logging in besides the password: the second step, and word of a new device."""

from datetime import datetime
from uuid import UUID

from flask import request
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.identifiers import new_id
from services.gateway.backend import database, settings
from services.gateway.notifications import storage
from services.gateway.people import second_step
from services.gateway.people.passwords import ACCOUNT_PAGE
from services.gateway.people.users import CurrentUser, EmailNotConfirmed


def check_may_pay_out(user: CurrentUser, code: str, purpose: str) -> None:
    """Before money leaves: a confirmed address, where this site sends mails, and the second step of
    who has one. Callers limit tries.

    Raises :class:`EmailNotConfirmed` and :class:`SecondStepRequired`.
    """
    if settings().smtp_url is not None and not user.is_email_confirmed:
        raise EmailNotConfirmed(
            "Confirm your email address first: the account page sends the link again."
        )
    check_second_step(user.user_id, code, purpose)


def check_second_step(user_id: UUID, code: str, purpose: str | None = None) -> None:
    """Take a code of who has a second step, once; again only for a purpose that nothing else has,
    such as a command's key. See :func:`second_step.check`. Callers limit tries."""
    with database().begin() as session:
        key = settings().secret_key
        second_step.check(
            session, utc_now(), user_id, key, code, f"{purpose or new_id()}:{user_id}"
        )


def tell(session: Session, now: datetime, user_id: UUID, device: str) -> None:
    """Tell a user of a login from a browser that had not logged in before, or of a program."""
    message = storage.Message(
        "new_sign_in",
        "info",
        "New sign-in to your account",
        f"{device} signed in from {request.remote_addr or 'an unknown address'}. If it was not you,"
        " set a new password at once: that logs everything out.",
        ACCOUNT_PAGE,
    )
    storage.tell(session, now, user_id, new_id(), message)
