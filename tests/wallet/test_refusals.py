"""What the database itself refuses, whatever program asks for it."""

from contextlib import contextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from chassis.identifiers import new_id
from contracts.wallet import Hold, PlaceHold
from tests.wallet.conftest import NOON, USD, Ledger, credit, debit


@contextmanager
def refused(reason):
    with pytest.raises(IntegrityError, match=reason):
        yield


def write(book: Ledger, statement, **values):
    with book.database.begin() as session:
        session.execute(text(statement), values)


def post(session, entries, *, kind="purchase", **columns):
    """Write a transaction as a wrong program might; ``entries`` are (account, number, amount,
    balance after)."""
    transaction_id = begin_transaction(session, kind=kind, **columns)
    enter(session, transaction_id, entries, kind)
    return transaction_id


def begin_transaction(
    session,
    *,
    amount_micros=5 * USD,
    kind="purchase",
    effective_at=NOON,
    refunds=None,
    correction="refund",
    metadata="{}",
):
    """Write a transaction without its entries."""
    transaction_id = new_id()
    session.execute(
        text(
            "INSERT INTO transactions (transaction_id, kind, amount_micros, description,"
            " metadata, effective_at, recorded_at, corrects_transaction_id, correction)"
            " VALUES (:id, :kind, :amount, 'x', :metadata, :effective_at, :now, :refunds,"
            " :correction)"
        ),
        {
            "id": transaction_id,
            "kind": kind,
            "amount": amount_micros,
            "effective_at": effective_at,
            "now": NOON,
            "refunds": refunds,
            "correction": correction if refunds else None,
            "metadata": metadata,
        },
    )
    return transaction_id


def enter(session, transaction_id, entries, kind="purchase"):
    """An entry may name a kind of its own."""
    values = ", ".join(
        f"({account}, {number}, '{transaction_id}', {amount}, {after}, '{(*own, kind)[0]}',"
        " :now, :now)"
        for account, number, amount, after, *own in entries
    )
    columns = (
        "account_id, entry_number, transaction_id, amount_micros, balance_after_micros, kind,"
        " effective_at, recorded_at"
    )
    session.execute(text(f"INSERT INTO entries ({columns}) VALUES {values}"), {"now": NOON})  # noqa: S608


def house_number():
    return "nextval('house_entry_number')"


@pytest.fixture
def account(book: Ledger):
    """A wallet with $25 and one entry."""
    return book.wallet(book.user(25 * USD)).account_id


def test_a_right_transaction_is_accepted_and_moves_the_balance(book: Ledger, account):
    with book.database.begin() as session:
        post(
            session,
            [(account, 2, -5 * USD, 20 * USD), (2, house_number(), 5 * USD, "NULL")],
        )

    with book.database.read() as session:
        query = text("SELECT balance_micros FROM balances WHERE account_id = :id")
        assert session.scalar(query, {"id": account}) == 20 * USD


def test_entries_that_do_not_sum_to_zero_are_refused(book: Ledger, account):
    with refused("do not sum to zero"), book.database.begin() as session:
        post(
            session,
            [(account, 2, -5 * USD, 20 * USD), (2, house_number(), 4 * USD, "NULL")],
        )


@pytest.mark.parametrize(
    ("unknown", "after", "reason"),
    [(99, "NULL", "there is no house account 99"), (10**9, 5 * USD, "does not follow")],
)
def test_an_entry_of_an_unknown_account_is_refused(book: Ledger, account, unknown, after, reason):
    with refused(reason), book.database.begin() as session:
        post(session, [(account, 2, -5 * USD, 20 * USD), (unknown, 1, 5 * USD, after)])


def test_entries_without_a_transaction_are_refused(book: Ledger, account):
    with refused("do not match it"), book.database.begin() as session:
        house = (2, house_number(), 5 * USD, "NULL")
        enter(session, new_id(), [(account, 2, -5 * USD, 20 * USD), house])


