"""The address of an account: confirmed by a link that is mailed to it, and changed by one.

An account works without: a confirmed address is asked for where a mail must arrive.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.locks import locked
from services.gateway.models import MailLink, User
from services.gateway.notifications import links, mails, storage
from services.gateway.notifications.links import Purpose
from services.gateway.people.passwords import ACCOUNT_PAGE, LINK_ENDED
from services.gateway.people.users import (
    EmailTaken,
    InvalidEmail,
    LinkEnded,
    email_key,
    normalise_email,
)


def ask_to_confirm(session: Session, now: datetime, user_id: UUID) -> None:
    """Mail a link to the user's address, unless it is confirmed."""
    user = session.get_one(User, user_id)
    if user.email_confirmed_at is None:
        link = links.make(session, now, user_id, Purpose.CONFIRM_EMAIL, user.email)
        session.flush()
        mails.queue_link(session, now, link)


def ask_to_change(session: Session, now: datetime, user_id: UUID, email: str) -> None:
    """Mail a link to another address; the old one stays until it is opened.

    Whether somebody has that address, only that person is told. Raises :class:`InvalidEmail`.
    """
    wanted = normalise_email(email)
    user = session.get_one(User, user_id)
    if email_key(wanted) == user.email_key:
        raise InvalidEmail("This is your address already.")
    owner = session.scalar(select(User.user_id).where(User.email_key == email_key(wanted)))
    if owner is None:
        link = links.make(session, now, user_id, Purpose.CHANGE_EMAIL, wanted)
        session.flush()
        mails.queue_link(session, now, link)
        return
    links.end(session, now, user_id, Purpose.CHANGE_EMAIL)
    mails.queue_to_address(
        session,
        now,
        owner,
        wanted,
        "email_in_use",
        "Somebody asked to use your address",
        "Another account asked to use this address, which is yours. Nothing was changed. If it was"
        " you: log in with it, or delete this account first.",
    )


def confirm(session: Session, now: datetime, link: MailLink | None) -> str:
    """Do what a link is for, which :func:`links.opened` has locked; the address that is confirmed.

    Raises :class:`LinkEnded`, and :class:`EmailTaken` where somebody was faster.
    """
    if link is None:
        raise LinkEnded(LINK_ENDED)
    user = locked(session, User, link.user_id)
    if link.purpose == Purpose.CONFIRM_EMAIL:
        if user.email != link.email:
            raise LinkEnded(LINK_ENDED)
        user.email_confirmed_at = now
        link.used_at = now
        return user.email
    old = user.email
    user.email, user.email_key = link.email, email_key(link.email)
    user.email_confirmed_at = now
    try:
        session.flush()
    except IntegrityError:
        raise EmailTaken("Somebody has an account with this address by now.") from None
    # What was mailed to the old address opens nothing any more.
    links.end(session, now, user.user_id)
    title, body = "Your email address was changed", f"It is {user.email} now, and was {old}."
    warning = f"{body} If it was not you, write to support at once."
    mails.queue_to_address(session, now, user.user_id, old, "email_changed", title, warning)
    message = storage.Message("email_changed", "info", title, body, ACCOUNT_PAGE)
    storage.tell(session, now, user.user_id, new_id(), message)
    return user.email
