"""Holds as they are stored: money set aside, and how each ended."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from contracts.wallet import Hold, HoldStatus


@dataclass(slots=True)
class OpenHold:
    """A hold of a locked account. Rules give it its end, once."""

    account_id: int
    hold_id: UUID
    amount_micros: int
    captured_micros: int
    status: HoldStatus
    description: str
    metadata: dict[str, str]
    placed_at: datetime
    expires_at: datetime
    closed_at: datetime | None = None
    transaction_id: UUID | None = None

    def seen_by(self, user_id: UUID) -> Hold:
        """The hold as its owner sees it."""
        return Hold(
            hold_id=self.hold_id,
            user_id=user_id,
            amount_micros=self.amount_micros,
            captured_micros=self.captured_micros,
            status=self.status,
            description=self.description,
            metadata=self.metadata,
            placed_at=self.placed_at,
            expires_at=self.expires_at,
            closed_at=self.closed_at,
            transaction_id=self.transaction_id,
        )


# The columns of the table and the fields of an OpenHold.
_COLUMNS = {
    "account_id": "bigint",
    "hold_id": "uuid",
    "amount_micros": "bigint",
    "captured_micros": "bigint",
    "status": "text",
    "description": "text",
    "metadata": "jsonb",
    "placed_at": "timestamptz",
    "expires_at": "timestamptz",
    "closed_at": "timestamptz",
    "transaction_id": "uuid",
}
_KEY = {name: _COLUMNS[name] for name in ("account_id", "hold_id")}
_END = {
    name: _COLUMNS[name] for name in ("captured_micros", "status", "closed_at", "transaction_id")
}

_LOAD = Bulk(
    "SELECT h.*, a.user_id FROM {rows} JOIN holds AS h USING (account_id, hold_id)"
    " JOIN accounts AS a USING (account_id)",
    **_KEY,
)
_PLACE = Bulk("INSERT INTO holds ({columns}) SELECT * FROM {rows}", **_COLUMNS)
_SET_END = Bulk(
    f"UPDATE holds AS h SET {', '.join(f'{name} = new.{name}' for name in _END)}"  # noqa: S608
    " FROM {rows} WHERE h.account_id = new.account_id AND h.hold_id = new.hold_id",
    **_KEY,
    **_END,
)
_DUE = text(
    "SELECT a.user_id, h.hold_id FROM holds AS h JOIN accounts AS a USING (account_id)"
    " JOIN balances AS b USING (account_id)"
    " WHERE h.status = 'held' AND h.expires_at <= :now ORDER BY h.expires_at LIMIT :limit"
    " FOR NO KEY UPDATE OF b SKIP LOCKED"
)


def load(session: Session, wanted: Iterable[tuple[int, UUID]]) -> list[OpenHold]:
    """Holds by account id and hold id; the accounts are locked."""
    return [_open_hold(row) for row in _LOAD.execute(session, wanted)]


def read(session: Session, wanted: Iterable[tuple[int, UUID]]) -> list[Hold]:
    """The same, as their owners see them, not locked."""
    return [_open_hold(row).seen_by(row.user_id) for row in _LOAD.execute(session, wanted)]


def _open_hold(row: Any) -> OpenHold:
    hold = OpenHold(*(getattr(row, name) for name in _COLUMNS))
    hold.status = HoldStatus(hold.status)
    return hold


def write_placed(writes: Batch, placed: Iterable[OpenHold]) -> None:
    """Write down new holds, with the end of those that have it already."""
    writes.add(_PLACE, (tuple(getattr(hold, name) for name in _COLUMNS) for hold in placed))


def write_ends(writes: Batch, ended: Iterable[OpenHold]) -> None:
    """Write down how earlier holds ended."""
    names = (*_KEY, *_END)
    writes.add(_SET_END, (tuple(getattr(hold, name) for name in names) for hold in ended))


def is_any_due(session: Session, now: datetime) -> bool:
    """Whether the time of a hold is over: asked without locking anything."""
    is_due = "SELECT EXISTS (SELECT FROM holds WHERE status = 'held' AND expires_at <= :now)"
    return bool(session.scalar(text(is_due), {"now": now}))


def due(session: Session, now: datetime, limit: int) -> list[tuple[UUID, UUID]]:
    """User and hold where the time of a hold is over, the oldest first.

    Their wallets are locked then; those that somebody else holds are left to the next time.
    """
    rows = session.execute(_DUE, {"now": now, "limit": limit})
    return [(row.user_id, row.hold_id) for row in rows]
