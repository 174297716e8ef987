"""People who come from the old system: made here, and invited to choose a password."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.errors import Conflict
from contracts.gateway import MovedPersonAnswered, UserRegistered
from contracts.legacy import PersonMoved, PersonMovedBack
from services.gateway.models import User
from services.gateway.notifications import links, mails
from services.gateway.notifications.links import Purpose
from services.gateway.people.users import InvalidEmail, email_key, normalise_email

NO_PASSWORD = "none"  # noqa: S105 - the hash of no password
ADDRESS_TAKEN = "address_taken"
ADDRESS_UNUSABLE = "address_unusable"


def welcome(session: Session, now: datetime, event: PersonMoved) -> None:
    """Make the person, whose wallet is open already, and mail an invitation; and say so.

    Who is here already with this address is somebody else, and is left alone. Old passwords are not
    taken over.
    """
    refusal = _make(session, now, event)
    user = session.get(User, event.user_id)
    if user is not None and user.password_hash == NO_PASSWORD:
        link = links.make(session, now, user.user_id, Purpose.INVITATION, user.email)
        session.flush()
        mails.queue_link(session, now, link)
    answered = MovedPersonAnswered(
        event_id=new_id(), occurred_at=now, user_id=event.user_id, refusal=refusal
    )
    publish(session, answered)


def _make(session: Session, now: datetime, event: PersonMoved) -> str:
    try:
        email = normalise_email(event.email)
    except InvalidEmail:
        return ADDRESS_UNUSABLE
    known = _whose(session, email)
    if known is not None:
        return "" if known == event.user_id else ADDRESS_TAKEN
    made = session.scalar(
        insert(User)
        .values(
            user_id=event.user_id,
            email=email,
            email_key=email_key(email),
            password_hash=NO_PASSWORD,
            created_at=now,
            wallet_opened_at=now,
        )
        .on_conflict_do_nothing()
        .returning(User.user_id)
    )
    if made is None:
        return ADDRESS_TAKEN
    publish(session, UserRegistered(event_id=new_id(), occurred_at=now, user_id=event.user_id))
    return ""


def withdraw(session: Session, now: datetime, event: PersonMovedBack) -> None:
    """End the invitation of who was moved back. Raises ``Conflict`` where the person is still to
    come: events may overtake one another, and this one comes again.

    Who was refused does not come, whether or not that was known where the person was moved back.
    """
    if session.get(User, event.user_id) is None and not _is_refused(session, event):
        raise Conflict("Who is moved back did not come yet.")
    links.end(session, now, event.user_id, Purpose.INVITATION)


def _is_refused(session: Session, event: PersonMovedBack) -> bool:
    if event.was_refused or event.email is None:
        return event.was_refused
    try:
        email = normalise_email(event.email)
    except InvalidEmail:
        return True
    return _whose(session, email) is not None


def _whose(session: Session, email: str) -> UUID | None:
    return session.scalar(select(User.user_id).where(User.email_key == email_key(email)))
