"""What support looks up of a user, and does for them. Each look has a reason, which is recorded."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from contracts.errors import Conflict, NotFound
from services.gateway.access import STAFF
from services.gateway.models import Act, Mail, User
from services.gateway.notifications import mails
from services.gateway.people import second_step, sessions, tokens
from services.gateway.staff import acts, grants
from services.gateway.staff.acts import Actor

OPEN_FOR = timedelta(minutes=30)
"""How long a reason to look at a user is good for; then it is asked again."""

READ = "user.read"


def open_file(session: Session, now: datetime, actor: Actor, user_id: UUID, reason: str) -> None:
    """Record why somebody looks at a user."""
    acts.record(session, now, actor, READ, str(user_id), reason)


def is_open(session: Session, now: datetime, reader_id: UUID, user_id: UUID) -> bool:
    """Whether they said lately why they look at this user."""
    found = session.scalar(
        select(Act.position)
        .where(
            Act.actor_id == reader_id,
            Act.subject == str(user_id),
            Act.action == READ,
            Act.occurred_at > now - OPEN_FOR,
        )
        .limit(1)
    )
    return found is not None


def require_open(session: Session, now: datetime, reader_id: UUID, user_id: UUID) -> None:
    """Raises ``Conflict`` for who has not said lately why they look at this user."""
    if not is_open(session, now, reader_id, user_id):
        raise Conflict("Look this user up first, with a reason.")


def require_another(actor: Actor, user_id: UUID) -> None:
    """Raises ``Conflict`` for who would do something for themself."""
    if actor.user_id == user_id:
        raise Conflict("You can't do this for yourself: ask a colleague. Nothing was changed.")


def user_of(session: Session, user_id: UUID) -> User:
    """Raises ``NotFound``."""
    user = session.get(User, user_id)
    if user is None or user.deleted_at is not None:
        raise NotFound("There is no such user, or the account is deleted.")
    return user


def newest_mails(session: Session, user_id: UUID, limit: int) -> Sequence[Mail]:
    """What was mailed, or waits to be, the newest first."""
    return session.scalars(
        select(Mail).where(Mail.user_id == user_id).order_by(Mail.mail_id.desc()).limit(limit)
    ).all()


def end_logins(session: Session, now: datetime, actor: Actor, user_id: UUID, reason: str) -> None:
    """End all sessions and API tokens of a user. Raises ``NotFound``."""
    user_of(session, user_id)
    before = {
        "sessions": len(sessions.open_ones(session, now, user_id)),
        "tokens": len(tokens.living(session, now, user_id)),
    }
    sessions.end_all(session, now, user_id)
    tokens.revoke_all(session, now, user_id)
    after = {"sessions": 0, "tokens": 0}
    action = "user.end_logins"
    acts.record(session, now, actor, action, str(user_id), reason, before=before, after=after)


def end_second_step(
    session: Session, now: datetime, actor: Actor, user_id: UUID, reason: str
) -> None:
    """Switch the second step off for who has lost it; they are told. Raises ``Conflict`` where none
    is on, or where it stands before a role, and ``NotFound``."""
    # Before the user's row, as whoever gives a role does; none is given meanwhile.
    acts.lock(session)
    if grants.roles_of(session, user_id) & STAFF:
        raise Conflict(
            "Their role takes a second step. Ask an operator to take the role away first. Nothing"
            " was changed."
        )
    if user_of(session, user_id).second_step_since is None:
        raise Conflict("They have no second step. Nothing was changed.")
    second_step.switch_off(session, now, user_id)
    acts.record(
        session,
        now,
        actor,
        "user.end_second_step",
        str(user_id),
        reason,
        before={"second_step": "on"},
        after={"second_step": "off"},
    )


def send_again(
    session: Session, now: datetime, actor: Actor, user_id: UUID, mail_id: UUID, reason: str
) -> None:
    """Send a mail once more, to where it went. Raises ``Conflict`` for one that waits or holds a
    link, and ``NotFound``."""
    mail = session.scalar(select(Mail).where(Mail.user_id == user_id, Mail.mail_id == mail_id))
    if mail is None:
        raise NotFound("There is no such mail of this user.")
    if not mail.outcome:
        raise Conflict("It waits to be sent already.")
    if mail.link_id is not None:
        raise Conflict("Its link works once: they ask for another one on the site.")
    again = Mail(
        mail_id=new_id(),
        user_id=user_id,
        kind=mail.kind,
        address=mail.address,
        title=mail.title,
        body=mail.body,
        link=mail.link,
        created_at=now,
        good_until=now + mails.TRIED_FOR,
        due_at=now,
        attempts=0,
        outcome="",
        error="",
    )
    session.add(again)
    acts.record(
        session,
        now,
        actor,
        "mail.send_again",
        str(user_id),
        reason,
        before={"mail_id": str(mail_id), "outcome": mail.outcome},
        after={"mail_id": str(again.mail_id), "outcome": "waits"},
    )
