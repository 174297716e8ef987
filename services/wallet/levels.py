"""Named levels below which a wallet says ``balance_low``: once per dip, re-armed above."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from contracts.errors import NotFound
from contracts.wallet import BalanceLow, Level, LowBalanceLevel
from services.wallet import accounts

if TYPE_CHECKING:
    from services.wallet.accounts import Account
    from services.wallet.book import Book


@dataclass(slots=True)
class ArmedLevel:
    """One level of a locked account. It is armed while the wallet was not below it."""

    account_id: int
    name: str
    threshold_micros: int
    is_armed: bool


_WRITE = Bulk(
    "UPDATE levels AS l SET is_armed = new.is_armed FROM {rows}"
    " WHERE l.account_id = new.account_id AND l.name = new.name",
    account_id="bigint",
    name="text",
    is_armed="boolean",
)
_SET = text(
    "INSERT INTO levels AS l (account_id, name, threshold_micros, is_armed, settings_version)"
    " VALUES (:account_id, :name, :threshold_micros, :is_armed, :version)"
    " ON CONFLICT (account_id, name) DO UPDATE SET threshold_micros = excluded.threshold_micros,"
    " is_armed = excluded.is_armed, settings_version = excluded.settings_version"
    " WHERE l.settings_version < excluded.settings_version"
)
_NEXT_VERSION = text(
    "SELECT coalesce(max(settings_version), 0) + 1 FROM levels"
    " WHERE account_id = :account_id AND name = :name"
)


def check(book: "Book", account: "Account") -> None:
    """After what is available changed: announce each level it fell below, re-arm the others."""
    rearm(book, account)
    for level in account.levels:
        if level.is_armed and account.available_micros < level.threshold_micros:
            level.is_armed = False
            book.note_level(level)
            book.announce(
                BalanceLow,
                user_id=account.user_id,
                level=level.name,
                threshold_micros=level.threshold_micros,
                available_micros=account.available_micros,
            )


def rearm(book: "Book", account: "Account") -> None:
    """After money came in: what is no longer below a level may fall below it again."""
    for level in account.levels:
        if not level.is_armed and account.available_micros >= level.threshold_micros:
            level.is_armed = True
            book.note_level(level)


def write(writes: Batch, changed: Iterable[ArmedLevel]) -> None:
    """Write down which levels are armed now."""
    writes.add(_WRITE, [(level.account_id, level.name, level.is_armed) for level in changed])


def arm(
    session: Session,
    now: datetime,
    user_id: UUID,
    name: LowBalanceLevel,
    threshold_micros: int | None,
    settings_version: int | None = None,
) -> None:
    """Set a level, or drop it with None; opens the wallet if it has none yet.

    Settings with an older ``settings_version`` than the last are ignored: they come late.
    A wallet that is below the level already is not armed: whoever saves the settings looks
    at the balance, and the level speaks at the next dip.
    """
    accounts.open_missing(session, now, user_id)
    account = accounts.lock(session, user_id)
    place = {"account_id": account.account_id, "name": name.value}
    if settings_version is None:
        settings_version = session.scalar(_NEXT_VERSION, place)
    is_armed = threshold_micros is not None and account.available_micros >= threshold_micros
    session.execute(
        _SET,
        {
            **place,
            "threshold_micros": threshold_micros,
            "is_armed": is_armed,
            "version": settings_version,
        },
    )


def set_alert(
    session: Session, now: datetime, user_id: UUID, threshold_micros: int | None
) -> Level:
    """Set or drop the user's ``alert`` level. Raises ``NotFound``."""
    if accounts.find(session, user_id) is None:
        raise NotFound("This user has no wallet.")
    arm(session, now, user_id, LowBalanceLevel.ALERT, threshold_micros)
    return Level(user_id=user_id, level=LowBalanceLevel.ALERT, threshold_micros=threshold_micros)
