"""The wallet in plain Python, as simple as it can be said: what the real one is compared with."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
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
    HouseAccount,
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

Owner = UUID | HouseAccount
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
    saw_money_go: bool = False
    """Money of its account was taken back while it was open."""


@dataclass
class ModelLeg:
    """What somebody gave, negative, or got."""

    owner: Owner
    amount_micros: int
    left_micros: int


@dataclass
class ModelTransaction:
    legs: list[ModelLeg]
    is_correction: bool = False
    corrections: int = 0

    @property
    def owners(self) -> set[Owner]:
        return {leg.owner for leg in self.legs}

    @property
    def amount_micros(self) -> int:
        return sum(leg.amount_micros for leg in self.legs if leg.amount_micros > 0)

    @property
    def left_micros(self) -> int:
        return sum(leg.left_micros for leg in self.legs if leg.amount_micros > 0)


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

    def _move(self, source, destination, amount_micros, made_id, seen_by, silent=False):
        legs = [(source or HouseAccount.FEES, -amount_micros)]
        legs += [(destination or HouseAccount.FEES, amount_micros)]
        return self._post(legs, made_id, seen_by, silent=silent)

    def _post(self, legs, made_id, seen_by, *, correction=False, silent=False):
        """Those who give stand first. The answer is the first that ``seen_by`` sees of it."""
        answers = []
        for owner, amount_micros in legs:
            if owner in self.accounts:
                self.accounts[owner].balance_micros += amount_micros
                if owner == seen_by:
                    answers.append(("moved", amount_micros, self.accounts[owner].balance_micros))
        for owner, amount_micros in legs:
            if owner in self.accounts:
                if amount_micros > 0:
                    self.accounts[owner].rearm()
                elif not silent:
                    self.accounts[owner].check()
        self.transactions[made_id] = ModelTransaction(
            [ModelLeg(owner, micros, abs(micros)) for owner, micros in legs], correction
        )
        return answers[0]

    def _pay(self, command: Debit | Capture, amount_micros: int) -> list[tuple[Owner, int]]:
        """The legs of a payment."""
        shares = command.shares
        if not shares:
            return [(command.user_id, -amount_micros), (HouseAccount.FEES, amount_micros)]
        if sum(share.amount_micros for share in shares) != amount_micros:
            raise Refused("bad_request")
        if len({share.destination for share in shares}) < len(shares):
            raise Refused("bad_request")
        for share in shares:
            if isinstance(share.destination, UUID):
                self.accounts.setdefault(share.destination, ModelAccount())
        paid = [(share.destination, share.amount_micros) for share in shares]
        return [(command.user_id, -amount_micros), *paid]

    def _open_account(self, command: OpenAccount, _made_id: UUID) -> Answer:
        self.accounts.setdefault(command.user_id, ModelAccount())
        return ("opened",)

    def _debit(self, command: Debit, made_id: UUID) -> Answer:
        user_id = command.user_id
        self._require(self._account(user_id), command.amount_micros)
        return self._post(self._pay(command, command.amount_micros), made_id, user_id)

    def _credit(self, command: Credit, made_id: UUID) -> Answer:
        user_id = command.user_id
        self.accounts.setdefault(user_id, ModelAccount())
        return self._move(None, user_id, command.amount_micros, made_id, user_id)

    def _take_back(self, command: TakeBack, made_id: UUID) -> Answer:
        account = self._account(command.user_id)
        if command.is_dispute or account.available_micros < command.amount_micros:
            account.is_frozen = True
        for hold in self.holds.values():
            hold.saw_money_go |= hold.is_open and hold.user_id == command.user_id
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
        legs = self._pay(command, amount_micros)
        self._release(account, hold)
        return self._post(legs, made_id, command.user_id)

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
        if original is None or command.user_id not in original.owners:
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
        back = []
        for sign in (-1, 1):
            legs = [leg for leg in original.legs if leg.amount_micros * sign > 0]
            legs.sort(key=lambda leg: self._place(leg.owner))
            parts = divided(amount_micros, [leg.left_micros for leg in legs])
            back += [(leg, -sign, part) for leg, part in zip(legs, parts, strict=True) if part]
        if command.user_id not in {leg.owner for leg, _, _ in back}:
            raise Refused("bad_request")
        for user_id, account in self.accounts.items():
            gives = -sum(sign * part for leg, sign, part in back if leg.owner == user_id)
            if gives > 0:
                self._require(account, gives, opened=opened)
        for leg, _, part in back:
            leg.left_micros -= part
        original.corrections += 1
        legs = [(leg.owner, sign * part) for leg, sign, part in back]
        return self._post(legs, made_id, command.user_id, correction=True)

    def _place(self, owner: Owner) -> int:
        """House accounts have the lower ids, users those in the order in which they opened."""
        if isinstance(owner, HouseAccount):
            return list(HouseAccount).index(owner)
        return 1000 + list(self.accounts).index(owner)

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


def divided(amount_micros: int, left: list[int]) -> list[int]:
    """In proportion to what is left; what rounding down leaves over, to the largest remainders."""
    exact = [Fraction(amount_micros * micros, sum(left)) for micros in left]
    parts = [int(part) for part in exact]
    while sum(parts) < amount_micros:
        lacking = [whole - part for whole, part in zip(exact, parts, strict=True)]
        parts[lacking.index(max(lacking))] += 1
    return parts


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
        return self.model.transactions[self.command.transaction_id].corrections > 1

    @property
    def legs(self) -> list[ModelLeg]:
        """Of what is corrected, if there is such a thing."""
        original = self.model.transactions.get(self.command.transaction_id)
        return original.legs if original else []

    @property
    def is_of_shares(self) -> bool:
        return len(self.legs) > 2


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
    "a hold is captured in part while money is taken back": lambda m: (
        m.is_(Capture, "moved")
        and m.model.holds[m.command.hold_id].saw_money_go
        and abs(m.answer[1]) < m.model.holds[m.command.hold_id].amount_micros
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
    "what several got is refunded in parts": lambda m: (
        m.is_(Refund, "moved") and m.is_of_shares and m.is_second_correction
    ),
    "what several got is reversed": lambda m: m.is_(Reverse, "moved") and m.is_of_shares,
    "of several one has spent what is refunded": lambda m: (
        m.is_(Refund, "insufficient_funds") and m.is_of_shares
    ),
    "who earned refunds": lambda m: m.is_(Refund, "moved") and m.is_of_shares and m.answer[1] < 0,
    "so little is refunded that it is none of who asks": lambda m: (
        m.is_(Refund, "bad_request") and m.is_of_shares
    ),
    "who sells buys it himself": lambda m: (
        m.is_(Debit, "moved")
        and m.command.user_id in {share.destination for share in m.command.shares}
    ),
    "shares come to something else": lambda m: (
        (m.is_(Debit, "bad_request") or m.is_(Capture, "bad_request")) and m.command.shares != []
    ),
    "money that was spent is not reversed": lambda m: m.is_(Reverse, "insufficient_funds"),
    "a closed key stops a late command": lambda m: m.answer == ("key_closed",),
}
"""What a long enough life of a ledger comes to: a run that does not come there proves nothing."""
