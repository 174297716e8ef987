"""What the wallet does when the top-up service tells it something."""

import pytest

from chassis.identifiers import new_id
from contracts.errors import AccountFrozen, Conflict
from contracts.topup import (
    AutoTopupSettingsChanged,
    TopupKind,
    TopupPaid,
    TopupRestored,
    TopupReversed,
    Trigger,
)
from contracts.wallet import AccountStatus, Freeze, PlaceHold, SetLevel, Statement, Unfreeze
from services.wallet import statements, topup_events
from services.wallet.rules import reclaims
from tests.wallet.conftest import USD, Ledger, credit, debit
from tests.wallet.test_holds import capturing, place, voiding


def paid(user_id, amount_micros=25 * USD, **fields):
    return TopupPaid(
        event_id=new_id(),
        occurred_at=fields.pop("occurred_at"),
        user_id=user_id,
        topup_id=fields.pop("topup_id", new_id()),
        kind=fields.pop("kind", TopupKind.MANUAL),
        amount_micros=amount_micros,
        payment_id="pi_1",
        card_brand=fields.pop("card_brand", "visa"),
        card_last4=fields.pop("card_last4", "4242"),
        **fields,
    )


def reversed_topup(user_id, amount_micros, now, *, is_dispute):
    return TopupReversed(
        event_id=new_id(),
        occurred_at=now,
        user_id=user_id,
        topup_id=new_id(),
        reversal_id=f"re_{new_id()}",
        amount_micros=amount_micros,
        is_dispute=is_dispute,
        description="Disputed: fraudulent" if is_dispute else "Refunded to the card",
    )


def restored(event: TopupReversed):
    return TopupRestored(
        **{**event.model_dump(exclude={"event_id"}), "description": "The dispute was won"},
        event_id=new_id(),
    )


def handle(book: Ledger, handler, event):
    with book.database.begin() as session:
        handler(session, book.now, event)


def newest(book: Ledger, user_id):
    with book.database.read() as session:
        return statements.statement(session, Statement(user_id=user_id)).transactions[0]


def test_a_paid_topup_opens_the_wallet_and_credits_it(book: Ledger):
    user_id = new_id()

    handle(book, topup_events.credit, paid(user_id, occurred_at=book.now))

    assert book.balance(user_id) == 25 * USD
    assert newest(book, user_id).kind == "topup"


@pytest.mark.parametrize(
    ("fields", "description"),
    [
        ({}, "Top-up from Visa ending in 4242"),
        ({"kind": TopupKind.AUTO}, "Automatic top-up from Visa ending in 4242"),
        ({"card_brand": "", "card_last4": ""}, "Top-up from a card"),
    ],
)
def test_the_statement_says_what_a_topup_was_paid_with(book: Ledger, fields, description):
    user_id = new_id()

    handle(book, topup_events.credit, paid(user_id, occurred_at=book.now, **fields))

    assert newest(book, user_id).description == description


def test_a_topup_that_is_told_twice_is_credited_once(book: Ledger):
    user_id, topup_id = new_id(), new_id()
    for _ in range(2):
        handle(book, topup_events.credit, paid(user_id, topup_id=topup_id, occurred_at=book.now))

    assert book.balance(user_id) == 25 * USD


def test_a_topup_that_is_told_again_is_announced_again(book: Ledger):
    user_id, topup_id = new_id(), new_id()
    handle(book, topup_events.credit, paid(user_id, topup_id=topup_id, occurred_at=book.now))
    book.do(debit(user_id, USD))
    handle(book, topup_events.credit, paid(user_id, topup_id=topup_id, occurred_at=book.now))

    announced = book.events(user_id, "wallet_credited")

    assert [event["topup_id"] for event in announced] == [str(topup_id)] * 2
    assert [event["available_micros"] for event in announced] == [25 * USD, 24 * USD]
    assert [event["entry_number"] for event in announced] == [1, 1]


def test_an_automatic_topup_records_what_triggered_it_and_the_threshold(book: Ledger):
    user_id = new_id()
    event = paid(
        user_id,
        occurred_at=book.now,
        kind=TopupKind.AUTO,
        trigger=Trigger.PURCHASE,
        trigger_reference="purchase 7",
        threshold_micros=10 * USD,
    )

    handle(book, topup_events.credit, event)

    transaction = newest(book, user_id)
    assert transaction.kind == "auto_topup"
    assert transaction.metadata == {
        "topup_id": str(event.topup_id),
        "payment_id": "pi_1",
        "trigger": "purchase",
        "trigger_reference": "purchase 7",
        "threshold_micros": str(10 * USD),
        "card_brand": "visa",
        "card_last4": "4242",
    }


