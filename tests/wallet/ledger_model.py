"""The wallet in plain Python, as simple as it can be said: what the real one is compared with."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from contracts.messages import Command
from contracts.wallet import (
    Adjust,
    Capture,
    CloseKey,
    Credit,
    Debit,
    Freeze,
    OpenAccount,
    PlaceHold,
    Refund,
    Reverse,
    SetLevel,
    Transfer,
    Unfreeze,
    VoidHold,
)
from services.wallet.rules.holding import ExpireHold
from services.wallet.rules.reclaims import TakeBack

Answer = tuple[Any, ...]
"""What a command answers: its effect in a few words, or the code of its error."""


@dataclass
class ModelAccount:
    balance_micros: int = 0
    held_micros: int = 0
    is_frozen: bool = False
    alert_micros: int | None = None
    is_armed: bool = False
    dips: int = 0
    """How often it was told that the balance is below the alert level."""

    @property
    def available_micros(self) -> int:
        return self.balance_micros - self.held_micros

    def rearm(self) -> None:
        if self.alert_micros is not None and self.available_micros >= self.alert_micros:
            self.is_armed = True

    def check(self) -> None:
        self.rearm()
        if self.alert_micros is not None and self.available_micros < self.alert_micros:
            self.dips += self.is_armed
            self.is_armed = False


@dataclass
class ModelHold:
    user_id: UUID
    amount_micros: int
    expires_at: datetime
    is_open: bool = True


@dataclass
class ModelTransaction:
    source: UUID | None
    destination: UUID | None
    amount_micros: int
    left_micros: int
    is_correction: bool = False


class Refused(Exception):
    """``args[0]`` is the code of the error."""


@dataclass
class Model:
    now: datetime
    accounts: dict[UUID, ModelAccount] = field(default_factory=dict)
    holds: dict[UUID, ModelHold] = field(default_factory=dict)
    transactions: dict[UUID, ModelTransaction] = field(default_factory=dict)
    keys: dict[str, tuple[object, Answer]] = field(default_factory=dict)

    def answer(self, command: Command[Any], made_id: UUID | None) -> Answer:
        """Carry out a command. ``made_id`` is the id that the real ledger gave to what it made."""
        key = command.idempotency_key
        if isinstance(command, CloseKey):
            _, earlier = self.keys.setdefault(key, (None, ("closed",)))
            return ("closed", earlier == ("closed",))
        if key in self.keys:
            body, earlier = self.keys[key]
            if earlier == ("closed",):
                return ("key_closed",)
            if body == command and isinstance(command, SetLevel):
                return ("level", self.accounts[command.user_id].alert_micros)
            return earlier if body == command else ("idempotency_conflict",)
        try:
            answer = getattr(self, f"_{command.method}")(command, made_id)
        except Refused as refusal:
            return refusal.args
        self.keys[key] = (command, answer)
        return answer

    def _account(self, user_id: UUID) -> ModelAccount:
        if user_id not in self.accounts:
            raise Refused("not_found")
        return self.accounts[user_id]

    def _require(self, account: ModelAccount, amount_micros: int, *, opened: bool = True) -> None:
        if opened and account.is_frozen:
            raise Refused("account_frozen")
        if account.available_micros < amount_micros:
            raise Refused("insufficient_funds")

    def _move(
        self, source, destination, amount_micros, made_id, seen_by, correction=False, silent=False
    ):
        if source is not None:
            self.accounts[source].balance_micros -= amount_micros
            if not silent:
                self.accounts[source].check()
        if destination is not None:
            self.accounts[destination].balance_micros += amount_micros
            self.accounts[destination].rearm()
        self.transactions[made_id] = ModelTransaction(
            source, destination, amount_micros, amount_micros, correction
        )
        sign = -1 if seen_by == source else 1
        return ("moved", sign * amount_micros, self.accounts[seen_by].balance_micros)

    def _open_account(self, command: OpenAccount, _made_id: UUID) -> Answer:
        self.accounts.setdefault(command.user_id, ModelAccount())
        return ("opened",)

    def _debit(self, command: Debit, made_id: UUID) -> Answer:
        user_id = command.user_id
        self._require(self._account(user_id), command.amount_micros)
        return self._move(user_id, None, command.amount_micros, made_id, user_id)

    def _credit(self, command: Credit, made_id: UUID) -> Answer:
        user_id = command.user_id
        self.accounts.setdefault(user_id, ModelAccount())
        return self._move(None, user_id, command.amount_micros, made_id, user_id)

    def _take_back(self, command: TakeBack, made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        if command.is_dispute or account.available_micros < command.amount_micros:
            account.is_frozen = True
        user_id = command.user_id
        return self._move(user_id, None, command.amount_micros, made_id, user_id, silent=True)

    def _set_level(self, command: SetLevel, _made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        account.alert_micros = command.threshold_micros
        account.is_armed = False
        account.rearm()
        return ("level", command.threshold_micros)

    def _transfer(self, command: Transfer, made_id: UUID) -> Answer:
        sender, receiver = command.from_user_id, command.to_user_id
        if sender == receiver:
            raise Refused("bad_request")
        account = self._account(sender)
        self._account(receiver)
        self._require(account, command.amount_micros)
        return self._move(sender, receiver, command.amount_micros, made_id, sender)

    def _adjust(self, command: Adjust, made_id: UUID) -> Answer:
        account, user_id = self._account(command.user_id), command.user_id
        if command.amount_micros == 0:
            raise Refused("bad_request")
        if command.amount_micros > 0:
            return self._move(None, user_id, command.amount_micros, made_id, user_id)
        self._require(account, -command.amount_micros, opened=False)
        return self._move(user_id, None, -command.amount_micros, made_id, user_id)

    def _hold(self, command: PlaceHold, made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        self._require(account, command.amount_micros)
        account.held_micros += command.amount_micros
        account.check()
        expires_at = self.now + timedelta(seconds=command.expires_in_s)
        self.holds[made_id] = ModelHold(command.user_id, command.amount_micros, expires_at)
        return ("held", command.amount_micros)

    def _open_hold(self, user_id: UUID, hold_id: UUID) -> ModelHold:
        hold = self.holds.get(hold_id)
        if hold is None or hold.user_id != user_id:
            raise Refused("not_found")
        if not hold.is_open:
            raise Refused("conflict")
        return hold

    def _capture(self, command: Capture, made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        if account.is_frozen:
            raise Refused("account_frozen")
        hold = self._open_hold(command.user_id, command.hold_id)
        amount_micros = command.amount_micros or hold.amount_micros
        if amount_micros > hold.amount_micros:
            raise Refused("bad_request")
        if hold.expires_at <= self.now:
            raise Refused("conflict")
        self._release(account, hold)
        return self._move(command.user_id, None, amount_micros, made_id, command.user_id)

    def _void(self, command: VoidHold, _made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        hold = self._open_hold(command.user_id, command.hold_id)
        self._release(account, hold)
        account.check()
        return ("voided", hold.amount_micros)

    def _expire(self, command: ExpireHold, _made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        hold = self._open_hold(command.user_id, command.hold_id)
        if hold.expires_at > self.now:
            raise Refused("conflict")
        self._release(account, hold)
        account.check()
        return ("expired", hold.amount_micros)

    def _release(self, account: ModelAccount, hold: ModelHold) -> None:
        hold.is_open = False
        account.held_micros -= hold.amount_micros

    def _original(self, command: Refund | Reverse) -> ModelTransaction:
        self._account(command.user_id)
        original = self.transactions.get(command.transaction_id)
        if original is None or command.user_id not in (original.source, original.destination):
            raise Refused("not_found")
        if original.is_correction:
            raise Refused("bad_request")
        return original

    def _refund(self, command: Refund, made_id: UUID) -> Answer:
        original = self._original(command)
        amount_micros = command.amount_micros or original.left_micros
        if not 0 < amount_micros <= original.left_micros:
            raise Refused("conflict")
        return self._send_back(command, original, amount_micros, made_id, opened=True)

    def _reverse(self, command: Reverse, made_id: UUID) -> Answer:
        original = self._original(command)
        if original.left_micros < original.amount_micros:
            raise Refused("conflict")
        return self._send_back(command, original, original.amount_micros, made_id, opened=False)

    def _send_back(self, command, original, amount_micros, made_id, *, opened):
        giver = original.destination
        if giver is not None:
            self._require(self.accounts[giver], amount_micros, opened=opened)
        original.left_micros -= amount_micros
        return self._move(
            giver, original.source, amount_micros, made_id, command.user_id, correction=True
        )

    def _freeze(self, command: Freeze, _made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        if account.is_frozen:
            raise Refused("conflict")
        account.is_frozen = True
        return ("frozen",)

    def _unfreeze(self, command: Unfreeze, _made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        if not account.is_frozen or account.available_micros < 0:
            raise Refused("conflict")
        account.is_frozen = False
        return ("open",)


def copy_of(account: ModelAccount | None) -> ModelAccount:
    """As it is now, whatever becomes of it; an empty one where there is none."""
    return replace(account) if account is not None else ModelAccount()


@dataclass
class Moment:
    """A command that was answered. ``before``: the account just then; ``at_first``: before the
    batch in which it came."""

    model: Model
    command: Any
    answer: Answer
    before: ModelAccount
    at_first: ModelAccount

    def is_(self, kind: type[Command[Any]], answer: str) -> bool:
        return isinstance(self.command, kind) and self.answer[0] == answer

    @property
    def takes_held(self) -> bool:
        """More than is available, and no more than there is."""
        taken_micros = self.command.amount_micros
        return self.before.available_micros < taken_micros <= self.before.balance_micros

    @property
    def is_of_open_hold(self) -> bool:
        hold = self.model.holds.get(self.command.hold_id)
        return hold is not None and hold.is_open

    @property
    def is_second_correction(self) -> bool:
        original = self.model.transactions[self.command.transaction_id]
        return original.left_micros + abs(self.answer[1]) < original.amount_micros


STATES: dict[str, Callable[[Moment], bool]] = {
    "money is taken back while some is held": lambda m: (
        m.is_(TakeBack, "moved") and m.before.held_micros > 0
    ),
    "a refund to the card takes what is held": lambda m: (
        m.is_(TakeBack, "moved") and not m.command.is_dispute and m.takes_held
    ),
    "a dispute takes what is held": lambda m: (
        m.is_(TakeBack, "moved") and m.command.is_dispute and m.takes_held
    ),
    "a frozen wallet's hold is not captured": lambda m: (
        m.is_(Capture, "account_frozen") and m.is_of_open_hold
    ),
    "a frozen wallet's hold is voided": lambda m: m.is_(VoidHold, "voided") and m.before.is_frozen,
    "a hold ends while nothing is available": lambda m: (
        (m.is_(VoidHold, "voided") or m.is_(ExpireHold, "expired"))
        and m.before.available_micros < 0
    ),
    "a wallet that owes what is held stays frozen": lambda m: (
        m.is_(Unfreeze, "conflict") and m.before.balance_micros >= 0 > m.before.available_micros
    ),
    "of two in one batch one falls short": lambda m: (
        m.is_(Debit, "insufficient_funds")
        and m.at_first.available_micros >= m.command.amount_micros
    ),
    "a hold is captured too late": lambda m: m.is_(Capture, "conflict") and m.is_of_open_hold,
    "a hold expires": lambda m: m.is_(ExpireHold, "expired"),
    "a hold expires too early": lambda m: m.is_(ExpireHold, "conflict") and m.is_of_open_hold,
    "a purchase is refunded in parts": lambda m: m.is_(Refund, "moved") and m.is_second_correction,
    "money that was spent is not reversed": lambda m: m.is_(Reverse, "insufficient_funds"),
    "a closed key stops a late command": lambda m: m.answer == ("key_closed",),
}
"""What a long enough life of a ledger comes to: a run that does not come there proves nothing."""
