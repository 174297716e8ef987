"""How much of a wallet is promotional: told by its entries, and written nowhere.

A grant is a credit out of ``promotions`` that ends some day. What is paid for with a wallet is
taken from its grants first, from the one that ends soonest, and from paid credit after them. What
of such a payment comes back is paid credit first, and promotional after it. What must not be
promotional (:data:`PAID_ALONE`: to others, to a card, out of the house) is taken from paid credit.

So each entry since the first grant says what it took, in their order, and a wallet without grants
is asked nothing: no debit looks at a grant, and none writes to one.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk, array
from contracts.wallet import Noted, TransactionKind

PAID_ALONE = frozenset(
    {
        TransactionKind.TRANSFER,
        TransactionKind.PAYOUT,
        TransactionKind.EXCHANGE,
        TransactionKind.CHARGEBACK,
        TransactionKind.REFUND,
    }
)
"""Kinds of what leaves a wallet that take no promotional credit. A refund that leaves one goes to
a card, or gives back what was earned."""


@dataclass(slots=True)
class Grant:
    """Promotional credit that was given, and what is left of it."""

    promotion_id: UUID
    account_id: int
    amount_micros: int
    reason: str
    given_by: UUID
    given_at: datetime
    expires_at: datetime
    transaction_id: UUID
    entry_number: int
    left_micros: int = 0
    owed_micros: int = 0
    """What of it was spent when the grant itself was taken back: what returns of that is paid
    credit, for paid credit has given it."""

    @property
    def turn(self) -> tuple[datetime, int]:
        """Of two, the one that ends sooner is spent first."""
        return self.expires_at, self.entry_number


@dataclass(slots=True)
class Entry:
    """One of a wallet's entries, as far as grants are concerned."""

    entry_number: int
    transaction_id: UUID
    kind: TransactionKind
    amount_micros: int
    balance_after_micros: int
    corrects: UUID | None
    promotion_id: str | None


@dataclass(slots=True)
class _Payment:
    """What a payment took, so far as it has not come back."""

    paid_micros: int
    taken: list[tuple[Grant, int]] = field(default_factory=list)

    def took_instead(self, taken: list[tuple[Grant, int]]) -> list[tuple[Grant, int]]:
        """So much of what counted as paid was promotional; what is over."""
        over = []
        for grant, micros in taken:
            mine = min(micros, self.paid_micros)
            self.paid_micros -= mine
            if mine:
                self.taken.append((grant, mine))
            if micros > mine:
                over.append((grant, micros - mine))
        return over


