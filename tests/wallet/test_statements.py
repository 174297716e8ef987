"""Statements, single transactions, balances of the past."""

from datetime import timedelta

import pytest

from chassis.identifiers import new_id
from contracts.errors import BadRequest, NotFound
from contracts.messages import MAX_AMOUNT_MICROS
from contracts.wallet import (
    AccountStatus,
    BalanceAt,
    CheckAffordability,
    DateAxis,
    Freeze,
    PlaceHold,
    Statement,
    TransactionKind,
)
from services.wallet import statements
from tests.wallet.conftest import NOON, USD, Ledger, credit, debit

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""RabbitMQ 4's default."""


def page(book: Ledger, user_id, **fields):
    with book.database.read() as session:
        return statements.statement(session, Statement(user_id=user_id, **fields))


def test_a_statement_shows_the_newest_first_with_the_running_balance(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(debit(user_id, 5 * USD))
    book.do(debit(user_id, 3 * USD))

    transactions = page(book, user_id).transactions

    assert [(t.amount_micros // USD, t.balance_after_micros // USD) for t in transactions] == [
        (-3, 17),
        (-5, 20),
        (25, 25),
    ]


def test_pages_follow_each_other_without_gap_or_repetition_while_money_moves(book: Ledger):
    user_id = book.user(100 * USD)
    book.post(*(debit(user_id, (n + 1) * USD) for n in range(6)))
    first = page(book, user_id, limit=3)
    book.do(debit(user_id, USD))

    second = page(book, user_id, limit=3, cursor=first.next_cursor)
    third = page(book, user_id, limit=3, cursor=second.next_cursor)

    amounts = [t.amount_micros // USD for p in (first, second, third) for t in p.transactions]
    assert amounts == [-6, -5, -4, -3, -2, -1, 100]
    assert third.next_cursor is None


def test_statements_that_are_asked_for_at_once_are_each_their_own(book: Ledger):
    first, second, empty = book.user(25 * USD), book.user(3 * USD), book.user()
    book.do(debit(first, 5 * USD))
    book.do(debit(second, USD))
    topups = [TransactionKind.TOPUP]
    asked = [
        Statement(user_id=first, limit=1),
        Statement(user_id=new_id()),
        Statement(user_id=second),
        Statement(user_id=first, cursor="no cursor"),
        Statement(user_id=empty),
        Statement(user_id=first, kinds=topups),
        Statement(user_id=first, until=book.now),
        Statement(user_id=first, since=book.now),
    ]

    with book.database.read() as session:
        pages = statements.pages(session, asked)

    amounts = [
        type(page)
        if isinstance(page, Exception)
        else [transaction.amount_micros // USD for transaction in page.transactions]
        for page in pages
    ]
    assert amounts == [[-5], NotFound, [-1, 3], BadRequest, [], [25], [], [-5, 25]]


def test_a_statement_with_the_longest_metadata_comes_in_pages_that_the_broker_takes(book: Ledger):
    user_id = book.user(100 * USD)
    longest = {f"{n:064}": "\U0001f600" * 500 for n in range(50)}
    book.post(*(debit(user_id, USD, metadata=longest) for _ in range(75)))
    amounts, cursor, sizes = [], None, []
    while True:
        found = page(book, user_id, limit=200, cursor=cursor)
        sizes.append(len(found.model_dump_json().encode()))
        amounts += [transaction.amount_micros for transaction in found.transactions]
        cursor = found.next_cursor
        if cursor is None:
            break

    assert amounts == [-USD] * 75 + [100 * USD]
    assert len(sizes) == 2
    assert max(sizes) < MESSAGE_BYTES_MAX


def test_a_statement_can_be_limited_to_kinds(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(debit(user_id, USD, kind=TransactionKind.RENEWAL))
    book.do(debit(user_id, USD))

    kinds = [t.kind for t in page(book, user_id, kinds=["renewal", "topup"]).transactions]

    assert kinds == ["renewal", "topup"]


def test_a_statement_can_be_limited_to_a_time(book: Ledger):
    user_id = book.user(25 * USD)
    book.later(days=1)
    book.do(debit(user_id, USD))
    book.later(days=1)
    book.do(debit(user_id, 2 * USD))

    found = page(
        book, user_id, since=NOON + timedelta(days=1), until=NOON + timedelta(days=2)
    ).transactions

    assert [t.amount_micros for t in found] == [-USD]


@pytest.mark.parametrize("cursor", ["nonsense", "WyJ4IiwgMV0", "WzEsMiwzXQ"])
def test_a_cursor_that_was_made_up_is_refused(book: Ledger, cursor):
    user_id = book.user()

    with pytest.raises(BadRequest):
        page(book, user_id, cursor=cursor)


def test_somebody_elses_transaction_is_not_found(book: Ledger):
    mine, other = book.user(), book.user()
    transaction = book.transaction(credit(mine, USD))

    with book.database.read() as session, pytest.raises(NotFound):
        statements.get_transaction(session, other, transaction.transaction_id)


def test_affordability_says_what_is_lacking(book: Ledger):
    user_id = book.user(2 * USD)

    with book.database.read() as session:
        answer = statements.check_affordability(
            session, CheckAffordability(user_id=user_id, amount_micros=5 * USD)
        )

    assert (answer.can_afford, answer.shortfall_micros) == (False, 3 * USD)


def test_a_frozen_wallet_affords_nothing(book: Ledger):
    user_id = book.user(10 * USD)
    book.do(
        Freeze(
            idempotency_key=f"freeze:{user_id}", user_id=user_id, reason="Checked", actor="support"
        )
    )

    with book.database.read() as session:
        answer = statements.check_affordability(
            session, CheckAffordability(user_id=user_id, amount_micros=USD)
        )

    assert (answer.can_afford, answer.shortfall_micros) == (False, 0)
    assert answer.status is AccountStatus.FROZEN


def test_what_several_holds_come_to_has_no_bound_of_one_amount(book: Ledger):
    user_id = book.user()
    for _ in range(2):
        book.do(credit(user_id, MAX_AMOUNT_MICROS))
        book.do(
            PlaceHold(
                idempotency_key=f"hold:{new_id()}",
                user_id=user_id,
                amount_micros=MAX_AMOUNT_MICROS,
                description="Reservation",
            )
        )

    assert book.wallet(user_id).held_micros == 2 * MAX_AMOUNT_MICROS


def balance_at(book: Ledger, user_id, at, axis=DateAxis.RECORDED):
    with book.database.read() as session:
        request = BalanceAt(user_id=user_id, at=at, axis=axis)
        dollars, rest = divmod(statements.balance_at(session, request).balance_micros, USD)
    assert rest == 0
    return dollars


def test_the_balance_of_a_past_moment_counts_what_was_recorded_by_then(book: Ledger):
    user_id = book.user(25 * USD)
    book.later(days=1)
    book.do(debit(user_id, 5 * USD))

    balances = [balance_at(book, user_id, NOON + timedelta(days=d)) for d in (-1, 0, 1)]

    assert balances == [0, 25, 20]


def test_a_backdated_debit_counts_from_its_effective_date(book: Ledger):
    user_id = book.user(25 * USD)
    book.later(days=3)
    book.do(debit(user_id, 5 * USD, effective_at=NOON + timedelta(days=1)))
    at = NOON + timedelta(days=2)

    assert balance_at(book, user_id, at) == 25
    assert balance_at(book, user_id, at, DateAxis.EFFECTIVE) == 20


INSTANT = timedelta(microseconds=1)


def test_every_question_is_answered_for_one_user_and_for_no_other(book: Ledger):
    earlier, user_id, later = (book.user(n * 100 * USD) for n in (1, 2, 3))
    ago = book.now - timedelta(days=3)
    for somebody in (earlier, user_id, later):
        book.do(debit(somebody, USD, effective_at=ago))
    (mine,) = page(book, user_id, kinds=["purchase"]).transactions

    with book.database.read() as session:
        affordable = statements.check_affordability(
            session, CheckAffordability(user_id=user_id, amount_micros=200 * USD)
        )
        found = statements.get_transaction(session, user_id, mine.transaction_id)
        for somebody in (earlier, later):
            with pytest.raises(NotFound):
                statements.get_transaction(session, somebody, mine.transaction_id)

    assert [t.amount_micros // USD for t in page(book, user_id).transactions] == [-1, 200]
    assert (found.amount_micros, affordable.shortfall_micros) == (-USD, USD)
    assert book.balance(user_id) == 199 * USD
    assert balance_at(book, user_id, book.now) == 199
    assert balance_at(book, user_id, ago, DateAxis.EFFECTIVE) == -1


def test_the_cursor_of_somebody_else_shows_nothing_of_theirs(book: Ledger):
    earlier, user_id, later = (book.user(USD) for _ in range(3))
    for somebody in (earlier, user_id, later):
        book.do(debit(somebody, 1))

    for somebody in (earlier, later):
        cursor = page(book, somebody, limit=1).next_cursor
        assert [t.amount_micros for t in page(book, user_id, cursor=cursor).transactions] == [USD]


@pytest.mark.parametrize(("missing_micros", "can_afford"), [(0, True), (1, False)])
def test_all_that_is_available_can_be_afforded_and_not_a_micro_dollar_more(
    book: Ledger, missing_micros: int, can_afford: bool
):
    user_id = book.user(2 * USD)

    with book.database.read() as session:
        answer = statements.check_affordability(
            session,
            CheckAffordability(user_id=user_id, amount_micros=2 * USD + missing_micros),
        )

    assert (answer.can_afford, answer.shortfall_micros) == (can_afford, missing_micros)


def test_a_time_begins_with_its_first_instant_and_ends_before_its_last(book: Ledger):
    user_id = book.user(USD)

    assert len(page(book, user_id, since=NOON, until=NOON + INSTANT).transactions) == 1
    assert page(book, user_id, since=NOON - INSTANT, until=NOON).transactions == []
    assert page(book, user_id, since=NOON + INSTANT).transactions == []


@pytest.mark.parametrize("axis", DateAxis)
def test_the_balance_of_an_instant_has_what_happened_in_it(book: Ledger, axis: DateAxis):
    user_id = book.user(25 * USD)
    book.later(days=2)
    book.do(debit(user_id, 5 * USD, effective_at=NOON + timedelta(days=1)))
    at = NOON + timedelta(days=1 if axis is DateAxis.EFFECTIVE else 2)

    assert balance_at(book, user_id, at - INSTANT, axis) == 25
    assert balance_at(book, user_id, at, axis) == 20


def test_what_takes_effect_now_is_accepted_and_an_instant_later_refused(book: Ledger):
    user_id = book.user(25 * USD)

    book.do(debit(user_id, USD, effective_at=book.now))
    with pytest.raises(BadRequest):
        book.do(debit(user_id, USD, effective_at=book.now + INSTANT))

    assert book.balance(user_id) == 24 * USD
