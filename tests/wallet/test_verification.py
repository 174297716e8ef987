"""Verification and the chain: on a ledger that somebody has damaged, as its owner could."""

import json
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from chassis.identifiers import new_id
from contracts.wallet import (
    Adjust,
    Capture,
    Freeze,
    Hold,
    PlaceHold,
    Refund,
    Transaction,
    Verdict,
    VoidHold,
)
from deploy.local.postgres import Postgres
from services.wallet import chain, verification
from tests.wallet.conftest import USD, Ledger, debit, fresh_ledger, transfer


@pytest.fixture(scope="module")
def busy(postgres: Postgres) -> Iterator[Ledger]:
    """A ledger with a little of everything."""
    with fresh_ledger(postgres) as book:
        fill(book)
        chain.seal(book.database)
        yield book


def fill(book: Ledger) -> None:
    first, second = book.user(100 * USD), book.user(50 * USD)
    bought = book.transaction(debit(first, 10 * USD))
    book.do(transfer(first, second, 20 * USD))
    book.do(
        Refund(
            idempotency_key=f"refund:{new_id()}",
            user_id=first,
            transaction_id=bought.transaction_id,
            amount_micros=4 * USD,
            description="Refund",
        )
    )
    for ending in (None, Capture, VoidHold):
        held = book.do(
            PlaceHold(
                idempotency_key=f"hold:{new_id()}",
                user_id=second,
                amount_micros=5 * USD,
                description="Reservation",
            )
        )
        assert isinstance(held, Hold)
        if ending is not None:
            key = f"end:{held.hold_id}"
            book.do(ending(idempotency_key=key, user_id=second, hold_id=held.hold_id))
    book.do(
        Adjust(
            idempotency_key=f"adjust:{new_id()}",
            user_id=first,
            amount_micros=USD,
            reason="Goodwill",
            actor="operator-7",
        )
    )
    book.do(
        Freeze(
            idempotency_key=f"freeze:{new_id()}",
            user_id=second,
            reason="Under review",
            actor="operator-7",
        )
    )


def verdict_on_damage(book: Ledger, statement) -> Verdict:
    """What only the owner of the tables can do: with the triggers out of the way."""
    tables = (
        "transactions", "entries", "keys", "holds", "balances", "status_changes", "chain",
    )  # fmt: skip
    with book.session() as session:
        for table in tables:
            session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        session.execute(text(statement))
        verdict = verification.verdict(session)
        session.rollback()
    return verdict


def test_a_right_ledger_is_clean(busy: Ledger):
    verdict = verification.verify(busy.database)

    assert (verdict.clean, verdict.first_difference) == (True, None)
    assert (verdict.transaction_count, verdict.entry_count, verdict.sealed_count) == (7, 14, 7)


DAMAGES = {
    "an amount": (
        "UPDATE entries SET amount_micros = 1 WHERE entry_number = 2 AND account_id = 1000",
        "its entries sum to",
    ),
    "both sides of an amount": (
        "UPDATE entries SET amount_micros = amount_micros * 2 WHERE kind = 'adjustment'",
        "its entries sum to",
    ),
    "a running balance": (
        "UPDATE entries SET balance_after_micros = 1 WHERE entry_number = 2 AND account_id = 1000",
        "entry 2 of account 1000: it does not follow",
    ),
    "a removed transaction": (
        "WITH k AS (DELETE FROM keys) DELETE FROM entries WHERE kind = 'adjustment'",
        "its entries sum to 0",
    ),
    "a transaction removed from under its entries": (
        "WITH c AS (DELETE FROM chain) DELETE FROM transactions WHERE kind = 'adjustment'",
        "is not its transaction's",
    ),
    "an entry of nobody": (
        "UPDATE entries SET account_id = 99 WHERE account_id < 1000 AND kind = 'adjustment'",
        "there is no account 99",
    ),
    "a sequence that was left behind": (
        "ALTER SEQUENCE house_entry_number RESTART WITH 4",
        "of account 6: house_entry_number gives out 4 next",
    ),
    "a balance": (
        "UPDATE balances SET balance_micros = balance_micros + 5 WHERE account_id = 1000",
        "account 1000: balance",
    ),
    "held money": (
        "UPDATE balances SET held_micros = 0 WHERE account_id = 1001",
        "account 1001: held 0, by its holds 5000000",
    ),
    "the amount of a capture": (
        "UPDATE holds SET captured_micros = 1 WHERE status = 'captured'",
        "captured 1, its transaction took 5000000",
    ),
    "the end of a hold": (
        "UPDATE holds SET status = 'expired' WHERE status = 'voided'",
        "its keys say otherwise",
    ),
    "a lost key": (
        "DELETE FROM keys WHERE method = 'refund'",
        "0 keys lead to it",
    ),
    "a key of another kind": (
        "UPDATE keys SET method = 'debit' WHERE method = 'credit'",
        "a debit that made an entry of",
    ),
    "a status": (
        "UPDATE balances SET status = 'open' WHERE account_id = 1001",
        "account 1001: open after 1 changes",
    ),
    "the transaction of a capture": (
        "UPDATE transactions SET metadata = '{}' WHERE metadata ->> 'hold_id' IS NOT NULL",
        "which captured it, is not its own",
    ),
    "the way of a refund": (
        "UPDATE entries SET account_id = 4 WHERE kind = 'refund' AND account_id < 1000",
        "it does not go back the way of",
    ),
    "the key of a freeze": (
        "DELETE FROM keys WHERE method = 'freeze'",
        "change of status 1, to frozen: its keys say otherwise",
    ),
    "the key of another change of status": (
        "UPDATE keys SET method = 'unfreeze' WHERE method = 'freeze'",
        "change of status 1, to frozen: its keys say otherwise",
    ),
    "a change of status that was removed": (
        "WITH k AS (DELETE FROM keys WHERE method = 'freeze'),"  # noqa: ISC004
        " b AS (UPDATE balances SET status_change_count = 2 WHERE account_id = 1001)"
        " UPDATE status_changes SET change_number = 2 WHERE account_id = 1001",
        "change of status 1 is missing",
    ),
    "a description": (
        "UPDATE transactions SET description = 'Something else' WHERE kind = 'transfer'",
        "the chain breaks at transaction",
    ),
    "a link": (
        "UPDATE chain SET digest = sha256('x') WHERE position = (SELECT max(position) FROM chain)",
        "the chain breaks at transaction",
    ),
}


