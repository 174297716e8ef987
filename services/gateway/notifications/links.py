"""Links that mails carry: to a new password, to a confirmed address, out of a kind of mail.

What opens something stands in no table. The link is the signed id of a row, made when the mail is
written: the same one each time the mail has to be sent again, and whoever reads the database can
make none of it. Without ``SECRET_KEY`` there is none; with another one all links end.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from itsdangerous import BadSignature, Signer
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.locks import for_update
from services.gateway.models import MailLink


class Purpose(StrEnum):
    PASSWORD_RESET = "password_reset"  # noqa: S105 - the name of what a link is for
    CONFIRM_EMAIL = "confirm_email"
    CHANGE_EMAIL = "change_email"
    INVITATION = "invitation"


PATHS = {
    Purpose.PASSWORD_RESET: "/password/reset",
    Purpose.CONFIRM_EMAIL: "/email/confirm",
    Purpose.CHANGE_EMAIL: "/email/confirm",
    Purpose.INVITATION: "/password/reset",
}
LIFETIMES = {
    Purpose.PASSWORD_RESET: timedelta(hours=1),
    Purpose.CONFIRM_EMAIL: timedelta(days=3),
    Purpose.CHANGE_EMAIL: timedelta(hours=24),
    Purpose.INVITATION: timedelta(days=30),
}


def make(session: Session, now: datetime, user_id: UUID, purpose: Purpose, email: str) -> MailLink:
    """A new link about an address. An older one for the same purpose ends."""
    end(session, now, user_id, purpose)
    link = MailLink(
        link_id=new_id(),
        user_id=user_id,
        purpose=purpose,
        email=email,
        created_at=now,
        expires_at=now + LIFETIMES[purpose],
    )
    session.add(link)
    return link


def end(session: Session, now: datetime, user_id: UUID, *purposes: Purpose) -> None:
    """End a user's links for these purposes, or all of them."""
    session.execute(
        update(MailLink)
        .where(
            MailLink.user_id == user_id,
            MailLink.purpose.in_(purposes or tuple(Purpose)),
            MailLink.used_at.is_(None),
        )
        .values(used_at=now)
    )


def opened(
    session: Session,
    now: datetime,
    secret_key: str,
    text: str,
    *purposes: Purpose,
    to_use: bool = False,
) -> MailLink | None:
    """The link that a text stands for, if it is for one of these purposes and neither used, nor
    replaced, nor too old; locked where it is ``to_use``."""
    try:
        link_id = UUID(bytes=_decode(_signer(secret_key, "mail-link").unsign(text)))
    except (BadSignature, ValueError):
        return None
    found = select(MailLink).where(
        MailLink.link_id == link_id,
        MailLink.purpose.in_(purposes),
        MailLink.used_at.is_(None),
        MailLink.expires_at > now,
    )
    return session.scalar(for_update(found) if to_use else found)


def address_of(link: MailLink, secret_key: str) -> str:
    """The path and query of a link. The secret stands in the query, which no log has."""
    signed = _signer(secret_key, "mail-link").sign(_encode(link.link_id.bytes))
    return f"{PATHS[Purpose(link.purpose)]}?link={signed.decode()}"


def unsubscribe_address(secret_key: str, user_id: UUID, topic: str) -> str:
    """The path and query that ends one topic's mails to one user, for as long as the key lives."""
    signed = _signer(secret_key, "unsubscribe").sign(_encode(user_id.bytes + topic.encode()))
    return f"/unsubscribe?link={signed.decode()}"


def unsubscribes(secret_key: str, text: str) -> tuple[UUID, str] | None:
    """The user and the topic of such a link; None for what is none of ours."""
    try:
        said = _decode(_signer(secret_key, "unsubscribe").unsign(text))
        return UUID(bytes=said[:16]), said[16:].decode()
    except (BadSignature, ValueError):
        return None


def _signer(secret_key: str, salt: str) -> Signer:
    return Signer(secret_key, salt=salt, digest_method=hashlib.sha256)


def _encode(value: bytes) -> bytes:
    return urlsafe_b64encode(value).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    return urlsafe_b64decode(text + b"=" * (-len(text) % 4))
