"""Idempotency keys: what became of each command, for ever.

A key is bound to the hash of its request and to what the command made: an entry, a hold, a
change of status. The first answer is derived from that again, whenever it is asked for. A
refusal binds nothing: the same key may be tried again when the money has come.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk, array
from contracts.errors import BadRequest, IdempotencyConflict, KeyClosed
from contracts.messages import Command, Reply
from contracts.wallet import (
    ClosedKey,
    Hold,
    HoldStatus,
    KeyOutcome,
    KeyState,
    StatusChange,
    Transaction,
    Wallet,
)
from services.wallet import accounts, holds

CLOSE_KEY = "close_key"
OWN_PREFIXES = ("topup:", "reversal:", "restored:", "opened:", "expire:")
"""How the keys begin under which the wallet itself acts, on an event or a timer."""


@dataclass(slots=True)
class KeyRecord:
    """A used or closed key. ``reply`` is the first answer, where it has been derived."""

    idempotency_key: str
    method: str
    request_hash: bytes | None
    account_id: int | None = None
    transaction_id: UUID | None = None
    hold_id: UUID | None = None
    change_number: int | None = None
    recorded_at: datetime | None = None
    reply: Reply | None = None

    @property
    def is_closed(self) -> bool:
        return self.method == CLOSE_KEY


def request_hash(command: Command[Any]) -> bytes:
    """SHA-256 of the method and the arguments that are not at their defaults.

    A field that is added to a command later, with a default, changes no old hash.
    """
    body = command.model_dump(
        mode="json", exclude={"idempotency_key", "dry_run"}, exclude_defaults=True
    )
    return hashlib.sha256(_canonical([command.method, body]).encode()).digest()


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def require_callers_own(idempotency_key: str) -> None:
    """Raises ``BadRequest`` for a key that is the wallet's: closing it would stop a credit."""
    if idempotency_key.startswith(OWN_PREFIXES):
        raise BadRequest(
            f"idempotency_key: keys that begin with {', '.join(OWN_PREFIXES)} are the wallet's own."
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
    " change_number, recorded_at FROM keys WHERE idempotency_key = ANY(CAST(:wanted AS text[]))"
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
)


def find(session: Session, wanted: Iterable[str]) -> dict[str, KeyRecord]:
    """The keys of these that were used or closed before, with their first answers."""
    records = [_record(row) for row in session.execute(_FIND, {"wanted": array("text", wanted)})]
    if records:
        _derive_transactions(session, records)
        _derive_holds(session, records)
        _derive_status_changes(session, records)
        _derive_wallets(session, records)
    return {record.idempotency_key: record for record in records}


def _record(row: Any) -> KeyRecord:
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
        )
        for record in sorted(records, key=lambda record: record.idempotency_key)
    ]
    writes.add(_WRITE, rows)


def get_by_key(session: Session, idempotency_key: str) -> KeyOutcome:
    """What became of the command under a key; ``unused`` when nothing did, so far."""
    record = find(session, [idempotency_key]).get(idempotency_key)
    if record is None:
        return KeyOutcome(idempotency_key=idempotency_key, state=KeyState.UNUSED)
    if record.is_closed:
        return KeyOutcome(
            idempotency_key=idempotency_key,
            state=KeyState.CLOSED,
            recorded_at=record.recorded_at,
        )
    return KeyOutcome(
        idempotency_key=idempotency_key,
        state=KeyState.DONE,
        method=record.method,
        recorded_at=record.recorded_at,
        reply=record.reply.model_dump(mode="json") if record.reply else None,
    )


def closed(idempotency_key: str, earlier: KeyRecord | None) -> ClosedKey:
    """The answer to closing a key; ``earlier`` is what was found under it."""
    if earlier is None or earlier.is_closed:
        return ClosedKey(idempotency_key=idempotency_key, closed=True)
    made = earlier.reply if isinstance(earlier.reply, Transaction) else None
    return ClosedKey(idempotency_key=idempotency_key, closed=False, transaction=made)


_TRANSACTIONS = Bulk(
    "SELECT t.transaction_id, t.kind, e.amount_micros, e.balance_after_micros, t.description,"
    " t.metadata, t.effective_at, t.recorded_at, t.corrects_transaction_id, e.account_id"
    " FROM {rows} JOIN entries AS e USING (transaction_id, account_id)"
    " JOIN transactions AS t USING (transaction_id)",
    transaction_id="uuid",
    account_id="bigint",
)


def _derive_transactions(session: Session, records: list[KeyRecord]) -> None:
    wanted = [record for record in records if record.transaction_id]
    if not wanted:
        return
    rows = _TRANSACTIONS.execute(
        session, [(record.transaction_id, record.account_id) for record in wanted]
    )
    found = {(row.transaction_id, row.account_id): transaction_from(row) for row in rows}
    for record in wanted:
        record.reply = found.get((record.transaction_id, record.account_id))


def transaction_from(row: Any) -> Transaction:
    """A transaction as the owner of the row's account sees it."""
    return Transaction(
        transaction_id=row.transaction_id,
        kind=row.kind,
        amount_micros=row.amount_micros,
        balance_after_micros=row.balance_after_micros,
        description=row.description,
        metadata=row.metadata,
        effective_at=row.effective_at,
        recorded_at=row.recorded_at,
        corrects_transaction_id=row.corrects_transaction_id,
    )


def _derive_holds(session: Session, records: list[KeyRecord]) -> None:
    wanted = [record for record in records if record.hold_id]
    if not wanted:
        return
    places = {(record.account_id or 0, record.hold_id) for record in wanted if record.hold_id}
    found = {hold.hold_id: hold for hold in holds.read(session, places)}
    for record in wanted:
        if record.hold_id in found:
            record.reply = _hold_as_answered(found[record.hold_id], record.method)


def _hold_as_answered(hold: Hold, method: str) -> Hold:
    """What placed a hold was told that it is held, whatever became of it; its end is one."""
    if method != "hold":
        return hold
    return hold.model_copy(
        update={
            "status": HoldStatus.HELD,
            "captured_micros": 0,
            "closed_at": None,
            "transaction_id": None,
        }
    )


_STATUS_CHANGES = Bulk(
    "SELECT c.*, a.user_id FROM {rows}"
    " JOIN status_changes AS c USING (account_id, change_number)"
    " JOIN accounts AS a USING (account_id)",
    account_id="bigint",
    change_number="integer",
)


def _derive_status_changes(session: Session, records: list[KeyRecord]) -> None:
    wanted = [record for record in records if record.change_number is not None]
    if not wanted:
        return
    rows = _STATUS_CHANGES.execute(
        session, [(record.account_id, record.change_number) for record in wanted]
    )
    found = {
        (row.account_id, row.change_number): StatusChange(
            user_id=row.user_id,
            status=row.status,
            reason=row.reason,
            actor=row.actor,
            changed_at=row.changed_at,
        )
        for row in rows
    }
    for record in wanted:
        record.reply = found.get((record.account_id or 0, record.change_number or 0))


def _derive_wallets(session: Session, records: list[KeyRecord]) -> None:
    """Opening a wallet again answers with the wallet as it is now."""
    wanted = [record for record in records if record.method == "open_account"]
    if not wanted:
        return
    ids = [record.account_id for record in wanted if record.account_id is not None]
    found: dict[int, Wallet] = {
        account.account_id: account.wallet() for account in accounts.read_all(session, ids)
    }
    for record in wanted:
        record.reply = found.get(record.account_id or 0)