def test_a_refund_to_somebody_else_is_refused(book: Ledger, account):
    bought = book.transaction(debit(book.user(5 * USD), 5 * USD)).transaction_id
    with refused("does not go back the way"), book.database.begin() as session:
        revenue = (2, house_number(), -5 * USD, "NULL")
        post(session, [(account, 2, 5 * USD, 30 * USD), revenue], kind="refund", refunds=bought)


def test_a_capture_by_another_transaction_is_refused(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 5 * USD)).transaction_id
    held = book.do(hold(user_id, 5 * USD))
    assert isinstance(held, Hold)
    with refused("was not captured by the transaction"):
        write(
            book,
            "UPDATE holds SET status = 'captured', captured_micros = 5000000, closed_at = now(),"
            " transaction_id = :bought WHERE hold_id = :hold_id",
            bought=bought,
            hold_id=held.hold_id,
        )


def test_a_date_that_no_client_can_read_is_refused(book: Ledger):
    with refused("effective_in_our_time"), book.database.begin() as session:
        begin_transaction(session, effective_at="0044-03-15 12:00:00+00 BC")


def test_a_transaction_without_entries_is_refused(book: Ledger):
    with refused("has no entries"), book.database.begin() as session:
        begin_transaction(session)


def test_entries_that_come_after_their_transaction_was_committed_are_refused(book: Ledger, account):
    pair = [(account, 2, -5 * USD, 20 * USD), (2, house_number(), 5 * USD, "NULL")]
    with book.database.begin() as session:
        transaction_id = post(session, pair)
    other = book.wallet(book.user(25 * USD)).account_id

    with refused("come after it was committed"), book.database.begin() as session:
        late = [(other, 2, -5 * USD, 20 * USD), (3, house_number(), 5 * USD, "NULL")]
        enter(session, transaction_id, late)


def test_an_entry_of_another_kind_than_its_transaction_is_refused(book: Ledger, account):
    with refused("do not match it"), book.database.begin() as session:
        transaction_id = post(
            session,
            [(account, 2, -5 * USD, 20 * USD), (2, house_number(), 5 * USD, "NULL")],
        )
        other = [(account, 3, -5 * USD, 15 * USD), (3, house_number(), 5 * USD, "NULL")]
        enter(session, transaction_id, other[1:], kind="usage")


@pytest.mark.parametrize(
    ("number", "after"), [(2, 21 * USD), (3, 20 * USD)], ids=["wrong balance", "wrong number"]
)
def test_an_entry_that_does_not_follow_is_refused(book: Ledger, account, number, after):
    with refused("does not follow"), book.database.begin() as session:
        post(
            session,
            [(account, number, -5 * USD, after), (2, house_number(), 5 * USD, "NULL")],
        )


def test_more_than_the_balance_is_refused(book: Ledger, account):
    with refused("available_is_not_negative"), book.database.begin() as session:
        post(
            session,
            [(account, 2, -26 * USD, -USD), (2, house_number(), 26 * USD, "NULL")],
            amount_micros=26 * USD,
        )


def test_held_money_cannot_be_taken(book: Ledger):
    user_id = book.user(25 * USD)
    account = book.wallet(user_id).account_id
    book.do(hold(user_id, 22 * USD))

    with refused("available_is_not_negative"), book.database.begin() as session:
        post(
            session,
            [(account, 2, -5 * USD, 20 * USD), (2, house_number(), 5 * USD, "NULL")],
        )


def hold(user_id, amount_micros):
    return PlaceHold(
        idempotency_key=f"hold:{new_id()}",
        user_id=user_id,
        amount_micros=amount_micros,
        description="Reservation",
    )


def test_a_balance_cannot_be_set_by_hand(book: Ledger, account):
    with refused("moves only by entries and holds"):
        write(
            book,
            "UPDATE balances SET balance_micros = balance_micros + 1 WHERE account_id = :id",
            id=account,
        )


def test_held_money_cannot_be_set_by_hand(book: Ledger, account):
    with refused("moves only by entries and holds"):
        write(book, "UPDATE balances SET held_micros = 1 WHERE account_id = :id", id=account)


