"""Refunds from those whom the caller names, and what the house advances."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from contracts.errors import AccountFrozen, BadRequest, Conflict, InsufficientFunds
from contracts.wallet import HouseAccount, Refund, Transaction, TransactionKind
from deploy.local.postgres import Postgres
from services.wallet import inflows, verification
from services.wallet.rules.reclaims import TakeBack
from tests.wallet.conftest import USD, Ledger, debit, fresh_ledger
from tests.wallet.test_corrections import freezing, refunding, reversing
from tests.wallet.test_holds import place
from tests.wallet.test_legs import FEES, lines, sale, shares
from tests.wallet.test_refusals import begin_transaction, enter, house_number, refused

ADVANCES = HouseAccount.ADVANCES


def choosing(user_id: UUID, paid: Transaction, *parts, **fields) -> Refund:
    return refunding(user_id, paid).model_copy(update={"shares": shares(*parts), **fields})


def advancing(user_id: UUID, paid: Transaction, amount_micros: int | None = None) -> Refund:
    return refunding(user_id, paid, amount_micros).model_copy(update={"is_advanced": True})


def legs(book: Ledger, made: Transaction) -> dict[str, int]:
    """Who gave and got by a transaction: users by their id, the house by its names."""
    query = (
        "SELECT coalesce(a.user_id::text, a.house_name) AS who,"
        " sum(e.amount_micros)::bigint AS micros"
        " FROM entries AS e JOIN accounts AS a USING (account_id)"
        " WHERE e.transaction_id = %s GROUP BY 1"
    )
    with book.database.read() as session:
        found = session.connection().exec_driver_sql(query, (made.transaction_id,))
        return {row.who: row.micros for row in found}


def advanced(user_id: UUID, micros: int) -> dict[str, str]:
    return {"advanced_micros": f"{micros}", "advanced_for": f"{user_id}"}


@pytest.fixture(scope="module")
def shared(postgres: Postgres) -> Iterator[Ledger]:
    """A ledger that all tests of this file write to, and that is clean in the end."""
    with fresh_ledger(postgres) as book:
        yield book
        assert verification.verify(book.database).first_difference is None


@pytest.fixture
def book(shared: Ledger) -> Ledger:
    return shared


def two_lines(book: Ledger) -> tuple[UUID, UUID, UUID, Transaction]:
    """A buyer who paid $10 for each of two providers, with 10 % of fees."""
    buyer, ann, ben = book.user(25 * USD), book.user(), book.user()
    parts = shares((ann, 9 * USD), (ben, 9 * USD), (FEES, 2 * USD))
    return buyer, ann, ben, book.transaction(debit(buyer, 20 * USD, shares=parts))


# Who gives back.


def test_those_who_are_named_give_back_and_nobody_else(book: Ledger):
    buyer, ann, ben, paid = two_lines(book)

    back = book.transaction(choosing(buyer, paid, (ann, 9 * USD), (FEES, USD)))

    assert (back.kind, back.amount_micros) == (TransactionKind.REFUND, 10 * USD)
    assert legs(book, back) == {str(buyer): 10 * USD, str(ann): -9 * USD, "fees": -USD}
    assert (book.balance(ann), book.balance(ben)) == (0, 9 * USD)


def test_refunds_by_line_come_to_the_whole(book: Ledger):
    buyer, ann, ben, paid = two_lines(book)

    book.do(choosing(buyer, paid, (ann, 9 * USD), (FEES, USD)))
    book.do(choosing(buyer, paid, (ben, 9 * USD), (FEES, USD)))

    assert [book.balance(user_id) for user_id in (buyer, ann, ben)] == [25 * USD, 0, 0]
    with pytest.raises(Conflict):
        book.do(refunding(buyer, paid))


def test_what_is_left_goes_back_in_proportion_to_what_is_left_of_each(book: Ledger):
    buyer, ann, ben, paid = two_lines(book)
    book.do(choosing(buyer, paid, (ann, 9 * USD), (FEES, USD)))

    book.do(refunding(buyer, paid))

    assert [book.balance(user_id) for user_id in (buyer, ann, ben)] == [25 * USD, 0, 0]


@pytest.mark.parametrize("more", [0, 1])
def test_nobody_gives_back_more_than_is_left_of_what_they_got(book: Ledger, more: int):
    buyer, ann, _, paid = two_lines(book)
    book.do(choosing(buyer, paid, (ann, 4 * USD)))

    (outcome,) = book.post(choosing(buyer, paid, (ann, 5 * USD + more)))

    assert isinstance(outcome, Conflict if more else Transaction)


def test_who_got_nothing_gives_nothing_back(book: Ledger):
    buyer, _, _, paid = two_lines(book)

    for stranger in (book.user(9 * USD), HouseAccount.MARKETPLACE_REVENUE, ADVANCES):
        with pytest.raises(Conflict, match="got by this transaction"):
            book.do(choosing(buyer, paid, (stranger, USD)))


def test_parts_that_make_no_sense_are_refused(book: Ledger):
    buyer, ann, _, paid = two_lines(book)

    with pytest.raises(BadRequest, match="they come to"):
        book.do(choosing(buyer, paid, (ann, USD), amount_micros=2 * USD))
    with pytest.raises(BadRequest, match="one of them for each"):
        book.do(choosing(buyer, paid, (ann, USD), (ann, USD)))


def test_a_key_refunds_once(book: Ledger):
    buyer, ann, _, paid = two_lines(book)
    command = choosing(buyer, paid, (ann, 4 * USD))

    first, again = book.post(command, command)

    assert isinstance(again, Transaction)
    assert again == first.model_copy(update={"replayed": True})  # type: ignore[union-attr]
    assert book.balance(ann) == 5 * USD


def test_who_has_spent_it_and_who_is_frozen_refuse_it(book: Ledger):
    buyer, ann, ben, paid = two_lines(book)
    book.do(debit(ann, 1))
    book.do(freezing(ben))

    with pytest.raises(InsufficientFunds):
        book.do(choosing(buyer, paid, (ann, 9 * USD)))
    with pytest.raises(AccountFrozen):
        book.do(choosing(buyer, paid, (ben, 9 * USD)))


def test_a_chosen_refund_is_no_credit_to_an_audit(book: Ledger):
    buyer, ann, _, paid = two_lines(book)
    book.do(debit(ann, 9 * USD))

    back = book.transaction(advancing(buyer, paid, 10 * USD))

    with book.database.read() as session:
        found = session.connection().exec_driver_sql(
            str(inflows._CREDITS).replace(":after", "0").replace(":until", "1000000")
        )
        assert back.transaction_id not in {row.transaction_id for row in found}


# What is advanced.


def test_the_house_gives_what_a_provider_has_spent_and_he_what_he_has(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))
    book.do(debit(provider, 8 * USD))

    back = book.transaction(advancing(buyer, paid))

    assert back.metadata == advanced(provider, 8 * USD)
    assert legs(book, back) == {
        str(buyer): 10 * USD,
        str(provider): -500_000,
        "fees": -1_500_000,
        "advances": -8 * USD,
    }
    assert (book.balance(buyer), book.balance(provider)) == (25 * USD, 0)


def test_of_who_has_all_of_it_nothing_is_advanced(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))

    back = book.transaction(advancing(buyer, paid))

    assert (back.metadata, book.balance(provider)) == ({}, 0)


@pytest.mark.parametrize("is_in_debt", [False, True])
def test_of_who_is_frozen_all_is_advanced_and_nothing_taken(book: Ledger, is_in_debt: bool):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))
    if is_in_debt:
        book.do(
            TakeBack(
                idempotency_key=f"reversal:{provider}",
                user_id=provider,
                amount_micros=20 * USD,
                is_dispute=True,
                description="Dispute",
                metadata={},
            )
        )
    else:
        book.do(freezing(provider))
    before = book.balance(provider)

    back = book.transaction(advancing(buyer, paid))

    assert back.metadata == advanced(provider, 8_500_000)
    assert (book.balance(buyer), book.balance(provider)) == (25 * USD, before)


def test_what_is_held_is_not_there_to_give(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))
    place(book, provider, 8 * USD)

    back = book.transaction(advancing(buyer, paid))

    assert back.metadata == advanced(provider, 8 * USD)
    assert book.balance(provider) == 8 * USD


def test_who_bought_from_himself_needs_no_advance(book: Ledger):
    user_id = book.user(10 * USD)
    paid = book.transaction(sale(user_id, user_id))
    book.do(debit(user_id, 8_500_000))

    back = book.transaction(advancing(user_id, paid))

    assert (back.metadata, book.balance(user_id)) == ({}, 1_500_000)


def test_it_is_known_for_whom_the_house_gave(book: Ledger):
    buyer, ann, ben, paid = two_lines(book)
    book.do(debit(ann, 5 * USD))

    back = book.transaction(advancing(buyer, paid))

    assert back.metadata == advanced(ann, 5 * USD)
    assert (book.balance(ann), book.balance(ben)) == (0, 0)


def test_for_two_at_once_nothing_is_advanced_and_by_shares_for_each(book: Ledger):
    buyer, ann, ben, paid = two_lines(book)
    book.do(debit(ann, 5 * USD))
    book.do(debit(ben, 9 * USD))

    with pytest.raises(BadRequest, match="more than one"):
        book.do(advancing(buyer, paid))
    for who, lacks_micros in ((ann, 5 * USD), (ben, 9 * USD)):
        one = choosing(buyer, paid, (who, 9 * USD), (FEES, USD), is_advanced=True)
        assert book.transaction(one).metadata == advanced(who, lacks_micros)

    assert book.balance(buyer) == 25 * USD


def test_what_was_advanced_counts_as_given_back(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))
    book.do(debit(provider, 8_500_000))
    first = book.transaction(advancing(buyer, paid, 4 * USD))

    second = book.transaction(advancing(buyer, paid, 4 * USD))
    with pytest.raises(Conflict):
        book.do(choosing(buyer, paid, (provider, 1_700_001)))

    assert [each.metadata for each in (first, second)] == [advanced(provider, 3_400_000)] * 2


def test_after_an_advance_nothing_more_goes_back_and_no_reversal_does(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))
    book.do(debit(provider, 8_500_000))
    book.do(advancing(buyer, paid, 4 * USD))

    book.do(advancing(buyer, paid))

    for command in (advancing(buyer, paid), refunding(buyer, paid), reversing(buyer, paid)):
        with pytest.raises(Conflict):
            book.do(command)
    assert book.balance(buyer) == 25 * USD


def test_who_would_see_nothing_of_it_does_not_ask_for_it(book: Ledger):
    buyer, provider = book.user(25 * USD), book.user()
    paid = book.transaction(sale(buyer, provider))
    book.do(debit(provider, 8_500_000))

    with pytest.raises(BadRequest, match="nothing is this wallet's"):
        book.do(advancing(provider, paid))

    assert lines(book, buyer)[-1] == ("purchase", -10 * USD, 15 * USD)


# What the database refuses.


@pytest.mark.parametrize(
    ("provider_gives", "advances_give", "correction", "reason"),
    [
        (8_500_001, 1_499_999, "chosen_refund", "in proportion"),
        (5 * USD, 5 * USD, "refund", "does not go back the way"),
        (8 * USD, -3 * USD, "chosen_refund", "does not go back the way"),
    ],
)
def test_a_wrong_program_advances_nothing(
    book: Ledger, provider_gives: int, advances_give: int, correction: str, reason: str
):
    buyer, provider = book.user(25 * USD), book.user(20 * USD)
    paid = book.transaction(sale(buyer, provider))
    accounts = [book.wallet(user_id).account_id for user_id in (buyer, provider)]

    with refused(reason), book.database.begin() as session:
        gets = provider_gives + advances_give
        money_in = provider_gives + max(advances_give, 0)
        made = begin_transaction(
            session,
            amount_micros=money_in,
            kind="refund",
            refunds=paid.transaction_id,
            correction=correction,
        )
        entries = [
            (accounts[0], 3, gets, 15 * USD + gets),
            (accounts[1], 3, -provider_gives, 28_500_000 - provider_gives),
            (7, house_number(), -advances_give, "NULL"),
        ]
        enter(session, made, entries, "refund")


def test_verify_sees_an_advance_in_a_refund_that_is_none_and_too_much_of_a_part(
    postgres: Postgres,
):
    with fresh_ledger(postgres) as own:
        buyer, ann, _, paid = two_lines(own)
        back = own.transaction(choosing(buyer, paid, (ann, 9 * USD), (FEES, USD)))
        found = verification.verify(own.database)
        assert (found.clean, found.first_difference) == (True, None)
        with own.database.begin() as session:
            run = session.connection().exec_driver_sql
            run("ALTER TABLE transactions DISABLE TRIGGER USER")
            run(
                "UPDATE transactions SET correction = 'refund' WHERE transaction_id = %s",
                (back.transaction_id,),
            )
        named = verification.verify(own.database).first_difference

    assert named is not None
    assert str(back.transaction_id) in named
