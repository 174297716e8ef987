"""The open book: what a batch of commands reads, changes in memory, and writes down at once.

Reading takes the locks, in one order: accounts by id, then keys. Rules change the accounts
here and decide before they change anything, so that a refused command leaves no trace and its
neighbours go on. Writing is one statement for each table.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeGuard
from uuid import UUID

from sqlalchemy.orm import Session

from chassis import outbox
from chassis.bulk import Batch, Bulk, array
from chassis.context import CallContext
from chassis.identifiers import new_id
from contracts.errors import BadRequest, NotFound
from contracts.messages import Event
from contracts.wallet import (
    AccountStatus,
    BalanceLow,
    BalanceRestored,
    LowBalanceLevel,
    Noted,
    TransactionKind,
    Wallet,
    WalletCredited,
)
from services.wallet.book import accounts, holds, keys, levels, promotions
from services.wallet.book.accounts import Account
from services.wallet.book.holds import OpenHold
from services.wallet.book.levels import ArmedLevel
from services.wallet.book.originals import Original
from services.wallet.book.postings import Leg, Movement, Posted
from services.wallet.book.promotions import Promotional
from services.wallet.models import HOUSE_ACCOUNT_IDS


class Book:
    """See the module. ``services.wallet.ledger`` opens it, runs the rules, and writes it."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.call = CallContext()
        """Whose command is carried out: its transactions name the caller, and its events go on
        with the chain of calls."""
        self.accounts: dict[UUID, Account] = {}
        self.reserved_account_ids: list[int] = []
        self.keys: dict[str, keys.KeyRecord] = {}
        self.originals: dict[UUID, Original] = {}
        self.holds: dict[UUID, OpenHold] = {}
        self.promotional: dict[int, Promotional] = {}
        """By account, where there are grants and a command of the batch takes paid credit alone."""
        self._opened: list[Account] = []
        self._transactions: list[tuple[Any, ...]] = []
        self._entries: list[tuple[Any, ...]] = []
        self._keys: list[keys.KeyRecord] = []
        self._placed_holds: dict[UUID, OpenHold] = {}
        self._ended_holds: list[OpenHold] = []
        self._status_changes: list[tuple[Any, ...]] = []
        self._statuses: dict[int, Account] = {}
        self._set_levels: dict[tuple[int, str], tuple[int | None, bool]] = {}
        self._levels: dict[tuple[int, str], ArmedLevel] = {}
        self._came_back: set[int] = set()
        self._events: list[tuple[Event, CallContext]] = []

    # Reading.

    def read(
        self, session: Session, user_ids: Iterable[UUID], idempotency_keys: Iterable[str]
    ) -> None:
        """Lock the users' accounts until the transaction ends; read their levels, and the keys.

        Unknown users and unused keys are left out.
        """
        wanted = {"user_ids": array("uuid", user_ids), "keys": array("text", idempotency_keys)}
        used: list[keys.KeyRecord] = []
        rows = session.connection().exec_driver_sql(_READ, wanted)
        # A slice is cut ten times as fast as its columns are asked for one by one.
        place = list(rows.keys()).index
        account = slice(place("account_id"), place("last_entry_at") + 1)
        level = slice(place("level"), place("is_armed") + 1)
        key = slice(place("idempotency_key"), place("recorded_at") + 1)
        for row in rows:
            if row.opened_at is not None:
                self.add_account(accounts.from_row(row[account]))
            elif row.level is not None:
                self.accounts[row.user_id].levels.append(ArmedLevel(row.account_id, *row[level]))
            else:
                used.append(keys.from_row(row[key]))
        self.keys = keys.answered(session, used)

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
            account = accounts.new(self.reserved_account_ids.pop(0), user_id, self.now)
            self.add_account(account)
            self._opened.append(account)
        return self.accounts[user_id]

    def add_account(self, account: Account) -> None:
        """An account that is locked now."""
        self.accounts[account.user_id] = account

    # What rules do.

    def post(self, legs: Sequence[Leg], movement: Movement) -> Posted:
        """Write a transaction with an entry for each leg; they sum to zero.

        Who gives stands before who gets. The caller has checked that they may give it. Raises
        ``Conflict`` when somebody's wallet cannot hold so much.
        """
        users_legs = [(leg.side, leg) for leg in legs if isinstance(leg.side, Account)]
        # Now, or a little later: another replica's clock may be ahead, and dates only rise.
        recorded_at = self.now
        for account, leg in users_legs:
            if leg.amount_micros > 0:
                accounts.require_room(account, leg.amount_micros)
            if account.last_entry_at is not None and account.last_entry_at > recorded_at:
                recorded_at = account.last_entry_at
        effective_at = movement.effective_at or recorded_at
        posted = Posted(new_id(), movement, effective_at, recorded_at, {})
        given_micros = sum([leg.amount_micros for leg in legs if leg.amount_micros > 0])
        self._transactions.append(_transaction_row(posted, given_micros, self.call.caller))
        for leg in legs:
            self._enter(posted, leg)
        for account, leg in users_legs:
            self._tell_owner(account, leg, posted)
        return posted

    def _enter(self, posted: Posted, leg: Leg) -> None:
        side, amount_micros, kind = leg
        account_id: int
        number: int | None = None
        balance_after_micros: int | None = None
        if isinstance(side, Account):
            side.entry_count += 1
            side.balance_micros += amount_micros
            side.last_entry_at = posted.recorded_at
            account_id, number = side.account_id, side.entry_count
            balance_after_micros = side.balance_micros
            posted.sides.setdefault(account_id, (amount_micros, balance_after_micros))
            if posted.movement.corrects is not None and amount_micros > 0:
                self._came_back.add(account_id)
            if self.promotional and account_id in self.promotional:
                self.promotional[account_id].add(
                    promotions.entry(
                        posted,
                        number,
                        kind or posted.movement.kind,
                        amount_micros,
                        balance_after_micros,
                    )
                )
        else:
            account_id = HOUSE_ACCOUNT_IDS[side]
        self._entries.append(
            (
                account_id,
                number,
                posted.transaction_id,
                amount_micros,
                balance_after_micros,
                kind or posted.movement.kind,
                posted.effective_at,
                posted.recorded_at,
            )
        )

    def _tell_owner(self, account: Account, leg: Leg, posted: Posted) -> None:
        """What the entries of a transaction, all of them, have made of a wallet."""
        if leg.amount_micros > 0:
            self._rearm(account)
            kind = leg.kind or posted.movement.kind
            moved = (posted.transaction_id, kind, leg.amount_micros, posted.movement.metadata)
            self._say(credited(self.now, account, *moved, account.entry_count))
        elif posted.movement.says_balance_low:
            self.check_levels(account)

    def announce(self, event_class: type[Event], **fields: Any) -> None:
        """An event to be published with the batch."""
        self._say(event_class(event_id=new_id(), occurred_at=self.now, **fields))

    def _say(self, event: Event) -> None:
        self._events.append((event, self.call))

    def place(self, account: Account, hold: OpenHold) -> None:
        """Set money aside."""
        account.held_micros += hold.amount_micros
        self.holds[hold.hold_id] = hold
        self._placed_holds[hold.hold_id] = hold
        self.check_levels(account)

    def end(self, account: Account, hold: OpenHold) -> None:
        """Release a hold that the rule has given its end. A capture moves the money after it."""
        account.held_micros -= hold.amount_micros
        if hold.hold_id not in self._placed_holds:
            self._ended_holds.append(hold)

    def check_levels(self, account: Account) -> None:
        """After what is available changed: announce each level that it fell below."""
        if not account.levels:
            return
        self._rearm(account)
        for level in levels.crossed(account.levels, account.available_micros):
            self._note_level(level)
            self.announce(
                BalanceLow,
                user_id=account.user_id,
                level=level.name,
                threshold_micros=level.threshold_micros,
                available_micros=account.available_micros,
            )

    def _rearm(self, account: Account) -> None:
        for level in levels.rearmed(account.levels, account.available_micros):
            self._note_level(level)
            if level.name == LowBalanceLevel.ALERT:
                self.announce(
                    BalanceRestored,
                    user_id=account.user_id,
                    threshold_micros=level.threshold_micros,
                    available_micros=account.available_micros,
                )

    def _note_level(self, level: ArmedLevel) -> None:
        self._levels[level.account_id, level.name] = level

    def set_level(self, account: Account, name: str, threshold_micros: int | None) -> None:
        """Set a level of an account, or drop it. One that the wallet is below is not armed."""
        is_armed = levels.begins_armed(account.available_micros, threshold_micros)
        account.levels = [level for level in account.levels if level.name != name]
        if threshold_micros is not None:
            account.levels.append(ArmedLevel(account.account_id, name, threshold_micros, is_armed))
        self._set_levels[account.account_id, name] = (threshold_micros, is_armed)
        self._levels.pop((account.account_id, name), None)

    def note_status_change(self, account: Account, reason: str, actor: str) -> None:
        """An account was frozen or opened again."""
        self._statuses[account.account_id] = account
        self._status_changes.append(
            (
                account.account_id,
                account.status_change_count,
                account.status,
                reason,
                actor,
                self.now,
            )
        )

    def remember(self, record: keys.KeyRecord) -> None:
        """Bind a key to its outcome, for this batch and for ever."""
        self.keys[record.idempotency_key] = record
        self._keys.append(record)

    # Writing it down.

    def write(self, session: Session) -> None:
        """One statement for each table, all of them in one round trip.

        Freezing and releasing go first and new holds and unfreezing last, because the
        database checks after each statement that no open account falls below zero.
        """
        with Batch(session) as writes:
            accounts.write(writes, self._opened)
            writes.add(_SET_STATUS, self._changed_to(AccountStatus.FROZEN))
            holds.write_ends(writes, self._ended_holds)
            writes.add(_POST_TRANSACTIONS, self._transactions)
            writes.add(_POST_ENTRIES, self._entries)
            holds.write_placed(writes, self._placed_holds.values())
            writes.add(_SET_STATUS, self._changed_to(AccountStatus.OPEN))
            writes.add(_NOTE_CHANGES, self._status_changes)
            levels.write_set(writes, self._set_levels)
            levels.write(writes, self._levels.values())
            keys.write(writes, self.now, self._keys)
            promotions.write_roused(writes, self._came_back)
            outbox.store(writes, _told(self._events))

    def _changed_to(self, status: AccountStatus) -> list[tuple[Any, ...]]:
        return [
            (account.account_id, status, account.status_change_count)
            for account in self._statuses.values()
            if account.status is status
        ]


