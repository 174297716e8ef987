"""Transactions of many legs: who gets what of a payment, and how each part goes back."""

import json
from collections.abc import Iterator
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from chassis.identifiers import new_id
from contracts.errors import (
    AccountFrozen,
    BadRequest,
    Conflict,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
)
from contracts.wallet import (
    BatchCommand,
    Export,
    GetTransaction,
    HouseAccount,
    PostBatch,
    SetLevel,
    Share,
    Statement,
    Totals,
    Transaction,
    TransactionKind,
)
from deploy.local.postgres import Postgres
from services.wallet import batches, chain, export, statements, totals, verification
from services.wallet.rules.correcting import apportion
from services.wallet.rules.reclaims import TakeBack
from tests.wallet.conftest import NOON, USD, Ledger, credit, debit, fresh_ledger
from tests.wallet.test_corrections import freezing, refunding, reversing
from tests.wallet.test_holds import capturing, money, place
from tests.wallet.test_refusals import begin_transaction, enter, house_number, post, refused
from tests.wallet.test_verification import verdict_on_damage

FEES = HouseAccount.FEES


def shares(*parts: tuple[UUID | HouseAccount, int]) -> list[Share]:
    return [Share(destination=who, amount_micros=micros) for who, micros in parts]


def sale(buyer: UUID, provider: UUID, **fields):
    """$10.00: $8.50 for who sold it, $1.50 of fees."""
    parts = shares((provider, 8_500_000), (FEES, 1_500_000))
    return debit(buyer, 10 * USD, shares=parts, **fields)


def lines(book: Ledger, user_id: UUID) -> list[tuple[str, int, int]]:
    """A user's statement, oldest first."""
    with book.database.read() as session:
        page = statements.statement(session, Statement(user_id=user_id))
    return [(t.kind, t.amount_micros, t.balance_after_micros) for t in page.transactions][::-1]


def fees(book: Ledger, transaction_id: UUID) -> int:
    """What the house's fees got in all, of a transaction and of its corrections."""
    query = (
        "SELECT sum(e.amount_micros) FROM entries AS e JOIN transactions AS t USING"
        " (transaction_id) WHERE e.account_id = 3"
        " AND :id IN (t.transaction_id, t.corrects_transaction_id)"
    )
    with book.database.read() as session:
        return int(session.scalar(text(query), {"id": transaction_id}) or 0)


# Who gets what.