@pytest.mark.parametrize(
    "table", ["accounts", "transactions", "entries", "keys", "status_changes", "chain"]
)
@pytest.mark.parametrize("change", ["DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_what_was_written_down_cannot_be_removed(book: Ledger, table, change):
    with refused("append-only"):
        write(book, change.format(table))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE transactions SET description = 'y'",
        "UPDATE entries SET amount_micros = 1",
        "UPDATE keys SET method = 'debit'",
        "UPDATE accounts SET opened_at = now()",
        "UPDATE chain SET digest = digest",
    ],
)
def test_what_was_written_down_cannot_be_changed(book: Ledger, change):
    with refused("append-only"):
        write(book, change)


def test_a_balance_row_cannot_be_deleted(book: Ledger, account):
    with refused("append-only"):
        write(book, "DELETE FROM balances WHERE account_id = :id", id=account)


def test_a_hold_that_has_ended_cannot_be_ended_again(book: Ledger):
    user_id = book.user(25 * USD)
    placed = book.do(hold(user_id, 5 * USD))
    assert isinstance(placed, Hold)
    end = "UPDATE holds SET status = 'voided', closed_at = now() WHERE hold_id = :id"
    write(book, end, id=placed.hold_id)

    with refused("has ended"):
        write(book, end, id=placed.hold_id)


def test_a_hold_cannot_be_made_smaller(book: Ledger):
    user_id = book.user(25 * USD)
    placed = book.do(hold(user_id, 5 * USD))
    assert isinstance(placed, Hold)

    with refused("more than its end was changed"):
        write(book, "UPDATE holds SET amount_micros = 1 WHERE hold_id = :id", id=placed.hold_id)


def test_refunds_beyond_what_they_refund_are_refused(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 5 * USD))

    with refused("exceed it"), book.database.begin() as session:
        begin_transaction(
            session, kind="refund", amount_micros=5 * USD + 1, refunds=bought.transaction_id
        )


def test_an_adjustment_without_a_reason_is_refused(book: Ledger):
    with refused("adjustment_names_reason_and_actor"):
        write(
            book,
            "INSERT INTO transactions (transaction_id, kind, amount_micros, description,"
            " metadata, effective_at, recorded_at)"
            " VALUES (:id, 'adjustment', 1, 'x', '{}', :now, :now)",
            id=new_id(),
            now=NOON,
        )


def bind_key(book: Ledger, method: str, account_id: int, transaction_id=None, metadata=None):
    write(
        book,
        "INSERT INTO keys (idempotency_key, method, request_hash, account_id, transaction_id,"
        " recorded_at, metadata)"
        " VALUES (:key, :method, sha256('x'), :account, :id, now(), CAST(:metadata AS jsonb))",
        key=str(new_id()),
        method=method,
        account=account_id,
        id=transaction_id,
        metadata=metadata,
    )


def test_a_key_that_points_to_no_entry_is_refused(book: Ledger, account):
    with refused("points to an entry that does not exist"):
        bind_key(book, "debit", account, new_id())


def test_a_key_that_points_to_the_entry_of_another_account_is_refused(book: Ledger, account):
    other = book.transaction(credit(book.user(), USD))

    with refused("points to an entry that does not exist"):
        bind_key(book, "debit", account, other.transaction_id)


def test_a_key_that_repeats_what_its_transaction_says_is_refused(book: Ledger, account):
    with refused("transaction_carries_its_own"):
        bind_key(book, "debit", account, new_id(), metadata="{}")


@pytest.mark.parametrize("method", ["open_account", "set_level"])
def test_a_key_of_an_account_that_does_not_exist_is_refused(book: Ledger, method: str):
    with refused("keys_opened_account_id_fkey"):
        bind_key(book, method, 1_000_000_000)


def test_a_link_of_no_transaction_is_refused(book: Ledger):
    with refused("there is no transaction at position"):
        write(book, "INSERT INTO chain VALUES (9000000000, sha256('x'))")


def test_a_key_is_bound_once(book: Ledger):
    insert = (
        "INSERT INTO keys (idempotency_key, method, recorded_at)"
        " VALUES ('bound once', 'close_key', now())"
    )
    write(book, insert)

    with refused("duplicate key"):
        write(book, insert)
