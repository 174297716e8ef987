"""Another password: for who knows the old one, and for who can read the account's mail.

Whatever was issued before a reset ends: sessions, tokens, links. Other processes of the website may
take what ended for a second longer (people/identity.py).
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.locks import locked
from services.gateway.models import MailLink, User
from services.gateway.notifications import links, mails, storage
from services.gateway.notifications.links import Purpose
from services.gateway.people import sessions, tokens
from services.gateway.people.users import LinkEnded, WrongPassword, email_key

ACCOUNT_PAGE = "/dashboard/account"
LINK_ENDED = (
    "This link was used, a newer one was sent, or it is too old. Nothing was changed: ask for"
    " another one."
)


def ask_for_reset(session: Session, now: datetime, email: str) -> None:
    """Mail a link to the account of an address. Without such an account nothing happens, and
    nobody is told which it was."""
    user = session.scalar(select(User).where(User.email_key == email_key(email)))
    if user is not None:
        link = links.make(session, now, user.user_id, Purpose.PASSWORD_RESET, user.email)
        session.flush()
        mails.queue_link(session, now, link)


def reset(session: Session, now: datetime, link: MailLink | None, password_hash: str) -> None:
    """Set the password that came with a link, which :func:`links.opened` has locked.

    Raises :class:`LinkEnded`.
    """
    if link is None:
        raise LinkEnded(LINK_ENDED)
    user = locked(session, User, link.user_id)
    user.password_hash = password_hash
    # Whoever has the link reads the mail that it was sent to.
    if user.email == link.email and user.email_confirmed_at is None:
        user.email_confirmed_at = now
    sessions.end_all(session, now, user.user_id)
    tokens.revoke_all(session, now, user.user_id)
    _end_links_and_tell(session, now, user.user_id, "Everything that was logged in is logged out.")


def change(
    session: Session,
    now: datetime,
    user_id: UUID,
    known_hash: str,
    password_hash: str,
    *,
    stays: UUID,
) -> None:
    """Set another password where the present one's hash is ``known_hash``, which was checked.

    What logins gave ends, and tokens for roles, but for the session or token ``stays``; other
    tokens with a name of the user's own go on. Raises :class:`WrongPassword` where it was changed
    meanwhile.
    """
    changed = session.scalar(
        update(User)
        .where(User.user_id == user_id, User.password_hash == known_hash)
        .values(password_hash=password_hash)
        .returning(User.user_id)
    )
    if changed is None:
        raise WrongPassword("The password was changed meanwhile. Try again with the new one.")
    sessions.end_all(session, now, user_id, but=stays)
    tokens.revoke_all(session, now, user_id, of_logins_only=True, but=stays)
    tokens.revoke_for_roles(session, now, user_id, but=stays)
    _end_links_and_tell(session, now, user_id, "Other browsers are logged out.")


def _end_links_and_tell(session: Session, now: datetime, user_id: UUID, what_ended: str) -> None:
    links.end(session, now, user_id)
    message = storage.Message(
        "password_changed",
        "info",
        "Your password was changed",
        f"{what_ended} If it was not you, set a new password at once, and write to support.",
        ACCOUNT_PAGE,
    )
    storage.tell(session, now, user_id, new_id(), message)