def test_each_gets_a_share_of_what_is_paid(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()

    paid = book.transaction(sale(buyer, provider))

    assert (paid.amount_micros, paid.balance_after_micros) == (-10 * USD, 15 * USD)
    assert (book.balance(buyer), book.balance(provider)) == (15 * USD, 8_500_000)
    assert fees(book, paid.transaction_id) == 1_500_000


def test_what_is_a_purchase_to_one_is_an_earning_to_the_other(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()

    book.do(sale(buyer, provider))

    assert lines(book, buyer)[-1] == ("purchase", -10 * USD, 15 * USD)
    assert lines(book, provider) == [("earning", 8_500_000, 8_500_000)]
    with book.database.read() as session:
        spent = Statement(user_id=provider, kinds=[TransactionKind.PURCHASE])
        assert statements.statement(session, spent).transactions == []


def test_who_earns_hears_of_it_and_who_pays_does_not(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user(USD)

    paid = book.transaction(sale(buyer, provider))

    told = book.events(provider, "wallet_credited")[-1]
    assert (told["kind"], told["amount_micros"], told["balance_micros"]) == (
        "earning",
        8_500_000,
        9_500_000,
    )
    assert told["transaction_id"] == str(paid.transaction_id)
    assert len(book.events(buyer, "wallet_credited")) == 1


def test_what_one_earns_at_once_is_told_once(book: Ledger):
    provider, other = book.user(USD), book.user()
    buyers = [book.user(25 * USD) for _ in range(3)]

    *_, last, _ = book.post(*(sale(buyer, provider) for buyer in buyers), sale(buyers[0], other))

    told = book.events(provider, "wallet_credited")[1:]
    assert [
        (each["amount_micros"], each["balance_micros"], each["transaction_id"]) for each in told
    ] == [(25_500_000, 26_500_000, str(last.transaction_id))]
    (others,) = book.events(other, "wallet_credited")
    assert others["amount_micros"] == 8_500_000


def test_other_credits_are_told_one_by_one_beside_earnings(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()

    book.post(sale(buyer, provider), credit(provider, USD), credit(provider, 2 * USD))

    told = book.events(provider, "wallet_credited")
    assert [each["amount_micros"] for each in told] == [8_500_000, USD, 2 * USD]


def test_an_earning_lifts_a_wallet_above_its_level_again(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user(10 * USD)
    book.do(SetLevel(user_id=provider, threshold_micros=5 * USD))
    book.do(debit(provider, 9 * USD))
    book.do(sale(buyer, provider))

    book.do(debit(provider, 9 * USD))

    assert len(book.events(provider, "balance_low")) == 2


@pytest.mark.parametrize("fee", [1_500_001, 1_499_999])
def test_shares_that_do_not_come_to_the_amount_are_refused(book: Ledger, fee):
    buyer, provider = book.user(25 * USD), book.user()

    with pytest.raises(BadRequest, match="shares: they come to"):
        book.do(debit(buyer, 10 * USD, shares=shares((provider, 8_500_000), (FEES, fee))))

    assert (book.balance(buyer), book.balance(provider)) == (25 * USD, 0)


def test_two_shares_of_one_receiver_are_refused(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()

    with pytest.raises(BadRequest, match="one of them for each"):
        book.do(debit(buyer, 2 * USD, shares=shares((provider, USD), (provider, USD))))


def test_the_first_earning_opens_the_wallet_of_who_has_none(book: Ledger):
    buyer, provider, other = book.user(25 * USD), new_id(), new_id()

    book.post(sale(buyer, provider), sale(buyer, other))

    balances = [book.balance(user_id) for user_id in (buyer, provider, other)]
    assert balances == [5 * USD, 8_500_000, 8_500_000]


def test_a_payment_that_is_refused_opens_no_wallet(book: Ledger):
    buyer, provider = book.user(9 * USD), new_id()

    with pytest.raises(InsufficientFunds):
        book.do(sale(buyer, provider))

    with pytest.raises(NotFound):
        book.balance(provider)


def test_the_same_key_with_other_shares_is_a_conflict(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    key = str(new_id())
    first = book.transaction(sale(buyer, provider, key=key))

    again = book.transaction(sale(buyer, provider, key=key))
    with pytest.raises(IdempotencyConflict):
        book.do(debit(buyer, 10 * USD, key, shares=shares((provider, 9 * USD), (FEES, USD))))

    assert again == first.model_copy(update={"replayed": True})


def test_a_capture_of_a_part_is_shared(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    hold = place(book, buyer, 10 * USD)

    book.do(capturing(hold, 4 * USD, shares=shares((provider, 3 * USD), (FEES, USD))))

    assert (money(book, buyer), money(book, provider)) == ((21, 0, 21), (3, 0, 3))


def test_a_capture_whose_shares_come_to_less_is_refused_and_the_hold_stays(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    hold = place(book, buyer, 10 * USD)

    with pytest.raises(BadRequest, match="shares"):
        book.do(capturing(hold, shares=shares((provider, 9 * USD))))

    assert money(book, buyer) == (25, 10, 15)


def test_a_batch_takes_shares(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    hold = place(book, buyer, 10 * USD)
    whole = shares((provider, 8 * USD), (FEES, 2 * USD))
    commands = [
        BatchCommand.of(sale(buyer, provider)),
        BatchCommand.of(capturing(hold, shares=whole)),
    ]
    on_the_wire = json.loads(PostBatch(commands=commands).model_dump_json())

    def submit_all(commands, **_how):
        return book.post(*commands)

    outcome = batches.post(submit_all, PostBatch.model_validate(on_the_wire))

    assert [result.error for result in outcome.results] == [None, None]
    assert (book.balance(buyer), book.balance(provider)) == (5 * USD, 16_500_000)


@pytest.mark.parametrize(
    "share", [{"destination": "fees"}, {"destination": "x", "amount_micros": 1}]
)
def test_a_share_that_says_nothing_is_refused(share):
    with pytest.raises(ValueError, match="shares"):
        debit(new_id(), USD, shares=[share])


# Who sells to himself.


def test_a_provider_may_buy_from_himself(book: Ledger):
    user_id = book.user(10 * USD)

    paid = book.transaction(sale(user_id, user_id))

    assert (paid.amount_micros, paid.balance_after_micros) == (-10 * USD, 0)
    assert lines(book, user_id)[1:] == [
        ("purchase", -10 * USD, 0),
        ("earning", 8_500_000, 8_500_000),
    ]


def test_who_buys_from_himself_needs_the_whole_price(book: Ledger):
    user_id = book.user(10 * USD - 1)

    with pytest.raises(InsufficientFunds):
        book.do(sale(user_id, user_id))


def test_the_answer_to_who_buys_from_himself_is_the_payment(book: Ledger):
    user_id = book.user(10 * USD)
    command = sale(user_id, user_id)
    paid = book.transaction(command)

    again = book.transaction(command)
    with book.database.read() as session:
        question = GetTransaction(user_id=user_id, transaction_id=paid.transaction_id)
        found = statements.get_transaction(session, question.user_id, question.transaction_id)

    assert again == paid.model_copy(update={"replayed": True})
    assert found == paid


def test_who_bought_from_himself_is_refunded_whatever_he_has_spent(book: Ledger):
    user_id = book.user(10 * USD)
    paid = book.transaction(sale(user_id, user_id))
    book.do(debit(user_id, 8_500_000))

    back = book.transaction(refunding(user_id, paid))

    assert (back.amount_micros, book.balance(user_id)) == (10 * USD, 1_500_000)
    assert fees(book, paid.transaction_id) == 0


@pytest.mark.parametrize("correcting", [refunding, reversing])
def test_who_gives_to_himself_what_he_gets_may_be_frozen_and_in_debt(book: Ledger, correcting):
    user_id = book.user(10 * USD)
    paid = book.transaction(debit(user_id, 10 * USD, shares=shares((user_id, 10 * USD))))
    book.do(
        TakeBack(
            idempotency_key=f"reversal:{new_id()}",
            user_id=user_id,
            amount_micros=11 * USD,
            is_dispute=True,
            description="Dispute",
            metadata={},
        )
    )

    book.do(correcting(user_id, paid))

    assert book.balance(user_id) == -USD


def test_a_hold_is_captured_by_who_buys_from_himself(book: Ledger):
    user_id = book.user(10 * USD)
    hold = place(book, user_id, 10 * USD)

    taken = book.transaction(capturing(hold, shares=shares((user_id, 9 * USD), (FEES, USD))))

    assert (taken.amount_micros, money(book, user_id)) == (-10 * USD, (9, 0, 9))


# How it goes back.


def test_a_refund_takes_back_from_each_in_proportion(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))

    book.do(refunding(buyer, paid, 5 * USD))

    assert (book.balance(buyer), book.balance(provider)) == (20 * USD, 4_250_000)
    assert fees(book, paid.transaction_id) == 750_000


def test_refunds_in_parts_come_to_each_part_exactly(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))

    for part in (3_333_333, 3_333_333, 1):
        book.do(refunding(buyer, paid, part))
    book.do(refunding(buyer, paid))

    assert (book.balance(buyer), book.balance(provider)) == (25 * USD, 0)
    assert fees(book, paid.transaction_id) == 0


def test_a_micro_dollar_that_is_left_over_is_taken_where_the_remainder_is_largest(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))

    book.do(refunding(buyer, paid, 1))

    assert (book.balance(provider), fees(book, paid.transaction_id)) == (8_499_999, 1_500_000)


def test_of_equal_remainders_the_lower_account_gives_first(book: Ledger):
    buyer, first, second = book.user(25 * USD), book.user(), book.user()
    parts = shares((second, USD), (first, USD))
    paid = book.transaction(debit(buyer, 2 * USD, shares=parts))

    book.do(refunding(buyer, paid, 1))

    assert (book.balance(first), book.balance(second)) == (USD - 1, USD)


def test_nothing_is_refunded_where_one_of_them_has_spent_his_part(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))
    book.do(debit(provider, 8 * USD))

    with pytest.raises(InsufficientFunds):
        book.do(refunding(buyer, paid))

    assert (book.balance(buyer), fees(book, paid.transaction_id)) == (15 * USD, 1_500_000)


def test_a_frozen_provider_refunds_nothing_and_a_reversal_takes_it(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))
    book.do(freezing(provider))
    with pytest.raises(AccountFrozen):
        book.do(refunding(buyer, paid))

    undone = book.transaction(reversing(buyer, paid))

    assert (undone.amount_micros, book.balance(provider)) == (10 * USD, 0)
    assert fees(book, paid.transaction_id) == 0


def test_each_party_may_ask_for_a_refund_of_the_whole_and_sees_its_own_part(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))

    given = book.transaction(refunding(provider, paid, 5 * USD))

    assert (given.kind, given.amount_micros) == ("refund", -4_250_000)
    assert book.balance(buyer) == 20 * USD


def test_a_refund_so_small_that_nothing_of_it_is_the_askers_is_refused(book: Ledger):
    buyer, provider, agent = book.user(25 * USD), book.user(), book.user()
    parts = shares((provider, 9 * USD), (agent, USD))
    paid = book.transaction(debit(buyer, 10 * USD, shares=parts))

    with pytest.raises(BadRequest, match="nothing is this wallet's"):
        book.do(refunding(agent, paid, 1))

    assert book.balance(buyer) == 15 * USD


def test_what_was_refunded_in_part_is_not_refunded_beyond_it_in_the_same_batch(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))

    first, second = book.post(refunding(buyer, paid, 6 * USD), refunding(buyer, paid, 5 * USD))

    assert isinstance(first, Transaction)
    assert isinstance(second, Conflict)
    assert (book.balance(buyer), book.balance(provider)) == (21 * USD, 3_400_000)


@given(
    left=st.lists(st.integers(0, 10**15), min_size=1, max_size=6).filter(any),
    share=st.fractions(0, 1),
)
def test_an_amount_is_apportioned_to_less_than_a_micro_dollar_and_to_nobody_beyond_what_is_left(
    left: list[int], share
):
    whole = sum(left)
    amount = int(whole * share)

    parts = apportion(amount, left)

    assert sum(parts) == amount
    for part, most in zip(parts, left, strict=True):
        assert 0 <= part <= most
        assert abs(part * whole - amount * most) < whole


# What others see of it.


def test_the_export_and_the_totals_show_each_side(own_book: Ledger):
    buyer, provider = own_book.user(25 * USD), own_book.user(10 * USD)
    own_book.do(sale(buyer, provider))
    own_book.do(sale(provider, provider))

    with own_book.database.read() as session:
        page = export.page(session, Export(user_id=provider))
        report = totals.report(session, Totals(since=NOON, until=NOON.replace(day=2)))

    assert [(entry.kind, entry.amount_micros) for entry in page.entries] == [
        ("topup", 10 * USD),
        ("earning", 8_500_000),
        ("purchase", -10 * USD),
        ("earning", 8_500_000),
    ]
    found = {(day.kind, day.credited_micros, day.debited_micros) for day in report.days}
    assert found == {
        ("topup", 35 * USD, 0),
        ("purchase", 0, 20 * USD),
        ("earning", 17 * USD, 0),
    }


# What the database refuses.


@pytest.fixture
def sold(book: Ledger):
    """A sale: its id, and the accounts of buyer and provider, who have one and two entries more."""
    buyer, provider = book.user(25 * USD), book.user(10 * USD)
    paid = book.transaction(sale(buyer, provider))
    return paid.transaction_id, book.wallet(buyer).account_id, book.wallet(provider).account_id


def test_a_refund_that_only_one_of_them_pays_is_refused(book: Ledger, sold):
    """As a wallet did that knew of two legs only: the provider gave what the house had got."""
    transaction_id, buyer, provider = sold
    with refused("in proportion"), book.database.begin() as session:
        post(
            session,
            [(buyer, 3, 5 * USD, 20 * USD), (provider, 3, -5 * USD, 13_500_000)],
            kind="refund",
            refunds=transaction_id,
        )


def test_a_refund_beyond_what_one_of_them_got_is_refused(book: Ledger, sold):
    transaction_id, buyer, provider = sold
    with refused("in proportion"), book.database.begin() as session:
        entries = [
            (buyer, 3, 10 * USD, 25 * USD),
            (provider, 3, -8_500_001, 9_999_999),
            (3, house_number(), -1_499_999, "NULL"),
        ]
        post(session, entries, kind="refund", refunds=transaction_id, amount_micros=10 * USD)


def test_a_refund_to_who_got_is_refused(book: Ledger, sold):
    transaction_id, _, provider = sold
    with refused("does not go back the way"), book.database.begin() as session:
        entries = [(provider, 3, 5 * USD, 23_500_000), (3, house_number(), -5 * USD, "NULL")]
        post(session, entries, kind="refund", refunds=transaction_id)


def test_a_reversal_of_a_part_is_refused(book: Ledger, sold):
    transaction_id, buyer, provider = sold
    with refused("in proportion"), book.database.begin() as session:
        entries = [
            (buyer, 3, 2 * USD, 17 * USD),
            (provider, 3, -1_700_000, 16_800_000),
            (3, house_number(), -300_000, "NULL"),
        ]
        reversal = begin_transaction(
            session, amount_micros=2 * USD, refunds=transaction_id, correction="reversal"
        )
        enter(session, reversal, entries)


def test_two_entries_of_one_side_are_refused(book: Ledger, sold):
    _, buyer, _ = sold
    with refused("one_entry_for_each_side"), book.database.begin() as session:
        entries = [
            (buyer, 3, -2 * USD, 13 * USD),
            (buyer, 4, -3 * USD, 10 * USD),
            (3, house_number(), 5 * USD, "NULL"),
        ]
        post(session, entries)


@pytest.mark.parametrize(
    ("amount", "kind"), [(-USD, "earning"), (USD, "refund")], ids=["what is paid", "another kind"]
)
def test_no_entry_but_what_is_earned_has_a_kind_of_its_own(book: Ledger, sold, amount, kind):
    _, buyer, _ = sold
    with refused("do not match it"), book.database.begin() as session:
        transaction_id = begin_transaction(session, amount_micros=USD)
        entries = [
            (buyer, 3, amount, 15 * USD + amount, kind),
            (3, house_number(), -amount, "NULL"),
        ]
        enter(session, transaction_id, entries)


def test_a_capture_that_took_another_amount_is_refused(book: Ledger):
    user_id = book.user(25 * USD)
    hold = place(book, user_id, 5 * USD)
    with refused("was not captured by the transaction"), book.database.begin() as session:
        transaction_id = begin_transaction(
            session, amount_micros=USD, metadata=json.dumps({"hold_id": str(hold.hold_id)})
        )
        account = book.wallet(user_id).account_id
        entries = [(account, 2, -USD, 24 * USD), (2, house_number(), USD, "NULL")]
        enter(session, transaction_id, entries)
        session.execute(
            text(
                "UPDATE holds SET status = 'captured', captured_micros = 5000000,"
                " closed_at = now(), transaction_id = :taken WHERE hold_id = :hold"
            ),
            {"taken": transaction_id, "hold": hold.hold_id},
        )


# What verification names.


@pytest.fixture(scope="module")
def shared(postgres: Postgres) -> Iterator[Ledger]:
    """A ledger of sales: refunded in parts, reversed, captured, and to who sold himself."""
    with fresh_ledger(postgres) as book:
        buyer, provider = book.user(100 * USD), book.user(50 * USD)
        refunded = book.transaction(sale(buyer, provider))
        for part in (3_333_333, 1):
            book.do(refunding(buyer, refunded, part))
        book.do(reversing(buyer, book.transaction(sale(buyer, provider))))
        own = book.transaction(sale(provider, provider))
        book.do(refunding(provider, own, USD))
        hold = place(book, provider, 10 * USD)
        book.do(capturing(hold, shares=shares((provider, 9 * USD), (FEES, USD))))
        house = shares((HouseAccount.MARKETPLACE_REVENUE, 8_500_000), (FEES, 1_500_000))
        book.do(refunding(buyer, book.transaction(debit(buyer, 10 * USD, shares=house)), 4 * USD))
        chain.seal(book.database)
        yield book


def test_a_ledger_of_many_legs_is_clean(shared: Ledger):
    verdict = verification.verify(shared.database)

    assert (verdict.clean, verdict.first_difference) == (True, None)
    assert verdict.transaction_count == verdict.sealed_count == 12


OF_REFUND = "kind = 'refund' AND transaction_id IN (SELECT t.transaction_id FROM transactions AS t"
OF_REFUND += " WHERE t.description = 'Refund' AND t.amount_micros = 4000000)"
DAMAGES = {
    "what a refund took of whom": (
        "UPDATE entries SET amount_micros = amount_micros + CASE account_id"  # noqa: ISC004, S608
        f" WHEN 2 THEN 1 ELSE -1 END WHERE account_id < 1000 AND {OF_REFUND}",
        "corrects",
    ),
    "a leg of a refund": (
        f"WITH gone AS (DELETE FROM entries WHERE account_id = 3 AND {OF_REFUND})"  # noqa: ISC004, S608
        f" UPDATE entries SET amount_micros = -4000000 WHERE account_id = 2 AND {OF_REFUND}",
        "gave back 0 of 1500000 to or from account 3, and 4000000 of 10000000 in all",
    ),
    "the way of a refund": (
        f"UPDATE entries SET account_id = 4 WHERE account_id = 3 AND {OF_REFUND}",  # noqa: S608
        "does not go back the way of",
    ),
    "a reversal of a part": (
        "WITH k AS (UPDATE keys SET method = 'reverse' WHERE transaction_id IN"  # noqa: ISC004, S608
        f" (SELECT transaction_id FROM transactions WHERE {OF_REFUND}))"
        f" UPDATE transactions SET correction = 'reversal' WHERE {OF_REFUND}",
        "corrected by 4000000, its amount is 10000000",
    ),
    "the kind of what was earned": (
        "UPDATE entries SET kind = 'purchase' WHERE kind = 'earning'",
        "the chain breaks at transaction",
    ),
    "the kind of what was paid": (
        "UPDATE entries SET kind = 'earning' WHERE kind = 'purchase' AND amount_micros < 0",
        "its kind or a date is not its transaction's",
    ),
    "what a capture took": (
        "UPDATE holds SET captured_micros = 9000000 WHERE status = 'captured'",
        "captured 9000000, its transaction took 10000000",
    ),
    "the key of an earner": (
        "UPDATE keys AS k SET account_id = e.account_id FROM entries AS e"  # noqa: ISC004
        " WHERE e.transaction_id = k.transaction_id AND e.kind = 'earning'",
        "a debit that made an entry of 8500000",
    ),
}


@pytest.mark.parametrize(("statement", "named"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damage_to_one_leg_is_named(shared: Ledger, statement, named):
    verdict = verdict_on_damage(shared, statement)

    assert verdict.clean is False
    assert named in (verdict.first_difference or "")


def test_the_chain_is_checked_without_a_database(shared: Ledger):
    with shared.database.read() as session:
        exported, head = list(chain.lines(session)), chain.head(session)

    assert chain.check_lines(exported) == (None, head)
    assert '"earning"' in exported[2]
    assert chain.check_lines([line.replace("earning", "purchase") for line in exported])[0]
