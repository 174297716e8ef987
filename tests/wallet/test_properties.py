"""Whatever is asked of the ledger, in whatever order: it is right, and a plain model agrees."""

from collections import Counter
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from chassis.identifiers import new_id
from contracts.errors import ServiceError
from contracts.messages import Command
from contracts.wallet import (
    Adjust,
    Capture,
    ClosedKey,
    CloseKey,
    Credit,
    Debit,
    Freeze,
    Hold,
    HouseAccount,
    Level,
    OpenAccount,
    PlaceHold,
    Refund,
    Reverse,
    SetLevel,
    StatusChange,
    Transaction,
    Transfer,
    Unfreeze,
    VoidHold,
    Wallet,
)
from services.wallet import chain, statements, verification
from services.wallet.rules.holding import ExpireHold
from services.wallet.rules.reclaims import TakeBack
from tests.wallet.conftest import Ledger
from tests.wallet.ledger_model import STATES, Answer, Model, ModelAccount, Moment, copy_of

USERS = 4
amounts = st.integers(1, 60)
users = st.integers(0, USERS - 1)
picks = st.integers(0, 1_000_000)
WORDS = {"description": "x"}
OPERATOR = {"reason": "x", "actor": "operator-7"}
LIVES_S = (60, 600)
"""How long holds live: the times that pass end some of them on the instant."""

parties = st.lists(st.integers(0, USERS + 1), min_size=1, max_size=4, unique=True)
"""Who gets a share: users, and beyond them house accounts."""
DIPS = text(
    "SELECT payload ->> 'user_id', count(*) FROM outbox WHERE type = 'balance_low' GROUP BY 1"
)
TOTAL = text("SELECT coalesce(sum(amount_micros), 0) FROM entries")
small = st.sampled_from((1, 1, 3, 20))
errors = st.sampled_from((0, 0, 0, 1))
"""By how much the shares miss the amount."""

drafts = st.one_of(
    st.tuples(st.just(OpenAccount), users),
    st.tuples(st.just(Credit), users, amounts),
    st.tuples(st.just(Credit), users, amounts),
    st.tuples(st.just(Debit), users, amounts),
    st.tuples(st.just(Debit), users, amounts, parties, errors),
    st.tuples(st.just(Transfer), users, users, amounts),
    st.tuples(st.just(PlaceHold), users, amounts, st.sampled_from(LIVES_S)),
    st.tuples(st.just(Capture), picks, st.none() | amounts),
    st.tuples(st.just(Capture), picks, st.none() | amounts, parties, errors),
    st.tuples(st.just(VoidHold), picks),
    st.tuples(st.just(ExpireHold), picks),
    st.tuples(st.just(Refund), picks, st.none() | amounts),
    st.tuples(st.just(Reverse), picks),
    st.tuples(st.just(Adjust), users, st.integers(-60, 60)),
    st.tuples(st.just(TakeBack), users, amounts, st.booleans()),
    st.tuples(st.just(SetLevel), users, st.none() | amounts),
    st.tuples(st.just(Freeze), users),
    st.tuples(st.just(Unfreeze), users),
    st.tuples(st.just(Unfreeze), users),
)


