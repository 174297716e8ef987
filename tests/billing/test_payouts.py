"""Payouts of what was earned, with the real wallet, on a clock that is set."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from chassis import errands
from chassis.client import RpcClient
from chassis.database import Connected
from contracts.billing import (
    ListPayouts,
    MarkPayoutPaid,
    PayoutPage,
    PayoutStatus,
    RefusePayout,
    RequestPayout,
)
from contracts.errors import (
    AccountFrozen,
    BadRequest,
    Conflict,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
)
from contracts.wallet import (
    Capture,
    Debit,
    Freeze,
    GetWallet,
    GetWallets,
    HouseAccount,
    PlaceHold,
    Statement,
    TransactionKind,
    Unfreeze,
    VoidHold,
)
from services.billing.models import PayoutRow
from services.billing.payouts import carrying_out, requests
from services.billing.payouts.carrying_out import Payouts
from services.billing.payouts.queries import list_payouts
from tests.billing.conftest import RULES, at, quoted
from tests.billing.test_earnings import Market
from tests.billing.test_lost_answers import LOST, is_a
from tests.billing.test_purchases import events
from tests.billing.test_refunds import Desk
from tests.crashes import Died, dies_at
from tests.locks import done_after
from tests.system import System

USD = 1_000_000
Status = PayoutStatus


class Seller(Market):
    """Somebody who has earned $90, and asks to be paid."""

    def __init__(self, stack: System, database: Connected) -> None:
        super().__init__(stack, database)
        self.user_id = uuid4()
        self.buys(quoted(100 * USD, provider_id=self.user_id))

    @property
    def payouts(self) -> Payouts:
        return Payouts(self.database, cast(RpcClient, self.wire), self.rules, lambda: self.now)

    def asks(self, amount_micros: int = 50 * USD, key: str = "key") -> PayoutRow:
        command = RequestPayout(
            idempotency_key=key, user_id=self.user_id, amount_micros=amount_micros
        )
        with self.database.begin() as session:
            payout_id = requests.request(session, at(self.now), command, self.rules).payout_id
        return self._carried_out(payout_id)

    def is_paid(self, row: PayoutRow, reference: str = "SEPA 7", key: str = "paid") -> PayoutRow:
        command = MarkPayoutPaid(
            idempotency_key=key, payout_id=row.payout_id, reference=reference, actor="operator-7"
        )
        with self.database.begin() as session:
            requests.mark_paid(session, at(self.now), command)
        return self._carried_out(row.payout_id)

    def is_refused(self, row: PayoutRow, reason: str = "No account.") -> PayoutRow:
        command = RefusePayout(
            idempotency_key="refused", payout_id=row.payout_id, reason=reason, actor="operator-7"
        )
        with self.database.begin() as session:
            requests.refuse(session, at(self.now), command)
        return self._carried_out(row.payout_id)

    def _carried_out(self, payout_id: UUID) -> PayoutRow:
        self.payouts.carry_out(payout_id)
        return self.sees(payout_id)

    def sees(self, payout_id: UUID) -> PayoutRow:
        with self.database.read() as session:
            return session.get_one(PayoutRow, payout_id)

    def runs(self, later: timedelta) -> None:
        self.now += later
        self.payouts.run()

    def lists(self, user_id: UUID | None, **fields: Any) -> PayoutPage:
        with self.database.read() as session:
            return list_payouts(session, ListPayouts(user_id=user_id, **fields))

    @property
    def money(self) -> tuple[int, int]:
        """What the wallet has, and what of it is set aside, in dollars."""
        wallet = self.rpc.call(GetWallet(user_id=self.user_id))
        return wallet.balance_micros // USD, wallet.held_micros // USD

    def freezes(self) -> None:
        freeze = Freeze(
            idempotency_key=f"{uuid4()}", user_id=self.user_id, reason="-", actor="a test"
        )
        self.rpc.call(freeze)

    def thaws(self) -> None:
        thaw = Unfreeze(
            idempotency_key=f"{uuid4()}", user_id=self.user_id, reason="-", actor="a test"
        )
        self.rpc.call(thaw)


@pytest.fixture
def seller(stack: System, database: Connected) -> Seller:
    return Seller(stack, database)


# Asking.


def test_what_is_asked_for_is_set_aside(seller: Seller) -> None:
    row = seller.asks()

    assert (row.status, row.due_at, seller.money) == (Status.HELD, None, (90, 50))


def test_no_more_than_was_earned_is_paid_out_whatever_else_is_in_the_wallet(
    seller: Seller,
) -> None:
    seller.gets(seller.user_id, 100 * USD)
    seller.asks(50 * USD, key="first")

    with pytest.raises(InsufficientFunds) as refusal:
        seller.asks(40 * USD + 10_000, key="second")
    assert refusal.value.details == (str(40 * USD), "10000")
    seller.asks(40 * USD, key="third")

    assert seller.money == (190, 90)
    assert seller.lists(seller.user_id).payable_micros == 0


def test_what_somebody_buys_of_himself_is_not_earned(seller: Seller) -> None:
    seller.gets(seller.user_id, 100 * USD)
    seller.buys(quoted(100 * USD, provider_id=seller.user_id), buyer_id=seller.user_id)

    assert seller.money == (180, 0)
    assert seller.lists(seller.user_id).payable_micros == 90 * USD


def test_what_was_earned_and_is_spent_is_declined(seller: Seller) -> None:
    hold = PlaceHold(
        idempotency_key=f"{uuid4()}",
        user_id=seller.user_id,
        amount_micros=60 * USD,
        description="Something else",
    )
    seller.rpc.call(hold)

    row = seller.asks()

    assert (row.status, row.status_code, row.due_at) == (
        Status.DECLINED,
        "insufficient_funds",
        None,
    )
    assert seller.lists(seller.user_id).payable_micros == 90 * USD


def test_who_is_declined_hears_why_whenever_he_asks_under_that_key(seller: Seller) -> None:
    seller.freezes()
    row = seller.asks()
    seller.thaws()

    for _ in range(2):
        with pytest.raises(AccountFrozen, match="frozen"):
            seller.payouts.carried_out(row.payout_id)

    assert seller.asks().status == Status.DECLINED
    assert seller.asks(key="another").status == Status.HELD


def test_what_is_set_aside_after_another_try_was_declined_is_released(
    seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Payouts._ask
    tries: list[PayoutRow] = []

    def ask_too_late(payouts: Payouts, row: PayoutRow) -> object:
        tries.append(row)
        if len(tries) == 1:
            seller.freezes()
            payouts.carry_out(row.payout_id)
            seller.thaws()
        return ask(payouts, row)

    monkeypatch.setattr(Payouts, "_ask", ask_too_late)

    assert (seller.asks().status, seller.money) == (Status.DECLINED, (90, 0))
    assert len(tries) == 2


def test_from_a_frozen_wallet_nothing_is_paid_out(seller: Seller) -> None:
    seller.freezes()

    assert (seller.asks().status, seller.money) == (Status.DECLINED, (90, 0))


@pytest.mark.parametrize("amount_micros", [10 * USD - 10_000, 10 * USD + 1])
def test_too_little_and_a_part_of_a_cent_are_refused(seller: Seller, amount_micros: int) -> None:
    with pytest.raises(BadRequest):
        seller.asks(amount_micros)
    seller.asks(10 * USD)

    assert seller.money == (90, 10)


def test_the_same_key_asks_once_and_for_another_amount_is_refused(seller: Seller) -> None:
    first = seller.asks()

    again = seller.asks()

    assert (again.payout_id, seller.money) == (first.payout_id, (90, 50))
    with pytest.raises(IdempotencyConflict):
        seller.asks(20 * USD)


def test_two_at_once_do_not_ask_for_more_than_was_earned(seller: Seller) -> None:
    command = RequestPayout(idempotency_key="first", user_id=seller.user_id, amount_micros=50 * USD)

    def second() -> str:
        try:
            return seller.asks(50 * USD, key="second").status
        except InsufficientFunds as refusal:
            return refusal.code

    said = done_after(
        seller.database,
        lambda session: requests.request(session, at(seller.now), command, RULES),
        second,
    )

    assert said == "insufficient_funds"


def test_while_something_is_owed_nothing_is_paid_out(stack: System, database: Connected) -> None:
    desk = Desk(stack, database)
    seller = Seller(stack, database)
    purchase_id = desk.buys(quoted(100 * USD, provider_id=seller.user_id))
    desk.spends(seller.user_id, 150 * USD)
    desk.support(purchase_id)

    with pytest.raises(Conflict, match=r"You owe \$60\.00"):
        seller.asks(20 * USD)

    listed = seller.lists(seller.user_id)
    assert (listed.owed_micros, listed.payable_micros) == (60 * USD, 90 * USD)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_who_owes_and_is_frozen_hears_of_both(
    stack: System, database: Connected, is_frozen: bool
) -> None:
    desk, seller = Desk(stack, database), Seller(stack, database)
    purchase_id = desk.buys(quoted(100 * USD, provider_id=seller.user_id))
    desk.spends(seller.user_id, 150 * USD)
    desk.support(purchase_id)
    if is_frozen:
        seller.freezes()

    command = RequestPayout(idempotency_key="key", user_id=seller.user_id, amount_micros=20 * USD)
    with pytest.raises(Conflict, match=r"You owe \$60\.00") as refusal:
        requests.ask(seller.payouts, command)

    assert ("frozen" in str(refusal.value)) == is_frozen


def test_while_the_wallet_says_nothing_a_refusal_names_what_is_known(
    stack: System, database: Connected
) -> None:
    desk, seller = Desk(stack, database), Seller(stack, database)
    purchase_id = desk.buys(quoted(100 * USD, provider_id=seller.user_id))
    desk.spends(seller.user_id, 150 * USD)
    desk.support(purchase_id)
    seller.wire.lose(is_a(GetWallets), LOST[0])

    command = RequestPayout(idempotency_key="key", user_id=seller.user_id, amount_micros=20 * USD)
    with pytest.raises(Conflict, match=r"You owe \$60\.00"):
        requests.ask(seller.payouts, command)


def test_an_operator_sees_what_is_owed_by_who_asked_before(
    stack: System, database: Connected
) -> None:
    desk, other = Desk(stack, database), Seller(stack, database)
    seller = Seller(stack, database)
    purchase_id = desk.buys(quoted(10 * USD, provider_id=seller.user_id))
    row, others = seller.asks(90 * USD), other.asks()
    desk.spends(seller.user_id, 9 * USD)
    desk.support(purchase_id)

    owed = {each.payout_id: each.owed_micros for each in seller.lists(None).payouts}

    assert owed == {row.payout_id: 9 * USD, others.payout_id: 0}


def test_who_has_earned_nothing_is_paid_nothing(seller: Seller) -> None:
    seller.user_id = seller.buyer_id

    with pytest.raises(InsufficientFunds):
        seller.asks()


# Its end.


def test_what_is_sent_is_taken_and_told(seller: Seller) -> None:
    row = seller.is_paid(seller.asks())

    assert (row.status, row.reference, row.actor) == (Status.PAID, "SEPA 7", "operator-7")
    assert seller.money == (40, 0)
    page = seller.rpc.call(Statement(user_id=seller.user_id, kinds=[TransactionKind.PAYOUT]))
    (taken,) = page.transactions
    assert seller.legs(taken.transaction_id) == {
        seller.user_id: -50 * USD,
        HouseAccount.PAYOUTS: 50 * USD,
    }
    (told,) = events(seller.database, "payout_paid")
    assert (told["user_id"], told["amount_micros"]) == (str(seller.user_id), 50 * USD)
    assert told["reference"] == "SEPA 7"
    assert seller.lists(seller.user_id).payable_micros == 40 * USD


def test_what_is_refused_is_free_again_and_told(seller: Seller) -> None:
    row = seller.is_refused(seller.asks())

    assert (row.status, row.reason, seller.money) == (Status.REFUSED, "No account.", (90, 0))
    (told,) = events(seller.database, "payout_refused")
    assert (told["user_id"], told["reason"]) == (str(seller.user_id), "No account.")
    assert seller.lists(seller.user_id).payable_micros == 90 * USD


def test_an_end_is_final_and_the_same_key_finds_it(seller: Seller) -> None:
    row = seller.asks()
    paid = seller.is_paid(row)

    again = seller.is_paid(row)

    assert (again.status, again.changed_at) == (paid.status, paid.changed_at)
    assert seller.money == (40, 0)
    with pytest.raises(IdempotencyConflict):
        seller.is_paid(row, reference="SEPA 8")
    with pytest.raises(Conflict, match="is paid"):
        seller.is_paid(row, key="other")
    with pytest.raises(Conflict):
        seller.is_refused(row)


def test_what_is_sent_is_not_refused_at_the_same_moment(seller: Seller) -> None:
    row = seller.asks()
    command = MarkPayoutPaid(
        idempotency_key="paid", payout_id=row.payout_id, reference="SEPA 7", actor="operator-7"
    )

    def refuses() -> str:
        try:
            return seller.is_refused(row).status
        except Conflict as refusal:
            return str(refusal)

    said = done_after(
        seller.database,
        lambda session: requests.mark_paid(session, at(seller.now), command),
        refuses,
    )

    assert said == "This payout is paying: it cannot become refusing."


def test_an_answer_that_comes_late_changes_no_payout_that_has_gone_on(
    seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = seller.is_paid(seller.asks())
    seller.wire.lose(is_a(PlaceHold), "before it was heard")
    other = seller.asks(20 * USD, key="other")

    def overtaken(name: str) -> None:
        if name == "billing.payout_asked":
            monkeypatch.undo()
            seller.payouts.carry_out(other.payout_id)
            seller.is_paid(other, key="other paid")

    monkeypatch.setattr(errands, "crash_point", overtaken)
    seller.payouts.carry_out(other.payout_id)

    assert (row.status, seller.sees(other.payout_id).status) == (Status.PAID, Status.PAID)
    assert seller.money == (20, 0)


def test_what_is_not_held_is_neither_sent_nor_refused(seller: Seller) -> None:
    seller.freezes()
    declined = seller.asks()

    with pytest.raises(Conflict):
        seller.is_paid(declined)
    with pytest.raises(Conflict):
        seller.is_refused(declined)
    with pytest.raises(NotFound):
        seller.is_paid(PayoutRow(payout_id=uuid4()))


def test_each_move_says_when_it_was(seller: Seller) -> None:
    held = seller.asks()
    seller.now += timedelta(days=1)

    assert (held.changed_at, seller.is_paid(held).changed_at) == (held.created_at, seller.now)


def test_what_was_sent_while_the_wallet_is_frozen_is_taken_once_it_is_open(
    seller: Seller,
) -> None:
    row = seller.asks()
    seller.freezes()
    waiting = seller.is_paid(row)
    seller.thaws()

    seller.runs(carrying_out.RETRY - timedelta(microseconds=1))
    still = seller.sees(row.payout_id).status
    seller.runs(timedelta(microseconds=1))

    assert (waiting.status, still) == (Status.PAYING, Status.PAYING)
    assert (seller.sees(row.payout_id).status, seller.money) == (Status.PAID, (40, 0))


def test_what_the_wallet_has_let_go_of_already_is_refused_all_the_same(seller: Seller) -> None:
    row = seller.asks()
    assert row.hold_id is not None
    seller.rpc.call(
        VoidHold(idempotency_key=f"{uuid4()}", user_id=seller.user_id, hold_id=row.hold_id)
    )

    assert (seller.is_refused(row).status, seller.money) == (Status.REFUSED, (90, 0))


def test_what_was_sent_is_taken_though_the_wallet_has_let_go_of_it(seller: Seller) -> None:
    row = seller.asks()
    assert row.hold_id is not None
    seller.rpc.call(
        VoidHold(idempotency_key=f"{uuid4()}", user_id=seller.user_id, hold_id=row.hold_id)
    )
    seller.wire.lose(is_a(Debit), "after it was done")

    waiting = seller.is_paid(row).status
    seller.runs(carrying_out.DUE.lease)

    assert (waiting, seller.sees(row.payout_id).status) == (Status.PAYING, Status.PAID)
    assert seller.money == (40, 0)


# Whatever crashes.


@pytest.mark.parametrize("when", LOST)
@pytest.mark.parametrize(
    ("call", "end", "money"),
    [
        (PlaceHold, Status.HELD, (90, 50)),
        (Capture, Status.PAID, (40, 0)),
        (VoidHold, Status.REFUSED, (90, 0)),
    ],
)
def test_an_answer_that_is_lost_comes_to_one_effect(
    seller: Seller, call: type, end: Status, money: tuple[int, int], when: str
) -> None:
    seller.wire.lose(is_a(call), when)
    act: Callable[[PayoutRow], PayoutRow] = {
        Status.HELD: lambda row: row,
        Status.PAID: seller.is_paid,
        Status.REFUSED: seller.is_refused,
    }[end]

    row = act(seller.asks())
    seller.runs(carrying_out.DUE.lease - timedelta(microseconds=1))
    early = seller.sees(row.payout_id).status
    seller.runs(timedelta(microseconds=1))
    seller.runs(timedelta(days=1))

    assert (early, seller.sees(row.payout_id).status) == (row.status, end)
    assert row.status != end
    assert seller.money == money
    assert len(events(seller.database, "payout_paid")) == (end is Status.PAID)


@pytest.mark.parametrize("point", ["billing.payout_asked", "billing.payout_recorded"])
def test_a_crash_at_any_point_comes_to_one_payout(
    seller: Seller, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    dies_at(monkeypatch, errands, point)
    with pytest.raises(Died):
        seller.asks()
    (row,) = seller.lists(None).payouts
    seller.runs(carrying_out.DUE.lease)
    dies_at(monkeypatch, errands, point)
    with pytest.raises(Died):
        seller.is_paid(seller.sees(row.payout_id))

    seller.runs(carrying_out.DUE.lease)

    assert (seller.sees(row.payout_id).status, seller.money) == (Status.PAID, (40, 0))
    assert len(events(seller.database, "payout_paid")) == 1


def test_one_that_the_wallet_refuses_holds_up_no_other(stack: System, database: Connected) -> None:
    frozen, sound = Seller(stack, database), Seller(stack, database)
    first, second = frozen.asks(), sound.asks()
    frozen.freezes()
    for seller, row in ((frozen, first), (sound, second)):
        seller.wire.lose(is_a(Capture), "before it was heard")
        seller.is_paid(row)

    sound.runs(carrying_out.DUE.lease)

    states = [sound.sees(row.payout_id).status for row in (first, second)]
    assert states == [Status.PAYING, Status.PAID]


# Lists.


def test_each_sees_their_own_and_an_operator_all(stack: System, database: Connected) -> None:
    ann, ben = Seller(stack, database), Seller(stack, database)
    rows = [ann.asks(), ben.asks(), ann.asks(20 * USD, key="second")]
    ann.is_refused(rows[2])

    own = ann.lists(ann.user_id).payouts
    every = ann.lists(None).payouts
    held = ann.lists(None, statuses=[Status.HELD]).payouts

    assert [each.payout_id for each in own] == [rows[2].payout_id, rows[0].payout_id]
    assert [each.payout_id for each in every] == [row.payout_id for row in reversed(rows)]
    assert [each.payout_id for each in held] == [rows[1].payout_id, rows[0].payout_id]


def test_pages_of_payouts_end(seller: Seller) -> None:
    for number in range(3):
        seller.asks(10 * USD, key=f"{number}")

    first = seller.lists(seller.user_id, limit=2)
    second = seller.lists(seller.user_id, limit=2, cursor=first.next_cursor)

    assert (len(first.payouts), len(second.payouts), second.next_cursor) == (2, 1, None)


def test_the_database_takes_no_unfinished_payout_that_nobody_takes_up(seller: Seller) -> None:
    row = seller.asks()

    with pytest.raises(IntegrityError), seller.database.begin() as session:
        session.execute(
            update(PayoutRow)
            .where(PayoutRow.payout_id == row.payout_id)
            .values(status=Status.PAYING, due_at=None)
        )
