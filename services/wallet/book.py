"""The open book: what a batch of commands reads, changes in memory, and writes down at once.

Reading takes the locks, in one order: accounts by id, then keys. Rules change the accounts
here and decide before they change anything, so that a refused command leaves no trace and its
neighbours go on. Writing is one statement for each table.
"""

import functools
import json
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis import outbox
from chassis.identifiers import new_id
from contracts.errors import BadRequest, NotFound
from contracts.messages import Event, Reply
from contracts.wallet import (
    AccountStatus,
    HouseAccount,
    WalletCredited,
)
from services.wallet import accounts, keys, levels
from services.wallet.accounts import Account
from services.wallet.corrections import Original
from services.wallet.holds import OpenHold
from services.wallet.models import HOUSE_ACCOUNT_IDS
from services.wallet.postings import Effect, Movement, Posted

Side = Account | HouseAccount
"""One end of a movement of money."""


class Book:
    """See the module. ``services.wallet.ledger`` opens it, runs the rules, and writes it."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.accounts: dict[UUID, Account] = {}
        self.accounts_by_id: dict[int, Account] = {}
        self.reserved_account_ids: list[int] = []
        self.keys: dict[str, keys.KeyRecord] = {}
        self.originals: dict[UUID, Original] = {}
        self.holds: dict[UUID, OpenHold] = {}
        self._opened: list[Account] = []
        self._transactions: list[tuple[Any, ...]] = []
        self._entries: list[tuple[Any, ...]] = []
        self._keys: list[keys.KeyRecord] = []
        self._placed_holds: dict[UUID, OpenHold] = {}
        self._ended_holds: list[OpenHold] = []
        self._status_changes: list[tuple[Any, ...]] = []
        self._statuses: dict[int, Account] = {}
        self._levels: dict[tuple[int, str], levels.ArmedLevel] = {}
        self._events: list[Event] = []

    # What rules ask.

    def account(self, user_id: UUID) -> Account:
        """Raises ``NotFound``."""
        try:
            return self.accounts[user_id]
        except KeyError:
            raise NotFound("This user has no wallet.") from None

    def require_past(self, effective_at: datetime | None) -> None:
        """Raises ``BadRequest`` for an effective date in the future."""
        if effective_at is not None and effective_at > self.now:
            raise BadRequest("effective_at: it lies in the future.", "effective_at")

    def open(self, user_id: UUID) -> Account:
        """The user's account, opened now if there was none."""
        if user_id not in self.accounts:
            account = accounts.new(self.reserved_account_ids.pop(), user_id, self.now)
            self.add_accounts([account])
            self._opened.append(account)
        return self.accounts[user_id]

    def add_accounts(self, found: list[Account]) -> None:
        """Accounts that are locked now."""
        for account in found:
            self.accounts[account.user_id] = account
            self.accounts_by_id[account.account_id] = account

    # What rules do.

    def move(
        self, source: Side, destination: Side, amount_micros: int, movement: Movement
    ) -> Posted:
        """Move money. The caller has checked that the source may give it."""
        recorded_at = self._recorded_at(source, destination)
        effective_at = self._effective_at(movement, recorded_at)
        posted = Posted(new_id(), movement, effective_at, recorded_at, {})
        self._transactions.append(_transaction_row(posted, amount_micros))
        self._enter(posted, source, -amount_micros)
        self._enter(posted, destination, amount_micros)
        if isinstance(source, Account) and movement.says_balance_low:
            levels.check(self, source)
        if isinstance(destination, Account):
            levels.check(self, destination)
            self._announce_credit(posted, destination, amount_micros)
        return posted

    def _recorded_at(self, source: Side, destination: Side) -> datetime:
        """Now, or a little later: another replica's clock may be ahead, and dates only rise."""
        recorded_at = self.now
        for side in (source, destination):
            if isinstance(side, Account):
                recorded_at = max(recorded_at, side.last_entry_at or recorded_at)
        return recorded_at

    def _effective_at(self, movement: Movement, recorded_at: datetime) -> datetime:
        self.require_past(movement.effective_at)
        return movement.effective_at or recorded_at

    def _enter(self, posted: Posted, side: Side, amount_micros: int) -> None:
        account_id: int
        number: int | None = None
        balance_after_micros: int | None = None
        if isinstance(side, Account):
            side.entry_count += 1
            side.balance_micros += amount_micros
            side.last_entry_at = posted.recorded_at
            account_id, number = side.account_id, side.entry_count
            balance_after_micros = side.balance_micros
            posted.sides[account_id] = (amount_micros, balance_after_micros)
        else:
            account_id = HOUSE_ACCOUNT_IDS[side]
        self._entries.append(
            (
                account_id,
                number,
                str(posted.transaction_id),
                amount_micros,
                balance_after_micros,
                posted.movement.kind.value,
                _moment(posted.effective_at),
                _moment(posted.recorded_at),
            )
        )

    def _announce_credit(self, posted: Posted, account: Account, amount_micros: int) -> None:
        topup_id = posted.movement.metadata.get("topup_id")
        self.announce(
            WalletCredited,
            user_id=account.user_id,
            transaction_id=posted.transaction_id,
            kind=posted.movement.kind,
            amount_micros=amount_micros,
            balance_micros=account.balance_micros,
            available_micros=account.available_micros,
            topup_id=topup_id if _is_uuid(topup_id) else None,
        )

    def announce(self, event_class: type[Event], **fields: Any) -> None:
        """An event to be published with the batch."""
        self._events.append(event_class(event_id=new_id(), occurred_at=self.now, **fields))

    def place(self, account: Account, hold: OpenHold) -> None:
        """Set money aside."""
        account.held_micros += hold.amount_micros
        self.holds[hold.hold_id] = hold
        self._placed_holds[hold.hold_id] = hold
        levels.check(self, account)

    def end(self, account: Account, hold: OpenHold) -> None:
        """Release a hold that the rule has given its end. A capture moves the money after it."""
        account.held_micros -= hold.amount_micros
        if hold.hold_id not in self._placed_holds:
            self._ended_holds.append(hold)

    def check_levels(self, account: Account) -> None:
        """What is available changed without a movement of money."""
        levels.check(self, account)

    def note_level(self, level: levels.ArmedLevel) -> None:
        """A level was crossed, in either direction."""
        self._levels[level.account_id, level.name] = level

    def note_status_change(self, account: Account, reason: str, actor: str) -> None:
        """An account was frozen or opened again."""
        self._statuses[account.account_id] = account
        self._status_changes.append(
            (account.account_id, account.status_change_count, account.status.value, reason, actor)
        )

    def effect(self, reply: Reply, account: Account, change_number: int | None = None) -> Effect:
        """The effect of a command on an account as such."""
        return Effect(reply, account.account_id, change_number=change_number)

    def remember(self, record: keys.KeyRecord) -> None:
        """Bind a key to its outcome, for this batch and for ever."""
        self.keys[record.idempotency_key] = record
        self._keys.append(record)

    # Writing it down.

    def write(self, session: Session) -> None:
        """One statement for each table.

        Freezing and releasing go first and new holds and unfreezing last, because the
        database checks after each statement that no open account falls below zero.
        """
        if self._opened:
            accounts.write(session, self._opened)
        self._write_statuses(session, AccountStatus.FROZEN)
        if self._ended_holds:
            session.execute(_END_HOLDS, _columns(_END_NAMES, map(_end_row, self._ended_holds)))
        if self._transactions:
            session.execute(_POST_TRANSACTIONS, _columns(_TRANSACTION_NAMES, self._transactions))
            session.execute(_POST_ENTRIES, _columns(_ENTRY_NAMES, self._entries))
        if self._placed_holds:
            rows = map(_placed_row, self._placed_holds.values())
            session.execute(_PLACE_HOLDS, _columns(_HOLD_NAMES, rows))
        self._write_statuses(session, AccountStatus.OPEN)
        if self._status_changes:
            columns = _columns(_CHANGE_NAMES, self._status_changes)
            session.execute(_NOTE_CHANGES, {**columns, "now": self.now})
        if self._levels:
            levels.write(session, self._levels.values())
        if self._keys:
            keys.write(session, self.now, self._keys)
        outbox.publish_all(session, self._events)

    def _write_statuses(self, session: Session, status: AccountStatus) -> None:
        changed = [account for account in self._statuses.values() if account.status is status]
        if changed:
            session.execute(
                _SET_STATUS,
                {
                    "status": status.value,
                    "account_ids": [account.account_id for account in changed],
                    "counts": [account.status_change_count for account in changed],
                },
            )