def credited(
    now: datetime,
    owner: Account | Wallet,
    transaction_id: UUID,
    kind: TransactionKind,
    amount_micros: int,
    metadata: dict[str, str],
    entry_number: int | None,
) -> WalletCredited:
    """What tells that a transaction brought money, and what the wallet holds now."""
    return WalletCredited(
        event_id=new_id(),
        occurred_at=now,
        user_id=owner.user_id,
        transaction_id=transaction_id,
        kind=kind,
        amount_micros=amount_micros,
        balance_micros=owner.balance_micros,
        available_micros=owner.available_micros,
        topup_id=_noted_id(metadata, Noted.TOPUP_ID),
        from_user_id=_noted_id(metadata, Noted.FROM_USER_ID)
        if kind is TransactionKind.TRANSFER
        else None,
        entry_number=entry_number,
    )


def _told(events: list[tuple[Event, CallContext]]) -> list[tuple[Event, CallContext]]:
    """The events of a batch, in which all that somebody earned is told by the last of it."""
    earned_micros: dict[UUID, int] = defaultdict(int)
    last: dict[UUID, Event] = {}
    for event, _ in events:
        if _is_earning(event):
            earned_micros[event.user_id] += event.amount_micros
            last[event.user_id] = event
    return [
        (_with_amount(event, earned_micros[event.user_id]) if _is_earning(event) else event, call)
        for event, call in events
        if not _is_earning(event) or last[event.user_id] is event
    ]


