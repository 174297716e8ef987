"""Named levels below which a wallet says ``balance_low``: once per dip, re-armed above."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk, array
from contracts.wallet import Level, LowBalanceLevel


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


def rearmed(levels: Iterable[ArmedLevel], available_micros: int) -> list[ArmedLevel]:
    """Arm each level that the wallet is no longer below: it may fall below it again."""
    risen = [
        level
        for level in levels
        if not level.is_armed and available_micros >= level.threshold_micros
    ]
    for level in risen:
        level.is_armed = True
    return risen


def crossed(levels: Iterable[ArmedLevel], available_micros: int) -> list[ArmedLevel]:
    """Disarm each level that the wallet fell below: that is told once."""
    fallen_below = [
        level for level in levels if level.is_armed and available_micros < level.threshold_micros
    ]
    for level in fallen_below:
        level.is_armed = False
    return fallen_below


def begins_armed(available_micros: int, threshold_micros: int | None) -> bool:
    """Whether a level that is set now is armed: not where the wallet is below it already."""
    return threshold_micros is not None and available_micros >= threshold_micros


def write(writes: Batch, changed: Iterable[ArmedLevel]) -> None:
    """Write down which levels are armed now."""
    writes.add(_WRITE, [(level.account_id, level.name, level.is_armed) for level in changed])


def write_set(writes: Batch, levels: Mapping[tuple[int, str], tuple[int | None, bool]]) -> None:
    """Write down levels that were set: account id and name → threshold, and whether armed."""
    writes.add(_SET, [(*place, *setting) for place, setting in levels.items()])


def alerts(session: Session, account_ids: Iterable[int]) -> dict[int, Level]:
    """The ``alert`` levels as they are now, by account id."""
    rows = session.execute(_ALERTS, {"account_ids": array("bigint", account_ids)})
    return {row.account_id: alert(row.user_id, row.threshold_micros) for row in rows}


def alert(user_id: UUID, threshold_micros: int | None) -> Level:
    """The ``alert`` level as its owner sees it."""
    return Level(user_id=user_id, level=LowBalanceLevel.ALERT, threshold_micros=threshold_micros)


def arm_auto_topup(
    session: Session,
    account_id: int,
    available_micros: int,
    threshold_micros: int | None,
    settings_version: int,
) -> None:
    """Set the ``auto_topup`` level of a locked account, or drop it.

    Settings with an older ``settings_version`` than the last are ignored: they come late.
    """
    session.execute(
        _ARM,
        {
            "account_id": account_id,
            "name": LowBalanceLevel.AUTO_TOPUP.value,
            "threshold_micros": threshold_micros,
            "is_armed": begins_armed(available_micros, threshold_micros),
            "version": settings_version,
        },
    )
