"""Mails that wait to be sent, and what became of them: the table that :mod:`sending` works off.

A row is written in the transaction of what it tells, so that neither is there without the other.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.identifiers import new_id
from services.gateway.models import Mail, MailLink
from services.gateway.notifications.links import Purpose

ACCOUNT_DELETED = "account_deleted"
"""The one kind that is sent to who has no account any more."""

TRIED_FOR = timedelta(days=5)
"""How long a server may be away, as RFC 5321 (4.5.4.1) advises."""

_QUEUE = Bulk(
    "INSERT INTO mails ({columns}, attempts, address, outcome, error)"
    " SELECT *, 0, '', '', '' FROM {rows}",
    mail_id="uuid",
    user_id="uuid",
    kind="text",
    title="text",
    body="text",
    link="text",
    created_at="timestamptz",
    good_until="timestamptz",
    due_at="timestamptz",
)

_TEXTS = {
    Purpose.PASSWORD_RESET: (
        "Choose a new password",
        (
            "Somebody, probably you, asked for a new password for your account. The link works"
            " once, within an hour. If it was not you, do nothing: your password stays as it is."
        ),
    ),
    Purpose.CONFIRM_EMAIL: (
        "Confirm your email address",
        "Confirm that this address is yours, so that messages about your money reach you.",
    ),
    Purpose.CHANGE_EMAIL: (
        "Confirm your new email address",
        (
            "You asked to use this address for your account. It is changed once you confirm it"
            " here, within 24 hours."
        ),
    ),
    Purpose.INVITATION: (
        "Your account has moved: choose a password",
        (
            "What you had in the old marketplace is here: your balance, in US dollars of credit,"
            " and what you run. Old passwords do not work here. The link works once, within 30"
            " days; after that, “Forgot your password?” sends another one. Your old history stays"
            " readable: your wallet's transactions lead there."
        ),
    ),
}


def queue(session: Session, now: datetime, told: Iterable[tuple[Any, ...]]) -> None:
    """Have users be sent what they were told: user, kind, title, body and link of each."""
    rows = [(new_id(), *message, now, now + TRIED_FOR, now) for message in told]
    if rows:
        _QUEUE.execute(session, rows)


def queue_link(session: Session, now: datetime, link: MailLink) -> None:
    """Have a link be sent to the address that it is about, as long as it is good."""
    title, body = _TEXTS[Purpose(link.purpose)]
    _queue_to(session, now, link.user_id, link.purpose, title, body, link=link)


def queue_to_address(
    session: Session, now: datetime, user_id: UUID, address: str, kind: str, title: str, body: str
) -> None:
    """Have something be said to an address that need not be the user's own any more."""
    _queue_to(session, now, user_id, kind, title, body, address=address)


def _queue_to(
    session: Session,
    now: datetime,
    user_id: UUID,
    kind: str,
    title: str,
    body: str,
    *,
    address: str = "",
    link: MailLink | None = None,
) -> None:
    session.add(
        Mail(
            mail_id=new_id(),
            user_id=user_id,
            kind=kind,
            address=link.email if link else address,
            title=title,
            body=body,
            link="",
            link_id=link.link_id if link else None,
            created_at=now,
            good_until=link.expires_at if link else now + TRIED_FOR,
            due_at=now,
            attempts=0,
            outcome="",
            error="",
        )
    )


def end(session: Session, now: datetime, mail_id: UUID, outcome: str, error: str = "") -> None:
    """It is not tried again: ``sent``, ``refused``, ``given_up`` or ``unwanted``."""
    session.execute(
        update(Mail)
        .where(Mail.mail_id == mail_id, Mail.outcome == "")
        .values(due_at=None, ended_at=now, outcome=outcome, error=error)
    )


def end_all(session: Session, now: datetime, outcome: str, error: str) -> None:
    """The same of everything that waits, where there is no server to send it."""
    session.execute(
        update(Mail)
        .where(Mail.due_at.is_not(None), Mail.outcome == "")
        .values(due_at=None, ended_at=now, outcome=outcome, error=error)
    )


def try_again(session: Session, mail_id: UUID, due_at: datetime, error: str) -> None:
    """Another attempt failed; the next one is due then."""
    session.execute(
        update(Mail)
        .where(Mail.mail_id == mail_id, Mail.outcome == "")
        .values(due_at=due_at, attempts=Mail.attempts + 1, error=error)
    )


def put_back(session: Session, mail_ids: Iterable[UUID], due_at: datetime) -> None:
    """They were not tried, through no fault of theirs."""
    session.execute(
        update(Mail)
        .where(Mail.mail_id.in_(list(mail_ids)), Mail.outcome == "")
        .values(due_at=due_at)
    )


def last_refusal(session: Session, user_id: UUID, address: str) -> str:
    """Why the newest mail to this address was refused; empty where it was not."""
    newest = session.execute(
        select(Mail.outcome, Mail.error)
        .where(Mail.user_id == user_id, Mail.address.in_(("", address)), Mail.outcome != "")
        .where(Mail.outcome != "unwanted")
        .order_by(Mail.mail_id.desc())
        .limit(1)
    ).one_or_none()
    return newest.error if newest is not None and newest.outcome == "refused" else ""
