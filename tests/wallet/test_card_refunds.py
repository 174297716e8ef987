"""Credit that goes back to a card: set aside, captured with the take-back, or released."""

from uuid import UUID

import pytest

from chassis.identifiers import new_id
from contracts.errors import KeyClosed, NotFound
from contracts.keys import card_refund_key
from contracts.topup import CardRefundRefused, TopupPaid, TopupReversed
from contracts.wallet import (
    AccountStatus,
    GetUnusedTopups,
    HoldStatus,
    HouseAccount,
    PlaceHold,
    Refund,
    Reverse,
    TransactionKind,
)
from services.wallet import topup_events, unused, verification
from tests.wallet.conftest import USD, Ledger, credit, debit, transfer
from tests.wallet.test_holds import money, place, placing, voiding
from tests.wallet.test_topups import handle, paid, restored


class Buyer:
    """Somebody with a wallet, and what happens to it, in dollars."""

    def __init__(self, book: Ledger) -> None:
        self.book = book
        self.user_id = book.user()

    def buys_credits(self, dollars: int) -> UUID:
        event: TopupPaid = paid(self.user_id, dollars * USD, occurred_at=self.book.now)
        handle(self.book, topup_events.credit, event)
        return event.topup_id

    def spends(self, dollars: int) -> UUID:
        return self.book.transaction(debit(self.user_id, dollars * USD)).transaction_id

    def gets(self, dollars: int) -> UUID:
        gift = {"kind": TransactionKind.MIGRATION, "origin": HouseAccount.PROMOTIONS}
        command = credit(self.user_id, dollars * USD).model_copy(update=gift)
        return self.book.transaction(command).transaction_id

    def gives_back(self, topup_id: UUID, dollars: int, **fields: object) -> TopupReversed:
        event = TopupReversed(
            event_id=new_id(),
            occurred_at=self.book.now,
            user_id=self.user_id,
            topup_id=topup_id,
            reversal_id=f"re_{new_id()}",
            amount_micros=dollars * USD,
            description="Refunded to the card",
            **{"is_dispute": False, **fields},
        )
        handle(self.book, topup_events.take_back, event)
        return event

    def unused(self, *topup_ids: UUID) -> list[int]:
        asked = GetUnusedTopups(user_id=self.user_id, topup_ids=list(topup_ids))
        with self.book.database.read() as session:
            found = unused.unused(session, asked)
        assert [topup.topup_id for topup in found.topups] == list(topup_ids)
        return [topup.unused_micros // USD for topup in found.topups]


@pytest.fixture
def buyer(book: Ledger) -> Buyer:
    return Buyer(book)


# What was set aside.


def test_what_was_set_aside_is_taken_once_and_nothing_else(own_book: Ledger) -> None:
    buyer = Buyer(own_book)
    topup_id = buyer.buys_credits(25)
    hold = place(own_book, buyer.user_id, 20 * USD)
    buyer.spends(5)

    event = buyer.gives_back(topup_id, 20, hold_id=hold.hold_id)
    handle(own_book, topup_events.take_back, event)

    assert money(own_book, buyer.user_id) == (0, 0, 0)
    assert own_book.wallet(buyer.user_id).status is AccountStatus.OPEN
    with own_book.database.read() as session:
        (status,) = session.connection().exec_driver_sql("SELECT status FROM holds").one()
    assert status == HoldStatus.CAPTURED
    assert verification.verify(own_book.database).first_difference is None


def test_what_is_gone_is_taken_though_its_hold_has_ended(own_book: Ledger) -> None:
    buyer = Buyer(own_book)
    topup_id = buyer.buys_credits(25)
    hold = place(own_book, buyer.user_id, 20 * USD)
    own_book.do(voiding(hold))
    buyer.spends(10)

    buyer.gives_back(topup_id, 20, hold_id=hold.hold_id)

    assert money(own_book, buyer.user_id) == (-5, 0, -5)
    assert own_book.wallet(buyer.user_id).status is AccountStatus.FROZEN
    assert verification.verify(own_book.database).first_difference is None


def test_more_than_was_set_aside_leaves_the_hold_alone(own_book: Ledger) -> None:
    buyer = Buyer(own_book)
    topup_id = buyer.buys_credits(25)
    hold = place(own_book, buyer.user_id, 5 * USD)

    buyer.gives_back(topup_id, 10, hold_id=hold.hold_id)

    assert money(own_book, buyer.user_id) == (15, 5, 10)
    assert verification.verify(own_book.database).first_difference is None


def test_nobodys_hold_but_ones_own_is_captured(buyer: Buyer) -> None:
    other = Buyer(buyer.book)
    other.buys_credits(25)
    hold = place(buyer.book, other.user_id, 20 * USD)

    buyer.gives_back(buyer.buys_credits(25), 20, hold_id=hold.hold_id)

    assert money(buyer.book, other.user_id) == (25, 20, 5)
    assert money(buyer.book, buyer.user_id) == (5, 0, 5)


def refused(buyer: Buyer, hold_id: UUID | None, refund_id: UUID | None = None) -> CardRefundRefused:
    return CardRefundRefused(
        event_id=new_id(),
        occurred_at=buyer.book.now,
        user_id=buyer.user_id,
        refund_id=refund_id or new_id(),
        topup_id=new_id(),
        amount_micros=20 * USD,
        reason="The card is gone.",
        hold_id=hold_id,
    )


def test_what_does_not_go_back_is_free_again_once(buyer: Buyer) -> None:
    buyer.buys_credits(25)
    hold = place(buyer.book, buyer.user_id, 20 * USD)
    event = refused(buyer, hold.hold_id)
    for _ in range(2):
        handle(buyer.book, topup_events.release, event)

    assert money(buyer.book, buyer.user_id) == (25, 0, 25)
    # What has ended already, or was never placed, is in nobody's way.
    handle(buyer.book, topup_events.release, refused(buyer, hold.hold_id))
    handle(buyer.book, topup_events.release, refused(buyer, None))


def setting_aside(buyer: Buyer, refund_id: UUID) -> PlaceHold:
    key = card_refund_key(refund_id)
    return placing(buyer.user_id, 20 * USD).model_copy(update={"idempotency_key": key})


def test_of_two_who_ask_for_it_one_declined_what_the_other_set_aside(buyer: Buyer) -> None:
    """The money came between the two: who was declined tells of no hold."""
    buyer.buys_credits(25)
    refund_id = new_id()
    buyer.book.do(setting_aside(buyer, refund_id))
    handle(buyer.book, topup_events.release, refused(buyer, None, refund_id))

    assert money(buyer.book, buyer.user_id) == (25, 0, 25)


def test_who_asks_for_it_after_it_was_declined_sets_nothing_aside(buyer: Buyer) -> None:
    buyer.buys_credits(25)
    refund_id = new_id()
    for _ in range(2):
        handle(buyer.book, topup_events.release, refused(buyer, None, refund_id))

    with pytest.raises(KeyClosed):
        buyer.book.do(setting_aside(buyer, refund_id))
    assert money(buyer.book, buyer.user_id) == (25, 0, 25)


def test_a_wallet_that_lacked_only_what_was_set_aside_is_open_once_that_is_free(
    buyer: Buyer,
) -> None:
    topup_id = buyer.buys_credits(25)
    hold = place(buyer.book, buyer.user_id, 20 * USD)
    buyer.gives_back(topup_id, 25)
    assert buyer.book.wallet(buyer.user_id).status is AccountStatus.FROZEN
    handle(buyer.book, topup_events.release, refused(buyer, hold.hold_id))

    assert money(buyer.book, buyer.user_id) == (0, 0, 0)
    assert buyer.book.wallet(buyer.user_id).status is AccountStatus.OPEN


# What is left of a top-up.


def test_the_oldest_credit_is_spent_first(buyer: Buyer) -> None:
    buyer.gets(10)
    first = buyer.buys_credits(20)
    buyer.gets(10)
    second = buyer.buys_credits(20)

    assert buyer.unused(first, second) == [20, 20]
    for spent, left in ((10, [20, 20]), (15, [5, 20]), (10, [0, 20]), (10, [0, 15])):
        buyer.spends(spent)
        assert buyer.unused(first, second) == left


def test_a_gift_that_came_later_is_no_part_of_a_topup(buyer: Buyer) -> None:
    topup_id = buyer.buys_credits(20)
    buyer.gets(50)
    buyer.spends(18)

    assert buyer.unused(topup_id) == [2]


def test_what_was_given_back_for_a_purchase_was_never_spent(buyer: Buyer) -> None:
    earlier = buyer.buys_credits(5)
    before = buyer.spends(5)
    topup_id = buyer.buys_credits(20)
    after = buyer.spends(15)
    for transaction_id, dollars in ((before, 2), (after, 10)):
        buyer.book.do(
            Refund(
                idempotency_key=f"{new_id()}",
                user_id=buyer.user_id,
                transaction_id=transaction_id,
                amount_micros=dollars * USD,
                description="Refund",
            )
        )

    assert buyer.unused(topup_id, earlier) == [17, 0]


def test_a_gift_that_was_a_mistake_takes_nothing_from_a_topup_before_it(buyer: Buyer) -> None:
    first = buyer.buys_credits(20)
    buyer.gets(50)
    second = buyer.buys_credits(20)
    buyer.spends(55)
    assert buyer.unused(first, second) == [0, 20]
    buyer.book.do(
        Reverse(
            idempotency_key=f"{new_id()}",
            user_id=buyer.user_id,
            transaction_id=buyer.gets(3),
            reason="A mistake.",
            actor="operator-7",
        )
    )
    assert buyer.unused(first, second) == [0, 20]


def test_what_went_back_to_a_card_is_taken_from_its_own_topup(buyer: Buyer) -> None:
    first, second, third = (buyer.buys_credits(20) for _ in range(3))
    buyer.spends(5)
    back = buyer.gives_back(second, 20)
    assert buyer.unused(first, second, third) == [15, 0, 20]

    handle(buyer.book, topup_events.restore, restored(back))
    assert buyer.unused(first, second, third) == [15, 20, 20]
    buyer.gives_back(first, 15)
    assert buyer.unused(first, second, third) == [0, 20, 20]


def test_what_was_sent_to_somebody_else_is_spent(buyer: Buyer) -> None:
    other = Buyer(buyer.book)
    topup_id = buyer.buys_credits(20)
    buyer.book.do(transfer(buyer.user_id, other.user_id, 15 * USD))

    assert (buyer.unused(topup_id), other.unused(topup_id)) == ([5], [0])


def test_what_is_held_is_not_available_and_not_spent_either(buyer: Buyer) -> None:
    topup_id = buyer.buys_credits(20)
    buyer.book.do(placing(buyer.user_id, 15 * USD))
    asked = GetUnusedTopups(user_id=buyer.user_id, topup_ids=[topup_id])

    with buyer.book.database.read() as session:
        found = unused.unused(session, asked)

    assert (found.topups[0].unused_micros, found.available_micros) == (20 * USD, 5 * USD)


def test_nobody_has_no_unused_topups(book: Ledger) -> None:
    with book.database.read() as session, pytest.raises(NotFound):
        unused.unused(session, GetUnusedTopups(user_id=new_id(), topup_ids=[new_id()]))
