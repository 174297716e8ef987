"""Idempotency keys: what became of each command, for ever.

A key is bound to the hash of its request and to what the command made: an entry, a hold, a
change of status. The first answer is derived from that again, whenever it is asked for. A
refusal binds nothing: the same key may be tried again when the money has come.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from contracts.errors import BadRequest, IdempotencyConflict, KeyClosed
from contracts.keys import WALLETS_OWN
from contracts.messages import Reply
from contracts.wallet import (
    ClosedKey,
    Hold,
    HoldStatus,
    KeyOutcome,
    KeyState,
    StatusChange,
    Transaction,
)
from services.wallet.book import accounts, holds, levels
from services.wallet.book.postings import transaction_from

CLOSE_KEY = "close_key"


@dataclass(slots=True)
class KeyRecord:
    """A used or closed key. ``reply`` is the first answer, where it has been derived.

    ``metadata`` and ``effective_at`` are the command's own, where it made no transaction that
    carries them.
    """

    idempotency_key: str
    method: str
    request_hash: bytes | None
    account_id: int | None = None
    transaction_id: UUID | None = None
    hold_id: UUID | None = None
    change_number: int | None = None
    recorded_at: datetime | None = None
    metadata: dict[str, str] | None = None
    effective_at: datetime | None = None
    reply: Reply | None = None

    @property
    def is_closed(self) -> bool:
        return self.method == CLOSE_KEY


def require_callers_own(idempotency_key: str) -> None:
    """Raises ``BadRequest`` for a key that is the wallet's: closing it would stop a credit."""
    if idempotency_key.startswith(WALLETS_OWN):
        raise BadRequest(
            f"idempotency_key: keys that begin with {', '.join(WALLETS_OWN)} are the wallet's own."
            " Choose another one.",
            "idempotency_key",
        )


def first_answer(record: KeyRecord, digest: bytes) -> Reply:
    """The first answer again. Raises ``KeyClosed`` and ``IdempotencyConflict``."""
    if record.is_closed:
        raise KeyClosed("This idempotency key was closed before the command came; nothing moved.")
    if record.request_hash != digest:
        raise IdempotencyConflict(
            "This idempotency key was used before, with other arguments; nothing moved."
            " Choose a new key for a new command."
        )
    if record.reply is None:
        raise LookupError(f"the key {record.idempotency_key!r} points to nothing")
    if isinstance(record.reply, Transaction | Hold | StatusChange):
        return record.reply.model_copy(update={"replayed": True})
    return record.reply


_FIND = text(
    "SELECT idempotency_key, method, request_hash, account_id, transaction_id, hold_id,"
    " change_number, recorded_at, metadata, effective_at FROM keys"
    " WHERE idempotency_key = :idempotency_key"
)
_WRITE = Bulk(
    "INSERT INTO keys ({columns}) SELECT * FROM {rows}",
    idempotency_key="text",
    method="text",
    request_hash="bytea",
    account_id="bigint",
    transaction_id="uuid",
    hold_id="uuid",
    change_number="integer",
    recorded_at="timestamptz",
    metadata="jsonb",
    effective_at="timestamptz",
)


def find(session: Session, idempotency_key: str) -> KeyRecord | None:
    """A key that was used or closed before, with its first answer."""
    row = session.execute(_FIND, {"idempotency_key": idempotency_key}).one_or_none()
    return answered(session, [from_row(row)])[idempotency_key] if row else None


def answered(session: Session, records: list[KeyRecord]) -> dict[str, KeyRecord]:
    """The records with their first answers, by key."""
    for made_by, read in _ANSWERS:
        places = [
            (record, (record.account_id, made))
            for record in records
            if (made := made_by(record)) is not None
        ]
        found = dict(read(session, [place for _, place in places])) if places else {}
        for record, place in places:
            record.reply = _as_first_given(found.get(place), record.method)
    return {record.idempotency_key: record for record in records}


def from_row(row: Iterable[Any]) -> KeyRecord:
    """A record from the columns in the order of its fields."""
    record = KeyRecord(*row)
    if record.request_hash is not None:
        record.request_hash = bytes(record.request_hash)
    return record


def write(writes: Batch, now: datetime, records: Iterable[KeyRecord]) -> None:
    """Bind keys. A key that another transaction bound meanwhile fails the whole batch.

    In the order of keys: two batches never wait for each other in a circle.
    """
    rows = [
        (
            record.idempotency_key,
            record.method,
            record.request_hash,
            record.account_id,
            record.transaction_id,
            record.hold_id,
            record.change_number,
            now,
            record.metadata,
            record.effective_at,
        )
        for record in sorted(records, key=lambda record: record.idempotency_key)
    ]
    writes.add(_WRITE, rows)