class Clients(RuleBasedStateMachine):
    """Several clients that send batches, repeat themselves, and close keys."""

    book: ClassVar[Ledger]
    seen: ClassVar[Counter[str]]

    @initialize()
    def begin(self) -> None:
        self.model = Model(self.book.now)
        self.user_ids = [new_id() for _ in range(USERS)]
        self.sent: list[Command[Any]] = []
        self.holds: list[tuple[UUID, UUID]] = []
        self.transactions: list[tuple[UUID, UUID]] = []
        self.send_these([(Credit, who, 50) for who in range(USERS - 1)])

    @rule(batch=st.lists(drafts, min_size=1, max_size=6))
    def send(self, batch: list[tuple[Any, ...]]) -> None:
        self.send_these(batch)

    def send_these(self, batch: list[tuple[Any, ...]]) -> None:
        commands = [self._command(*draft) for draft in batch]
        self.sent += commands
        self._compare(commands)

    @rule(who=users, parts=st.integers(1, 3), more=st.integers(0, 2))
    def two_want_what_is_enough_for_one(self, who: int, parts: int, more: int) -> None:
        available = copy_of(self.model.accounts.get(self.user_ids[who])).available_micros
        if available > 0:
            wanted = min(available // parts + more, available)
            self.send_these([(Debit, who, max(wanted, 1))] * (parts + 1))

    @rule(
        who=users,
        life=st.sampled_from(LIVES_S),
        rest=st.integers(0, 9),
        is_dispute=st.booleans(),
        then=st.lists(st.sampled_from([Capture, VoidHold, ExpireHold, Unfreeze]), max_size=3),
        part=st.sampled_from((1, None)),
    )
    def held_money_is_taken_back(
        self,
        who: int,
        life: int,
        rest: int,
        is_dispute: bool,
        then: list[type[Command[Any]]],
        part: int | None,
    ) -> None:
        """What is held, what was held before, or all, and then what its owner or a timer does."""
        account = copy_of(self.model.accounts.get(self.user_ids[who]))
        if account.available_micros > 1 and not account.is_frozen:
            self.send_these([(PlaceHold, who, account.available_micros // 2, life)])
        if account.balance_micros > rest:
            self.send_these([(TakeBack, who, account.balance_micros - rest, is_dispute)])
        newest = len(self.holds) - 1
        for kind in then if self.holds else []:
            hold = (newest, part) if kind is Capture else (newest,)
            self.send_these([(kind, who) if kind is Unfreeze else (kind, *hold)])

    @rule(who=users, life=st.sampled_from(LIVES_S), part=st.sampled_from((1, None)))
    def what_is_not_held_is_taken_back(self, who: int, life: int, part: int | None) -> None:
        """A refund to the card that leaves the hold its money."""
        account = copy_of(self.model.accounts.get(self.user_ids[who]))
        if account.available_micros > 2 and not account.is_frozen:
            held = account.available_micros - 1
            self.send_these([(PlaceHold, who, held, life)])
            newest = len(self.holds) - 1
            self.send_these([(TakeBack, who, 1, False), (Capture, newest, part)])

    @rule(
        who=users,
        life=st.sampled_from(LIVES_S),
        late=st.sampled_from((-1, 0, 1, -30)),
        end=st.sampled_from([Capture, ExpireHold]),
        part=st.sampled_from((1, None)),
    )
    def a_hold_ends_about_when_its_time_is_over(
        self, who: int, life: int, late: int, end: type[Command[Any]], part: int | None
    ) -> None:
        self.send_these([(PlaceHold, who, self.able_to_pay(who), life)])
        self.time_passes(life + late)
        hold = (len(self.holds) - 1, *([part] if end is Capture else []))
        self.send_these([(end, *hold)])

    @rule(who=users, parts=st.lists(amounts, min_size=2, max_size=3))
    def a_purchase_is_refunded_in_parts(self, who: int, parts: list[int]) -> None:
        account = copy_of(self.model.accounts.get(self.user_ids[who]))
        if account.available_micros > 1 and not account.is_frozen:
            self.send_these([(Debit, who, account.available_micros)])
            bought = len(self.transactions) - 1
            self.send_these(
                [(Refund, bought, part % account.available_micros + 1) for part in parts]
            )

    def able_to_pay(self, who: int) -> int:
        """Who owes or is frozen can pay again; what is available, at least 20."""
        account = copy_of(self.model.accounts.get(self.user_ids[who]))
        if account.available_micros < 20:
            self.send_these([(Credit, who, 50 - account.available_micros)])
        if account.is_frozen:
            self.send_these([(Unfreeze, who)])
        return self.model.accounts[self.user_ids[who]].available_micros

    def sell(self, who: int, parties: list[int], error: int = 0) -> list[int]:
        """A purchase with all that is available: as whose it can be corrected, the payer last."""
        available_micros = self.able_to_pay(who)
        before = len(self.transactions)
        self.send_these([(Debit, who, available_micros, parties, error)])
        return list(range(before, len(self.transactions)))

    @rule(who=users, parties=parties, error=errors, parts=st.lists(small, min_size=1, max_size=3))
    def what_several_got_is_refunded(
        self, who: int, parties: list[int], error: int, parts: list[int]
    ) -> None:
        for asked, part in zip(self.sell(who, parties, error), parts, strict=False):
            self.send_these([(Refund, asked, part)] * 2)

    @rule(who=users, parties=parties)
    def what_several_got_is_reversed(self, who: int, parties: list[int]) -> None:
        for asked in self.sell(who, parties)[-1:]:
            self.send_these([(Reverse, asked)])

    @rule(who=users, parties=parties, pick=picks)
    def what_several_got_was_spent(self, who: int, parties: list[int], pick: int) -> None:
        of_it = self.sell(who, parties)
        if of_it:
            spender, _ = self.transactions[of_it[pick % max(len(of_it) - 1, 1)]]
            everything = max(self.model.accounts[spender].available_micros, 1)
            spent = (Debit, self.user_ids.index(spender), everything)
            self.send_these([spent, (Refund, of_it[-1], None)])

    @rule(who=users)
    def what_was_paid_in_is_spent_and_reversed(self, who: int) -> None:
        self.send_these([(Credit, who, 30)])
        paid = len(self.transactions) - 1
        available = copy_of(self.model.accounts.get(self.user_ids[who])).available_micros
        if available > 0:
            self.send_these([(Debit, who, available), (Reverse, paid)])

    @rule(seconds=st.sampled_from((1, 59, 60, 540)))
    def time_passes(self, seconds: int) -> None:
        self.book.now += timedelta(seconds=seconds)
        self.model.now = self.book.now

    @rule(chosen=st.lists(picks, min_size=1, max_size=4))
    def send_again(self, chosen: list[int]) -> None:
        if self.sent:
            self._compare([self.sent[pick % len(self.sent)] for pick in chosen])

    @rule(pick=picks)
    def reuse_a_key(self, pick: int) -> None:
        if self.sent:
            key = self.sent[pick % len(self.sent)].idempotency_key
            user_id = self.user_ids[0]
            self._compare([Credit(idempotency_key=key, user_id=user_id, amount_micros=61, **WORDS)])

    @rule(pick=picks)
    def close_a_key(self, pick: int) -> None:
        keys = [command.idempotency_key for command in self.sent]
        key = [*keys, f"closed:{new_id()}"][pick % (len(keys) + 1)]
        late = Credit(idempotency_key=key, user_id=self.user_ids[0], amount_micros=1, **WORDS)
        self._compare([CloseKey(idempotency_key=key), late])

    @invariant()
    def balances_agree_and_come_to_zero(self) -> None:
        if not hasattr(self, "model"):
            return
        with self.book.database.read() as session:
            wallets = {
                user_id: statements.get_wallet(session, user_id) for user_id in self.model.accounts
            }
            dips = dict(session.execute(DIPS).all())
            assert session.scalar(TOTAL) == 0
        for user_id, expected in self.model.accounts.items():
            wallet = wallets[user_id]
            assert wallet.balance_micros == expected.balance_micros
            assert wallet.held_micros == expected.held_micros
            assert wallet.available_micros == wallet.balance_micros - wallet.held_micros
            assert (wallet.status == "frozen") == expected.is_frozen
            assert wallet.available_micros >= 0 or expected.is_frozen
            assert dips.get(str(user_id), 0) == expected.dips

    def teardown(self) -> None:
        chain.seal(self.book.database)
        verdict = verification.verify(self.book.database)
        assert verdict.first_difference is None

    def _compare(self, commands: list[Any]) -> None:
        outcomes = self.book.post(*commands)
        at_first = [self._account_of(command) for command in commands]
        for command, outcome, first in zip(commands, outcomes, at_first, strict=True):
            self._note(command, outcome)
            before = self._account_of(command)
            expected = self.model.answer(command, _made_id(outcome))
            assert _in_words(outcome) == expected, command
            moment = Moment(self.model, command, expected, before, first)
            for state in [name for name, is_reached in STATES.items() if is_reached(moment)]:
                event(state)
                self.seen[state] += 1

    def _account_of(self, command: Any) -> ModelAccount:
        return copy_of(self.model.accounts.get(getattr(command, "user_id", None)))

    def _note(self, command: Any, outcome: object) -> None:
        if isinstance(outcome, Transaction) and not outcome.replayed:
            owner = getattr(command, "user_id", None) or command.from_user_id
            earners = [share.destination for share in getattr(command, "shares", [])]
            self.transactions += [
                (party, outcome.transaction_id)
                for party in (*earners, owner)
                if isinstance(party, UUID)
            ]
        if isinstance(outcome, Hold) and isinstance(command, PlaceHold):
            self.holds.append((outcome.user_id, outcome.hold_id))

    def _command(self, kind: type[Command[Any]], *values: Any) -> Command[Any]:
        key = f"{kind.method}:{new_id()}"
        return kind(idempotency_key=key, **self._fields(kind, *values))

    def _fields(self, kind: type[Command[Any]], first: int, *rest: Any) -> dict[str, Any]:
        if kind in (Capture, VoidHold, ExpireHold):
            user_id, hold_id = self._pick(self.holds, first)
            amount = {"amount_micros": rest[0]} if rest else {}
            if len(rest) > 1:
                hold = self.model.holds.get(hold_id)
                taken = rest[0] or (hold.amount_micros if hold else 1)
                amount["shares"] = self._shares(taken, *rest[1:])
            return {"user_id": user_id, "hold_id": hold_id, **amount}
        if kind in (Refund, Reverse):
            user_id, transaction_id = self._pick(self.transactions, first)
            place = {"user_id": user_id, "transaction_id": transaction_id}
            return {**place, "amount_micros": rest[0], **WORDS} if rest else {**place, **OPERATOR}
        user_id = self.user_ids[first]
        if kind is Transfer:
            other, amount_micros = rest
            parties = {"from_user_id": user_id, "to_user_id": self.user_ids[other]}
            return {**parties, "amount_micros": amount_micros, **WORDS}
        if kind is TakeBack:
            amount_micros, is_dispute = rest
            taken = {"amount_micros": amount_micros, "is_dispute": is_dispute, "metadata": {}}
            return {"user_id": user_id, **taken, **WORDS}
        if kind in (Freeze, Unfreeze):
            return {"user_id": user_id, **OPERATOR}
        if kind is OpenAccount:
            return {"user_id": user_id}
        if kind is SetLevel:
            return {"user_id": user_id, "threshold_micros": rest[0]}
        if kind is PlaceHold:
            amount_micros, expires_in_s = rest
            placed = {"amount_micros": amount_micros, "expires_in_s": expires_in_s}
            return {"user_id": user_id, **placed, **WORDS}
        words = OPERATOR if kind is Adjust else WORDS
        shares = {"shares": self._shares(*rest)} if len(rest) > 1 else {}
        return {"user_id": user_id, "amount_micros": rest[0], **shares, **words}

    def _shares(self, amount_micros: int, parties: list[int], error: int) -> list[dict[str, Any]]:
        """1, 2, 3 … parts, and all that is left to the last; who would get nothing gets none."""
        places = [*self.user_ids, HouseAccount.FEES, HouseAccount.MARKETPLACE_REVENUE]
        shares, left = [], amount_micros + error
        for number, place in enumerate(parties, start=1):
            part = left if number == len(parties) else min(number * amount_micros // 10, left)
            if part:
                shares.append({"destination": places[place], "amount_micros": part})
            left -= part
        return shares

    def _pick(self, known: list[tuple[UUID, UUID]], pick: int) -> tuple[UUID, UUID]:
        """One that was made, or at times one that does not exist."""
        choices = [*known, (self.user_ids[0], new_id())]
        return choices[pick % len(choices)]


def _made_id(outcome: object) -> UUID | None:
    if isinstance(outcome, Transaction):
        return outcome.transaction_id
    return outcome.hold_id if isinstance(outcome, Hold) else None


def _in_words(outcome: object) -> Answer:
    if isinstance(outcome, ServiceError):
        return (outcome.code,)
    if isinstance(outcome, Transaction):
        return ("moved", outcome.amount_micros, outcome.balance_after_micros)
    if isinstance(outcome, Hold):
        return (outcome.status.value, outcome.amount_micros)
    if isinstance(outcome, StatusChange):
        return (outcome.status.value,)
    if isinstance(outcome, ClosedKey):
        return ("closed", outcome.closed)
    if isinstance(outcome, Level):
        return ("level", outcome.threshold_micros)
    assert isinstance(outcome, Wallet)
    return ("opened",)


def run(book: Ledger, examples: int, steps: int, *, shrink: bool = False) -> None:
    seen: Counter[str] = Counter()
    machine = type("ClientsOfThisLedger", (Clients,), {"book": book, "seen": seen})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not shrink,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        ),
    )
    assert set(STATES) - set(seen) == set()


@pytest.mark.timeout(600)
def test_the_ledger_agrees_with_the_model(own_book: Ledger) -> None:
    run(own_book, examples=25, steps=25)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_ledger_agrees_with_the_model_for_long(own_book: Ledger) -> None:
    run(own_book, examples=1_000, steps=60, shrink=True)