def _is_uuid(value: str | None) -> bool:
    try:
        return bool(value) and bool(UUID(value))
    except ValueError:
        return False


@functools.lru_cache(maxsize=64)
def _moment(moment: datetime) -> str:
    """Most moments of a batch are the same one."""
    return moment.isoformat()


def _columns(names: tuple[str, ...], rows: Any) -> dict[str, list[Any]]:
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


_TRANSACTION_NAMES = (
    "ids", "kinds", "amounts", "descriptions", "metadata", "effective", "recorded",
    "corrected", "corrections",
)  # fmt: skip
_POST_TRANSACTIONS = text(
    "INSERT INTO transactions (transaction_id, kind, amount_micros, description, metadata,"
    " effective_at, recorded_at, corrects_transaction_id, correction)"
    " SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:kinds AS text[]),"
    " CAST(:amounts AS bigint[]), CAST(:descriptions AS text[]), CAST(:metadata AS jsonb[]),"
    " CAST(:effective AS timestamptz[]), CAST(:recorded AS timestamptz[]),"
    " CAST(:corrected AS uuid[]), CAST(:corrections AS text[]))"
)


def _transaction_row(posted: Posted, amount_micros: int) -> tuple[Any, ...]:
    movement = posted.movement
    return (
        str(posted.transaction_id),
        movement.kind.value,
        amount_micros,
        movement.description,
        json.dumps(movement.metadata, ensure_ascii=False),
        _moment(posted.effective_at),
        _moment(posted.recorded_at),
        str(movement.corrects) if movement.corrects else None,
        movement.correction,
    )