def get_by_key(session: Session, idempotency_key: str) -> KeyOutcome:
    """What became of the command under a key; ``unused`` when nothing did, so far."""
    record = find(session, idempotency_key)
    if record is None:
        return KeyOutcome(idempotency_key=idempotency_key, state=KeyState.UNUSED)
    # A transaction carries its own; what makes none has them beside its key.
    carrier = record.reply if isinstance(record.reply, Transaction) else record
    return KeyOutcome(
        idempotency_key=idempotency_key,
        state=KeyState.CLOSED if record.is_closed else KeyState.DONE,
        method=None if record.is_closed else record.method,
        recorded_at=record.recorded_at,
        effective_at=carrier.effective_at or record.recorded_at,
        metadata=carrier.metadata or {},
        reply=record.reply.model_dump(mode="json") if record.reply else None,
    )


def closed(idempotency_key: str, earlier: KeyRecord | None) -> ClosedKey:
    """The answer to closing a key; ``earlier`` is what was found under it."""
    if earlier is None or earlier.is_closed:
        return ClosedKey(idempotency_key=idempotency_key, closed=True)
    made = earlier.reply if isinstance(earlier.reply, Transaction) else None
    return ClosedKey(idempotency_key=idempotency_key, closed=False, transaction=made)


def _as_first_given(answer: Reply | None, method: str) -> Reply | None:
    """What placed a hold was told that it is held, whatever became of it; its end is one."""
    if not isinstance(answer, Hold) or method != "hold":
        return answer
    return answer.model_copy(
        update={
            "status": HoldStatus.HELD,
            "captured_micros": 0,
            "closed_at": None,
            "transaction_id": None,
        }
    )


Place = tuple[Any, Any]
"""An account, and what a command made on it."""
Answers = Iterable[tuple[Place, Reply]]

_TRANSACTIONS = Bulk(
    "SELECT DISTINCT ON (e.account_id, e.transaction_id)"
    " t.transaction_id, e.kind, e.amount_micros, e.balance_after_micros, t.description,"
    " t.metadata, t.effective_at, t.recorded_at, t.corrects_transaction_id, e.account_id"
    " FROM {rows} JOIN entries AS e USING (account_id, transaction_id)"
    " JOIN transactions AS t USING (transaction_id)"
    " ORDER BY e.account_id, e.transaction_id, e.entry_number",
    account_id="bigint",
    transaction_id="uuid",
)


def _transactions(session: Session, places: list[Place]) -> Answers:
    for row in _TRANSACTIONS.execute(session, places):
        yield (row.account_id, row.transaction_id), transaction_from(row)


def _holds(session: Session, places: list[Place]) -> Answers:
    found = {hold.hold_id: hold for hold in holds.read(session, set(places))}
    return [(place, found[place[1]]) for place in places if place[1] in found]


_STATUS_CHANGES = Bulk(
    "SELECT c.*, a.user_id FROM {rows}"
    " JOIN status_changes AS c USING (account_id, change_number)"
    " JOIN accounts AS a USING (account_id)",
    account_id="bigint",
    change_number="integer",
)


def _status_changes(session: Session, places: list[Place]) -> Answers:
    for row in _STATUS_CHANGES.execute(session, places):
        change = StatusChange(
            user_id=row.user_id,
            status=row.status,
            reason=row.reason,
            actor=row.actor,
            changed_at=row.changed_at,
        )
        yield (row.account_id, row.change_number), change


def _wallets(session: Session, places: list[Place]) -> Answers:
    """Opening a wallet again answers with the wallet as it is now."""
    for account in accounts.read_all(session, [account_id for account_id, _ in places]):
        yield (account.account_id, "open_account"), account.wallet()


def _levels(session: Session, places: list[Place]) -> Answers:
    """Setting a level again answers with the level as it is now."""
    for account_id, level in levels.alerts(session, [place[0] for place in places]).items():
        yield (account_id, "set_level"), level


_ANSWERS: tuple[
    tuple[Callable[[KeyRecord], object], Callable[[Session, list[Place]], Answers]], ...
] = (
    (lambda record: record.transaction_id, _transactions),
    (lambda record: record.hold_id, _holds),
    (lambda record: record.change_number, _status_changes),
    (lambda record: record.method if record.method == "open_account" else None, _wallets),
    (lambda record: record.method if record.method == "set_level" else None, _levels),
)