def test_the_announcement_of_a_credit_names_the_topup(book: Ledger):
    user_id = new_id()
    event = paid(user_id, occurred_at=book.now)

    handle(book, topup_events.credit, event)

    (announced,) = book.events(user_id, "wallet_credited")
    assert announced["topup_id"] == str(event.topup_id)


def test_a_dispute_takes_the_credit_back_below_zero_and_freezes_the_wallet(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(debit(user_id, 20 * USD))

    handle(
        book, topup_events.take_back, reversed_topup(user_id, 25 * USD, book.now, is_dispute=True)
    )

    wallet = book.wallet(user_id)
    assert (wallet.balance_micros, wallet.status) == (-20 * USD, "frozen")
    (event,) = book.events(user_id, "account_froze")
    assert event["reason"] == "Disputed: fraudulent"


def test_a_frozen_wallet_pays_nothing_and_still_takes_money(book: Ledger):
    user_id = book.user(25 * USD)
    handle(
        book, topup_events.take_back, reversed_topup(user_id, 5 * USD, book.now, is_dispute=True)
    )
    handle(book, topup_events.credit, paid(user_id, occurred_at=book.now))

    with pytest.raises(AccountFrozen, match=r"paid from it\. Please contact"):
        book.do(debit(user_id, USD))

    assert book.balance(user_id) == 45 * USD


def test_who_is_frozen_and_in_debt_hears_of_both(book: Ledger):
    user_id = book.user(5 * USD)
    handle(
        book, topup_events.take_back, reversed_topup(user_id, 25 * USD, book.now, is_dispute=True)
    )

    with pytest.raises(AccountFrozen, match=r"frozen.*It is \$20\.00 below zero as well\."):
        book.do(debit(user_id, USD))


def test_a_refund_to_the_card_that_the_wallet_covers_does_not_freeze_it(book: Ledger):
    user_id = book.user(25 * USD)

    handle(
        book, topup_events.take_back, reversed_topup(user_id, 10 * USD, book.now, is_dispute=False)
    )

    wallet = book.wallet(user_id)
    assert (wallet.balance_micros, wallet.status) == (15 * USD, "open")


@pytest.mark.parametrize(
    ("amount_micros", "status"),
    [(15 * USD, "open"), (15 * USD + 1, "frozen"), (25 * USD, "frozen"), (26 * USD, "frozen")],
)
def test_a_refund_to_the_card_freezes_where_it_takes_money_that_is_held(
    book: Ledger, amount_micros: int, status: str
):
    user_id = book.user(25 * USD)
    placed = place(book, user_id, 10 * USD)
    event = reversed_topup(user_id, amount_micros, book.now, is_dispute=False)

    handle(book, topup_events.take_back, event)

    wallet = book.wallet(user_id)
    assert (wallet.balance_micros, wallet.held_micros) == (25 * USD - amount_micros, 10 * USD)
    assert wallet.status == status
    assert len(book.events(user_id, "account_froze")) == (status == "frozen")
    if status == "frozen":
        with pytest.raises(AccountFrozen):
            book.do(capturing(placed))
    book.do(voiding(placed))
    assert book.wallet(user_id).available_micros == 25 * USD - amount_micros


@pytest.mark.parametrize(("missing_micros", "status"), [(1, "frozen"), (0, "open")])
def test_a_wallet_opens_once_what_is_held_is_covered_to_the_last_micro_dollar(
    book: Ledger, missing_micros: int, status: str
):
    user_id = book.user(25 * USD)
    place(book, user_id, 10 * USD)
    event = reversed_topup(user_id, 25 * USD, book.now, is_dispute=False)
    handle(book, topup_events.take_back, event)

    topup = paid(user_id, 10 * USD - missing_micros, occurred_at=book.now)
    handle(book, topup_events.credit, topup)

    assert book.wallet(user_id).status == status


def test_whether_a_wallet_may_open_depends_on_no_other_one(book: Ledger):
    earlier, user_id, later = (book.user(25 * USD) for _ in range(3))
    for somebody in (earlier, later):
        handle(
            book, topup_events.take_back, reversed_topup(somebody, USD, book.now, is_dispute=True)
        )
    handle(
        book, topup_events.take_back, reversed_topup(user_id, 30 * USD, book.now, is_dispute=False)
    )

    with book.database.read() as session:
        before = [reclaims.may_open(session, somebody) for somebody in (earlier, user_id, later)]
    handle(book, topup_events.credit, paid(user_id, 5 * USD, occurred_at=book.now))

    assert before == [False, False, False]
    assert [book.wallet(somebody).status for somebody in (earlier, user_id, later)] == [
        "frozen",
        "open",
        "frozen",
    ]


def test_a_reversal_that_is_told_twice_takes_once(book: Ledger):
    user_id = book.user(25 * USD)
    event = reversed_topup(user_id, 10 * USD, book.now, is_dispute=True)
    for _ in range(2):
        handle(book, topup_events.take_back, event)

    assert book.balance(user_id) == 15 * USD


def test_a_dispute_that_was_won_gives_the_credit_back_once_and_opens_the_wallet(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(debit(user_id, 20 * USD))
    dispute = reversed_topup(user_id, 25 * USD, book.now, is_dispute=True)
    handle(book, topup_events.take_back, dispute)

    for _ in range(2):
        handle(book, topup_events.restore, restored(dispute))

    wallet = book.wallet(user_id)
    assert (wallet.balance_micros, wallet.status) == (5 * USD, "open")


def test_winning_one_of_two_disputes_does_not_open_the_wallet(book: Ledger):
    user_id = book.user(50 * USD)
    won = reversed_topup(user_id, 25 * USD, book.now, is_dispute=True)
    handle(book, topup_events.take_back, won)
    handle(
        book, topup_events.take_back, reversed_topup(user_id, 25 * USD, book.now, is_dispute=True)
    )

    handle(book, topup_events.restore, restored(won))

    wallet = book.wallet(user_id)
    assert (wallet.balance_micros, wallet.status) == (25 * USD, "frozen")


def test_a_dispute_after_which_support_opened_the_wallet_does_not_keep_the_next_one_s_from_opening(
    book: Ledger,
):
    user_id = book.user(50 * USD)
    lost, won = (
        reversed_topup(user_id, 10 * USD, book.now, is_dispute=True) for _ in ("lost", "won")
    )
    handle(book, topup_events.take_back, lost)
    book.later(days=1)
    book.do(Unfreeze(idempotency_key=f"{new_id()}", user_id=user_id, reason="-", actor="support"))
    book.later(days=1)
    handle(book, topup_events.take_back, won)
    meanwhile = book.wallet(user_id).status

    handle(book, topup_events.restore, restored(won))

    assert (meanwhile, book.wallet(user_id).status) == (AccountStatus.FROZEN, AccountStatus.OPEN)


def test_a_wallet_that_support_froze_stays_frozen_when_a_dispute_is_won(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(Freeze(idempotency_key="freeze", user_id=user_id, reason="Asked to", actor="support"))
    dispute = reversed_topup(user_id, 25 * USD, book.now, is_dispute=True)
    handle(book, topup_events.take_back, dispute)

    handle(book, topup_events.restore, restored(dispute))

    assert book.wallet(user_id).status == "frozen"


def test_a_restoration_that_comes_before_its_reversal_waits_for_it(book: Ledger):
    user_id = book.user(25 * USD)
    dispute = reversed_topup(user_id, 25 * USD, book.now, is_dispute=True)

    with pytest.raises(Conflict):
        handle(book, topup_events.restore, restored(dispute))

    assert book.balance(user_id) == 25 * USD


def test_a_reversal_that_comes_before_its_credit_ends_in_the_same_balance(book: Ledger):
    user_id = new_id()
    handle(
        book, topup_events.take_back, reversed_topup(user_id, 25 * USD, book.now, is_dispute=False)
    )
    handle(book, topup_events.credit, paid(user_id, occurred_at=book.now))

    assert book.balance(user_id) == 0
    assert book.wallet(user_id).status is AccountStatus.OPEN


def test_a_debt_that_a_refund_left_is_paid_by_a_topup_and_the_wallet_opens(book: Ledger):
    user_id = book.user(10 * USD)
    handle(
        book, topup_events.take_back, reversed_topup(user_id, 25 * USD, book.now, is_dispute=False)
    )
    owing = book.wallet(user_id).status

    handle(book, topup_events.credit, paid(user_id, occurred_at=book.now))

    assert (owing, book.wallet(user_id).status) == (AccountStatus.FROZEN, AccountStatus.OPEN)
    assert book.balance(user_id) == 10 * USD


def settings(book, user_id, version, threshold_micros):
    handle(
        book,
        topup_events.arm_level,
        AutoTopupSettingsChanged(
            event_id=new_id(),
            occurred_at=book.now,
            user_id=user_id,
            settings_version=version,
            threshold_micros=threshold_micros,
        ),
    )


def low_events(book: Ledger, user_id):
    return [event["available_micros"] // USD for event in book.events(user_id, "balance_low")]


def test_a_debit_below_the_level_is_announced_once_per_dip(book: Ledger):
    user_id = book.user(12 * USD)
    settings(book, user_id, 1, 10 * USD)
    book.do(debit(user_id, 2 * USD))  # at the level, not below it
    book.do(debit(user_id, USD))
    book.do(debit(user_id, USD))

    assert low_events(book, user_id) == [9]


def test_a_credit_above_the_level_arms_it_again(book: Ledger):
    user_id = book.user(12 * USD)
    settings(book, user_id, 1, 10 * USD)
    book.do(debit(user_id, 5 * USD))
    handle(book, topup_events.credit, paid(user_id, occurred_at=book.now))
    book.do(debit(user_id, 25 * USD))

    assert low_events(book, user_id) == [7, 7]


def test_a_credit_to_the_level_itself_arms_it_again(book: Ledger):
    user_id = book.user(12 * USD)
    settings(book, user_id, 1, 10 * USD)
    book.do(debit(user_id, 5 * USD))
    book.do(credit(user_id, 3 * USD - 1))
    book.do(debit(user_id, 1))
    book.do(credit(user_id, 2))
    book.do(debit(user_id, 1))

    assert low_events(book, user_id) == [7, 9]


def test_a_level_at_the_balance_itself_begins_armed(book: Ledger):
    user_id = book.user(10 * USD)
    settings(book, user_id, 1, 10 * USD)
    book.do(debit(user_id, USD))

    assert low_events(book, user_id) == [9]


def test_the_same_version_of_the_settings_told_again_arms_nothing(book: Ledger):
    user_id = book.user(12 * USD)
    settings(book, user_id, 1, 10 * USD)
    settings(book, user_id, 1, 12 * USD)
    book.do(debit(user_id, USD))

    assert low_events(book, user_id) == []


def test_a_level_is_its_owners_alone(book: Ledger):
    earlier, user_id, later = (book.user(12 * USD) for _ in range(3))
    settings(book, user_id, 1, 10 * USD)
    for somebody in (earlier, user_id, later):
        book.do(debit(somebody, 5 * USD))

    assert [low_events(book, somebody) for somebody in (earlier, user_id, later)] == [[], [7], []]


def test_older_settings_that_come_late_are_ignored(book: Ledger):
    user_id = book.user(12 * USD)
    settings(book, user_id, 2, None)
    settings(book, user_id, 1, 10 * USD)
    book.do(debit(user_id, 5 * USD))

    assert low_events(book, user_id) == []


def test_money_that_comes_in_never_says_that_the_balance_is_low(book: Ledger):
    user_id = book.user(100 * USD)
    settings(book, user_id, 1, 20 * USD)
    handle(
        book, topup_events.take_back, reversed_topup(user_id, 90 * USD, book.now, is_dispute=False)
    )

    book.do(credit(user_id, USD))

    assert low_events(book, user_id) == []


def test_a_level_above_the_balance_waits_for_the_next_dip(book: Ledger):
    user_id = book.user(5 * USD)
    settings(book, user_id, 1, 10 * USD)
    book.do(debit(user_id, USD))
    handle(book, topup_events.credit, paid(user_id, occurred_at=book.now))
    book.do(debit(user_id, 20 * USD))

    assert low_events(book, user_id) == [9]


@pytest.mark.parametrize("is_dispute", [True, False])
def test_money_that_went_back_to_the_card_is_no_reason_to_charge_it(book: Ledger, is_dispute):
    user_id = book.user(25 * USD)
    settings(book, user_id, 1, 10 * USD)
    event = reversed_topup(user_id, 20 * USD, book.now, is_dispute=is_dispute)

    handle(book, topup_events.take_back, event)

    assert low_events(book, user_id) == []


def test_the_first_debit_after_a_refund_to_the_card_says_that_the_balance_is_low(book: Ledger):
    user_id = book.user(25 * USD)
    settings(book, user_id, 1, 10 * USD)
    event = reversed_topup(user_id, 20 * USD, book.now, is_dispute=False)
    handle(book, topup_events.take_back, event)
    book.do(debit(user_id, USD))

    assert low_events(book, user_id) == [4]


def test_each_level_speaks_for_itself(book: Ledger):
    user_id = book.user(25 * USD)
    settings(book, user_id, 1, 10 * USD)
    book.do(SetLevel(user_id=user_id, threshold_micros=20 * USD))
    book.do(debit(user_id, 6 * USD))
    book.do(debit(user_id, 10 * USD))

    events = book.events(user_id, "balance_low")
    assert [event["level"] for event in events] == ["alert", "auto_topup"]


def test_held_money_counts_as_gone_for_a_level(book: Ledger):
    user_id = book.user(25 * USD)
    settings(book, user_id, 1, 10 * USD)
    book.do(
        PlaceHold(
            idempotency_key=f"hold:{user_id}",
            user_id=user_id,
            amount_micros=20 * USD,
            description="Reservation",
        )
    )

    assert low_events(book, user_id) == [5]