@pytest.mark.parametrize(("statement", "named"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damage_is_named(busy: Ledger, statement, named):
    verdict = verdict_on_damage(busy, statement)

    assert verdict.clean is False
    assert named in (verdict.first_difference or "")


def exported(book: Ledger):
    with book.database.read() as session:
        return list(chain.lines(session))


def test_the_chain_is_checked_without_a_database(busy: Ledger):
    with busy.database.read() as session:
        head = chain.head(session)

    difference, last = chain.check_lines(exported(busy))

    assert (difference, last) == (None, head)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        lambda lines: [*lines[:2], lines[2].replace("1000", "1001"), *lines[3:]],
        lambda lines: [*lines[:2], "{}", *lines[3:]],
    ],
    ids=["removed", "swapped", "changed", "nonsense"],
)
def test_an_export_that_was_tampered_with_is_found_out(busy: Ledger, tamper):
    difference, last = chain.check_lines(tamper(exported(busy)))

    assert "line 3" in (difference or "")
    assert last.position == json.loads(exported(busy)[1])["content"]["position"]


def test_the_command_compares_with_a_head_that_was_noted_elsewhere(busy: Ledger, tmp_path):
    file = tmp_path / "ledger.jsonl"
    file.write_text("\n".join(exported(busy)[:-1]))
    with busy.database.read() as session:
        noted = chain.head(session).digest.hex()

    assert chain.main(["check", str(file)]) == 0
    assert chain.main(["check", str(file), "--head", noted]) == 1


def test_sealing_goes_on_where_it_ended(busy: Ledger):
    made = busy.do(debit(busy.users[0], USD))
    assert isinstance(made, Transaction)

    assert (chain.seal(busy.database), chain.seal(busy.database)) == (1, 0)
    assert verification.verify(busy.database).clean


def test_a_ledger_is_sealed_in_batches_whatever_its_size(own_book: Ledger, monkeypatch):
    monkeypatch.setattr(chain, "BATCH_SIZE", 2)
    user_id = own_book.user(10 * USD)
    own_book.post(*(debit(user_id, USD) for _ in range(3)))

    assert chain.seal(own_book.database) == 4
    assert verification.verify(own_book.database).sealed_count == 4


def damage(book: Ledger, table: str, statement: str) -> None:
    """As :func:`verdict_on_damage`, and to stay."""
    with book.database.begin() as session:
        session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        session.execute(text(statement))
        session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_stretches_find_what_the_whole_chain_shows(own_book: Ledger, count: int):
    fill(own_book)
    chain.seal(own_book.database)
    damage(own_book, "transactions", "DELETE FROM transactions WHERE kind = 'adjustment'")

    with own_book.database.read() as session:
        stretches = chain.stretches(session, count)
        whole, _ = chain.first_difference(session)
        found = [chain.first_difference(session, stretch)[0] for stretch in stretches]
        head = chain.head(session)

    assert len(stretches) == min(count, 7)
    assert (stretches[0].first.position, stretches[-1].last) == (0, head)
    assert all(one.last == next_.first for one, next_ in pairwise(stretches))
    assert whole is not None
    assert any(found)


def test_an_empty_chain_has_no_stretches(own_book: Ledger):
    with own_book.database.read() as session:
        assert chain.stretches(session, 4) == []


def test_several_processes_say_what_one_does(own_book: Ledger, capsys, monkeypatch):
    fill(own_book)
    chain.seal(own_book.database)
    url = own_book.database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setattr(verification, "service_settings", lambda: SimpleNamespace(database_url=url))
    monkeypatch.setattr("sys.argv", ["verification", "--processes", "2"])

    assert verification.verify_in_processes(url, 2) == verification.verify(own_book.database)
    assert verification.main() == 0
    damage(own_book, "balances", "UPDATE balances SET balance_micros = balance_micros + 5")
    assert verification.main() == 1
    assert "balance" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["verification", "--processes", "0"])
    with pytest.raises(SystemExit):
        verification.main()


def test_what_moves_meanwhile_is_not_in_the_snapshot_of_any_process(own_book: Ledger):
    fill(own_book)
    with own_book.database.snapshot() as session:
        moment = session.scalar(text("SELECT pg_export_snapshot()"))
        own_book.user(USD)
        with own_book.database.snapshot(moment) as beside:
            counted = [
                each.scalar(text("SELECT count(*) FROM transactions")) for each in (session, beside)
            ]

    assert counted == [7, 7]


def test_a_transaction_that_is_still_on_its_way_is_not_passed_over(busy: Ledger):
    """A writer that began first and commits last keeps the sealer waiting, then giving up."""
    with busy.session() as slow:
        slow.execute(
            text(
                "INSERT INTO transactions (transaction_id, kind, amount_micros, description,"
                " metadata, effective_at, recorded_at)"
                " VALUES (:id, 'purchase', 1, 'x', '{}', now(), now())"
            ),
            {"id": new_id()},
        )
        busy.do(debit(busy.users[0], USD))

        assert chain.seal(busy.database) == 0
        slow.rollback()

    assert chain.seal(busy.database) == 1