_ENTRY_NAMES = (
    "account_ids", "numbers", "transaction_ids", "amounts", "balances", "kinds", "effective",
    "recorded",
)  # fmt: skip
_POST_ENTRIES = text(
    "INSERT INTO entries (account_id, entry_number, transaction_id, amount_micros,"
    " balance_after_micros, kind, effective_at, recorded_at)"
    " SELECT n.account_id, coalesce(n.number, nextval('house_entry_number')),"
    " n.transaction_id, n.amount, n.balance, n.kind, n.effective_at, n.recorded_at"
    " FROM unnest(CAST(:account_ids AS bigint[]), CAST(:numbers AS bigint[]),"
    " CAST(:transaction_ids AS uuid[]), CAST(:amounts AS bigint[]), CAST(:balances AS bigint[]),"
    " CAST(:kinds AS text[]), CAST(:effective AS timestamptz[]),"
    " CAST(:recorded AS timestamptz[])) AS n (account_id, number, transaction_id, amount,"
    " balance, kind, effective_at, recorded_at)"
)

_HOLD_NAMES = (
    "account_ids", "hold_ids", "amounts", "captured", "statuses", "descriptions", "metadata",
    "placed", "expires", "closed", "transaction_ids",
)  # fmt: skip
_PLACE_HOLDS = text(
    "INSERT INTO holds (account_id, hold_id, amount_micros, captured_micros, status,"
    " description, metadata, placed_at, expires_at, closed_at, transaction_id)"
    " SELECT * FROM unnest(CAST(:account_ids AS bigint[]), CAST(:hold_ids AS uuid[]),"
    " CAST(:amounts AS bigint[]), CAST(:captured AS bigint[]), CAST(:statuses AS text[]),"
    " CAST(:descriptions AS text[]), CAST(:metadata AS jsonb[]),"
    " CAST(:placed AS timestamptz[]), CAST(:expires AS timestamptz[]),"
    " CAST(:closed AS timestamptz[]), CAST(:transaction_ids AS uuid[]))"
)


def _placed_row(hold: OpenHold) -> tuple[Any, ...]:
    return (
        hold.account_id,
        str(hold.hold_id),
        hold.amount_micros,
        hold.captured_micros,
        hold.status.value,
        hold.description,
        json.dumps(hold.metadata, ensure_ascii=False),
        hold.placed_at.isoformat(),
        hold.expires_at.isoformat(),
        hold.closed_at.isoformat() if hold.closed_at else None,
        str(hold.transaction_id) if hold.transaction_id else None,
    )


_END_NAMES = ("account_ids", "hold_ids", "captured", "statuses", "closed", "transaction_ids")
_END_HOLDS = text(
    "UPDATE holds AS h SET captured_micros = n.captured_micros, status = n.status,"
    " closed_at = n.closed_at, transaction_id = n.transaction_id"
    " FROM unnest(CAST(:account_ids AS bigint[]), CAST(:hold_ids AS uuid[]),"
    " CAST(:captured AS bigint[]), CAST(:statuses AS text[]), CAST(:closed AS timestamptz[]),"
    " CAST(:transaction_ids AS uuid[])) AS n (account_id, hold_id, captured_micros, status,"
    " closed_at, transaction_id)"
    " WHERE h.account_id = n.account_id AND h.hold_id = n.hold_id"
)


def _end_row(hold: OpenHold) -> tuple[Any, ...]:
    return (
        hold.account_id,
        str(hold.hold_id),
        hold.captured_micros,
        hold.status.value,
        hold.closed_at.isoformat() if hold.closed_at else None,
        str(hold.transaction_id) if hold.transaction_id else None,
    )


_CHANGE_NAMES = ("account_ids", "numbers", "statuses", "reasons", "actors")
_NOTE_CHANGES = text(
    "INSERT INTO status_changes (account_id, change_number, status, reason, actor, changed_at)"
    " SELECT *, CAST(:now AS timestamptz) FROM unnest(CAST(:account_ids AS bigint[]),"
    " CAST(:numbers AS integer[]), CAST(:statuses AS text[]), CAST(:reasons AS text[]),"
    " CAST(:actors AS text[]))"
)
_SET_STATUS = text(
    "UPDATE balances AS b SET status = :status, status_change_count = n.change_count"
    " FROM unnest(CAST(:account_ids AS bigint[]), CAST(:counts AS integer[]))"
    " AS n (account_id, change_count) WHERE b.account_id = n.account_id"
)
