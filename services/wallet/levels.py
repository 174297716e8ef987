"""Named levels below which a wallet says ``balance_low``: once per dip, re-armed above."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk, array
from contracts.wallet import BalanceLow, Level, LowBalanceLevel, SetLevel
from services.wallet import accounts

if TYPE_CHECKING:
    from services.wallet.accounts import Account
    from services.wallet.book import Book
    from services.wallet.postings import Effect


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
_SET = Bulk(
    "INSERT INTO levels AS l (account_id, name, threshold_micros, is_armed, settings_version)"
    " SELECT account_id, name, threshold_micros, is_armed, 1 FROM {rows}"
    " ON CONFLICT (account_id, name) DO UPDATE SET threshold_micros = excluded.threshold_micros,"
    " is_armed = excluded.is_armed, settings_version = l.settings_version + 1",
    account_id="bigint",
    name="text",
    threshold_micros="bigint",
    is_armed="boolean",
)
_ARM = text(
    "INSERT INTO levels AS l (account_id, name, threshold_micros, is_armed, settings_version)"
    " VALUES (:account_id, :name, :threshold_micros, :is_armed, :version)"
    " ON CONFLICT (account_id, name) DO UPDATE SET threshold_micros = excluded.threshold_micros,"
    " is_armed = excluded.is_armed, settings_version = excluded.settings_version"
    " WHERE l.settings_version < excluded.settings_version"
)
_ALERTS = text(
    "SELECT a.account_id, a.user_id, l.threshold_micros FROM accounts AS a"
    " LEFT JOIN levels AS l ON l.account_id = a.account_id AND l.name = 'alert'"
    " WHERE a.account_id = ANY(CAST(:account_ids AS bigint[]))"
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


def begins_armed(account: "Account", threshold_micros: int | None) -> bool:
    """Whether a level that is set now is armed: not where the wallet is below it already."""
    return threshold_micros is not None and account.available_micros >= threshold_micros


def write(writes: Batch, changed: Iterable[ArmedLevel]) -> None:
    """Write down which levels are armed now."""
    writes.add(_WRITE, [(level.account_id, level.name, level.is_armed) for level in changed])


def write_set(writes: Batch, levels: Mapping[tuple[int, str], tuple[int | None, bool]]) -> None:
    """Write down levels that were set: account id and name → threshold, and whether armed."""
    writes.add(_SET, [(*place, *setting) for place, setting in levels.items()])


def set_alert(book: "Book", command: SetLevel) -> "Effect":
    """Set or drop the user's ``alert`` level. Raises ``NotFound``."""
    account = book.account(command.user_id)
    book.set_level(account, LowBalanceLevel.ALERT, command.threshold_micros)
    return book.effect(_alert(command.user_id, command.threshold_micros), account)


def alerts(session: Session, account_ids: Iterable[int]) -> dict[int, Level]:
    """The ``alert`` levels as they are now, by account id."""
    rows = session.execute(_ALERTS, {"account_ids": array("bigint", account_ids)})
    return {row.account_id: _alert(row.user_id, row.threshold_micros) for row in rows}


def _alert(user_id: UUID, threshold_micros: int | None) -> Level:
    return Level(user_id=user_id, level=LowBalanceLevel.ALERT, threshold_micros=threshold_micros)


def arm_auto_topup(
    session: Session,
    now: datetime,
    user_id: UUID,
    threshold_micros: int | None,
    settings_version: int,
) -> None:
    """Set the ``auto_topup`` level, or drop it; opens the wallet if there is none yet.

    Settings with an older ``settings_version`` than the last are ignored: they come late.
    A wallet that is below the level already is not armed: whoever saves the settings looks
    at the balance, and the level speaks at the next dip.
    """
    accounts.open_missing(session, now, user_id)
    account = accounts.lock(session, user_id)
    session.execute(
        _ARM,
        {
            "account_id": account.account_id,
            "name": LowBalanceLevel.AUTO_TOPUP.value,
            "threshold_micros": threshold_micros,
            "is_armed": begins_armed(account, threshold_micros),
            "version": settings_version,
        },
    )
