"""Holds: money set aside, then captured, voided, or released when its time is over."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.identifiers import new_id
from contracts.errors import BadRequest, Conflict, NotFound
from contracts.messages import Command
from contracts.wallet import Capture, Hold, HoldStatus, PlaceHold, VoidHold
from services.wallet import levels
from services.wallet.accounts import Account, require_available, require_open
from services.wallet.postings import Effect, Movement, require_ordinary

if TYPE_CHECKING:
    from services.wallet.book import Book


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


class ExpireHold(Command[Hold], service="wallet", method="expire"):
    """The wallet's own command to release a hold whose time is over."""

    user_id: UUID
    hold_id: UUID


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


def due(session: Session, now: datetime, limit: int) -> list[ExpireHold]:
    """The commands that release holds whose time is over, the oldest first.

    Their wallets are locked then; those that somebody else holds are left to the next time.
    """
    return [
        ExpireHold(
            idempotency_key=f"expire:{row.hold_id}", user_id=row.user_id, hold_id=row.hold_id
        )
        for row in session.execute(_DUE, {"now": now, "limit": limit})
    ]


def place(book: "Book", command: PlaceHold) -> Effect:
    """Raises ``NotFound``, ``AccountFrozen``, ``InsufficientFunds``."""
    account = book.account(command.user_id)
    require_open(account)
    require_available(account, command.amount_micros)
    hold = OpenHold(
        account_id=account.account_id,
        hold_id=new_id(),
        amount_micros=command.amount_micros,
        captured_micros=0,
        status=HoldStatus.HELD,
        description=command.description,
        metadata=command.metadata,
        placed_at=book.now,
        expires_at=book.now + timedelta(seconds=command.expires_in_s),
    )
    book.place(account, hold)
    return Effect(hold.seen_by(account.user_id), account.account_id, hold_id=hold.hold_id)


def capture(book: "Book", command: Capture) -> Effect:
    """Raises ``NotFound``, ``Conflict``, ``AccountFrozen``, ``BadRequest``."""
    account = book.account(command.user_id)
    require_ordinary(command.kind)
    require_open(account)
    hold = _held(book, account, command.hold_id)
    amount_micros = command.amount_micros or hold.amount_micros
    if amount_micros > hold.amount_micros:
        raise BadRequest("amount_micros: more than was held.", "amount_micros")
    if hold.expires_at <= book.now:
        raise Conflict("The hold has expired.")
    movement = Movement(
        kind=command.kind,
        description=command.description or hold.description,
        metadata={**hold.metadata, **command.metadata, "hold_id": str(hold.hold_id)},
        effective_at=command.effective_at,
    )
    _end(book, account, hold, HoldStatus.CAPTURED)
    posted = book.move(account, command.destination, amount_micros, movement)
    hold.captured_micros = amount_micros
    hold.transaction_id = posted.transaction_id
    return Effect(posted.seen_by(account), account.account_id, transaction_id=posted.transaction_id)


def void(book: "Book", command: VoidHold) -> Effect:
    """Raises ``NotFound``, ``Conflict``."""
    account = book.account(command.user_id)
    hold = _held(book, account, command.hold_id)
    return _release(book, account, hold, HoldStatus.VOIDED)


def expire(book: "Book", command: ExpireHold) -> Effect:
    """Raises ``Conflict`` when the hold has ended, or its time is not over."""
    account = book.account(command.user_id)
    hold = _held(book, account, command.hold_id)
    if hold.expires_at > book.now:
        raise Conflict("The hold has not expired yet.")
    return _release(book, account, hold, HoldStatus.EXPIRED)


def _held(book: "Book", account: Account, hold_id: UUID) -> OpenHold:
    hold = book.holds.get(hold_id)
    if hold is None or hold.account_id != account.account_id:
        raise NotFound("This wallet has no such hold.")
    if hold.status is not HoldStatus.HELD:
        raise Conflict(f"The hold has ended already: it was {hold.status.value}.")
    return hold


def _release(book: "Book", account: Account, hold: OpenHold, end: HoldStatus) -> Effect:
    _end(book, account, hold, end)
    levels.check(book, account)
    return Effect(hold.seen_by(account.user_id), account.account_id, hold_id=hold.hold_id)


def _end(book: "Book", account: Account, hold: OpenHold, end: HoldStatus) -> None:
    hold.status = end
    hold.closed_at = book.now
    book.end(account, hold)