class Promotional:
    """What is promotional in one wallet, after the entries that were added."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self.grants = sorted(grants, key=lambda grant: grant.turn)
        self.left_micros = sum(grant.left_micros for grant in self.grants)
        """Of all grants, kept beside them: a wallet may have many that ended long ago."""
        self._by_transaction: dict[UUID | None, Grant] = {
            grant.transaction_id: grant for grant in self.grants
        }
        self._by_id: dict[str | None, Grant] = {
            str(grant.promotion_id): grant for grant in self.grants
        }
        self._payments: dict[UUID, _Payment] = {}
        self._debts: list[_Payment] = []
        """Those that took the wallet below zero."""

    def of(self, promotion_id: UUID) -> int:
        """What is left of one grant."""
        grant = self._by_id.get(str(promotion_id))
        return grant.left_micros if grant else 0

    def add(self, entry: Entry) -> int:
        """Take the next entry in; by how much it changed what is promotional."""
        before = self.left_micros
        if entry.amount_micros > 0:
            self._come_in(entry)
        else:
            self._go_out(entry)
        # More than there is cannot be left: somebody took away what had been paid for, now or
        # when it went below zero. Where he gives that back, he gives promotional credit back.
        over = self._take(self.left_micros - max(entry.balance_after_micros, 0))
        payment = self._payments.get(entry.transaction_id) if entry.amount_micros < 0 else None
        for debt in [payment] if payment else reversed(self._debts):
            if not over:
                break
            over = debt.took_instead(over)
        return self.left_micros - before

    def _come_in(self, entry: Entry) -> None:
        if given := self._by_transaction.get(entry.transaction_id):
            self._change(given, entry.amount_micros)
        payment = self._payments.get(entry.corrects) if entry.corrects else None
        if payment is None:
            return
        back = min(entry.amount_micros, payment.paid_micros)
        payment.paid_micros -= back
        rest = entry.amount_micros - back
        while rest and payment.taken:
            grant, micros = payment.taken.pop()
            back = min(rest, micros)
            owed = min(back, grant.owed_micros)
            grant.owed_micros -= owed
            self._change(grant, back - owed)
            rest -= back
            if micros > back:
                payment.taken.append((grant, micros - back))

    def _go_out(self, entry: Entry) -> None:
        gone = -entry.amount_micros
        is_an_end = entry.kind is TransactionKind.PROMOTION
        grant = self._by_id.get(entry.promotion_id) if is_an_end else None
        grant = grant or self._by_transaction.get(entry.corrects)
        if grant is not None:
            left = min(grant.left_micros, gone)
            self._change(grant, -left)
            grant.owed_micros += gone - left
        elif entry.corrects is None:
            taken = [] if entry.kind in PAID_ALONE else self._take(gone)
            payment = _Payment(gone - sum(micros for _, micros in taken), taken)
            self._payments[entry.transaction_id] = payment
            if entry.balance_after_micros < 0:
                self._debts.append(payment)

    def _take(self, micros: int) -> list[tuple[Grant, int]]:
        taken = []
        for grant in self.grants if self.left_micros else ():
            if micros <= 0:
                break
            if part := min(grant.left_micros, micros):
                self._change(grant, -part)
                micros -= part
                taken.append((grant, part))
        return taken

    def _change(self, grant: Grant, micros: int) -> None:
        grant.left_micros += micros
        self.left_micros += micros


_GRANTS = text(
    "SELECT promotion_id, account_id, amount_micros, reason, given_by, given_at, expires_at,"
    " transaction_id, entry_number FROM promotions AS p"
    " WHERE account_id = ANY(CAST(:account_ids AS bigint[]))"
    " AND (account_id = ANY(CAST(:with_ended AS bigint[])) OR EXISTS ("
    "SELECT FROM promotions AS open WHERE open.account_id = p.account_id"
    " AND open.due_at IS NOT NULL))"
)
_ENTRIES = text(
    "SELECT e.entry_number, e.transaction_id, e.kind, e.amount_micros, e.balance_after_micros,"
    " t.corrects_transaction_id, t.metadata ->> 'promotion_id'"
    " FROM entries AS e JOIN transactions AS t ON t.transaction_id = e.transaction_id"
    " WHERE e.account_id = :account_id AND e.entry_number >= :first ORDER BY e.entry_number"
)
# What came back of a payment after a grant's end may be promotional: it is looked at once more.
_ROUSE = Bulk(
    "UPDATE promotions AS p SET due_at = p.expires_at FROM {rows}"
    " WHERE p.account_id = new.account_id AND p.due_at IS NULL",
    account_id="bigint",
)


def load(
    session: Session, account_ids: Iterable[int], coming_back_to: Iterable[int] = ()
) -> dict[int, Promotional]:
    """What is promotional in those of these wallets that have any grant which has not ended.

    To ``coming_back_to`` something may come back that was promotional: there, grants that have
    ended count too.
    """
    return {
        account_id: found
        for account_id, grants in _grants(session, account_ids, coming_back_to).items()
        for found, _ in [_told(session, account_id, grants)]
    }


def history(session: Session, account_id: int) -> dict[int, int]:
    """By which entries of a wallet what is promotional changed, and by how much."""
    grants = _grants(session, [account_id], [account_id]).get(account_id)
    return _told(session, account_id, grants)[1] if grants else {}


def _grants(
    session: Session, account_ids: Iterable[int], with_ended: Iterable[int]
) -> dict[int, list[Grant]]:
    found: dict[int, list[Grant]] = defaultdict(list)
    asked = {
        "account_ids": array("bigint", account_ids),
        "with_ended": array("bigint", with_ended),
    }
    for row in session.execute(_GRANTS, asked):
        found[row.account_id].append(Grant(*row))
    return found


def _told(
    session: Session, account_id: int, grants: list[Grant]
) -> tuple[Promotional, dict[int, int]]:
    told, changes = Promotional(grants), {}
    first = min(grant.entry_number for grant in grants)
    for number, transaction_id, kind, *rest in session.execute(
        _ENTRIES, {"account_id": account_id, "first": first}
    ):
        if change := told.add(Entry(number, transaction_id, TransactionKind(kind), *rest)):
            changes[number] = change
    return told, changes


def entry(posted: Any, number: int, kind: TransactionKind, amount_micros: int, after: int) -> Entry:
    """The entry of a batch that is being made."""
    movement = posted.movement
    promotion_id = movement.metadata.get(Noted.PROMOTION_ID)
    return Entry(
        number, posted.transaction_id, kind, amount_micros, after, movement.corrects, promotion_id
    )


def write_roused(writes: Batch, account_ids: Iterable[int]) -> None:
    """Have grants looked at again that had ended, where something came back."""
    writes.add(_ROUSE, [(account_id,) for account_id in account_ids])