def _is_earning(event: Event) -> TypeGuard[WalletCredited]:
    return isinstance(event, WalletCredited) and event.kind is TransactionKind.EARNING


def _with_amount(event: WalletCredited, amount_micros: int) -> WalletCredited:
    return event.model_copy(update={"amount_micros": amount_micros})


def _noted_id(metadata: dict[str, str], name: Noted) -> UUID | None:
    try:
        return UUID(metadata[name])
    except (KeyError, ValueError):
        return None


_READ = "SELECT * FROM open_book(CAST(%(user_ids)s AS uuid[]), CAST(%(keys)s AS text[]))"
"""A row for each account, each level and each used key, in the columns of that; see 0004."""

_POST_TRANSACTIONS = Bulk(
    "INSERT INTO transactions ({columns}) SELECT * FROM {rows}",
    transaction_id="uuid",
    kind="text",
    amount_micros="bigint",
    description="text",
    metadata="jsonb",
    effective_at="timestamptz",
    recorded_at="timestamptz",
    corrects_transaction_id="uuid",
    correction="text",
    caller="text",
)


def _transaction_row(posted: Posted, amount_micros: int, caller: str | None) -> tuple[Any, ...]:
    movement = posted.movement
    return (
        posted.transaction_id,
        movement.kind,
        amount_micros,
        movement.description,
        movement.metadata,
        posted.effective_at,
        posted.recorded_at,
        movement.corrects,
        movement.correction,
        caller,
    )


_POST_ENTRIES = Bulk(
    "INSERT INTO entries ({columns})"
    " SELECT account_id, coalesce(entry_number, nextval('house_entry_number')), transaction_id,"
    " amount_micros, balance_after_micros, kind, effective_at, recorded_at FROM {rows}",
    account_id="bigint",
    entry_number="bigint",
    transaction_id="uuid",
    amount_micros="bigint",
    balance_after_micros="bigint",
    kind="text",
    effective_at="timestamptz",
    recorded_at="timestamptz",
)

_NOTE_CHANGES = Bulk(
    "INSERT INTO status_changes ({columns}) SELECT * FROM {rows}",
    account_id="bigint",
    change_number="integer",
    status="text",
    reason="text",
    actor="text",
    changed_at="timestamptz",
)
_SET_STATUS = Bulk(
    "UPDATE balances AS b SET status = new.status, status_change_count = new.change_count"
    " FROM {rows} WHERE b.account_id = new.account_id",
    account_id="bigint",
    status="text",
    change_count="integer",
)
