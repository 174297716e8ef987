"""The time zone in which a user reads times, beside UTC, and the dates of messages and mails."""

from functools import cache
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from services.gateway.models import User

LENGTH_MAX = 64
_AREAS = (
    "Africa/",
    "America/",
    "Antarctica/",
    "Asia/",
    "Atlantic/",
    "Australia/",
    "Europe/",
    "Indian/",
    "Pacific/",
)


@cache
def names() -> tuple[str, ...]:
    """Of places, and UTC first: what stands in a list to choose from."""
    return ("UTC", *sorted(name for name in available_timezones() if name.startswith(_AREAS)))


def is_known(name: str) -> bool:
    return name in names()


def of(session: Session, user_id: UUID) -> ZoneInfo:
    """In which this user reads dates; UTC for somebody who has no account here (yet)."""
    name = session.scalar(select(User.time_zone).where(User.user_id == user_id))
    return ZoneInfo(name or "UTC")


def choose(session: Session, user_id: UUID, name: str) -> None:
    """``name`` is one of :func:`names`."""
    session.execute(update(User).where(User.user_id == user_id).values(time_zone=name))
