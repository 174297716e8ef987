"""Exports and totals."""

import csv
import io
import json
from datetime import timedelta

import pytest

from chassis.identifiers import new_id
from contracts.errors import BadRequest, NotFound
from contracts.wallet import Export, Totals
from services.wallet import export, totals
from tests.wallet.conftest import NOON, USD, Ledger, debit, transfer


def test_the_export_of_a_user_comes_in_pages_oldest_first(book: Ledger):
    user_id = book.user(25 * USD)
    book.post(*(debit(user_id, (n + 1) * USD) for n in range(4)))
    amounts, cursor = [], None
    with book.database.read() as session:
        while True:
            page = export.page(session, Export(user_id=user_id, cursor=cursor, limit=2))
            amounts += [entry.amount_micros // USD for entry in page.entries]
            cursor = page.next_cursor
            if cursor is None:
                break

    assert amounts == [25, -1, -2, -3, -4]


@pytest.mark.parametrize("limit", [1, 2, 1_000])
def test_the_export_of_a_user_has_nothing_of_who_came_before_or_after(book: Ledger, limit: int):
    earlier, user_id, later = (book.user(n * USD) for n in (1, 2, 3))
    for somebody in (earlier, user_id, later):
        book.do(debit(somebody, USD))
    found, cursor = [], None
    with book.database.read() as session:
        while cursor is not None or not found:
            page = export.page(session, Export(user_id=user_id, cursor=cursor, limit=limit))
            found += page.entries
            cursor = page.next_cursor
        streamed = list(export.stream(session, user_id))
        of_another = export.page(session, Export(user_id=earlier, limit=1)).next_cursor
        begun_elsewhere = export.page(session, Export(user_id=user_id, cursor=of_another))

    assert [(entry.user_id, entry.amount_micros) for entry in found] == [
        (user_id, 2 * USD),
        (user_id, -USD),
    ]
    assert streamed == found == begun_elsewhere.entries


def test_an_export_with_the_longest_metadata_comes_in_pages_that_the_broker_takes(book: Ledger):
    user_id = book.user(150 * USD)
    longest = {f"{n:064}": "\u0001" * 500 for n in range(50)}
    book.post(*(debit(user_id, USD, metadata=longest) for _ in range(150)))
    with book.database.read() as session:
        first = export.page(session, Export(user_id=user_id, limit=1_000))
        entries = list(export.stream(session, user_id))

    assert len(entries) == 151
    assert first.next_cursor is not None
    assert len(first.model_dump_json().encode()) < 16 * 1024 * 1024


def test_the_export_of_all_sums_to_zero(own_book: Ledger):
    sender, receiver = own_book.user(25 * USD), own_book.user()
    own_book.do(transfer(sender, receiver, 5 * USD))
    own_book.do(debit(sender, USD))

    with own_book.database.read() as session:
        entries = list(export.stream(session))

    assert len(entries) == 6
    assert sum(entry.amount_micros for entry in entries) == 0
    assert {entry.house_account for entry in entries} == {
        None,
        "card_receipts",
        "marketplace_revenue",
    }


def test_the_export_of_an_unknown_user_is_not_found(book: Ledger):
    with book.database.read() as session, pytest.raises(NotFound):
        export.page(session, Export(user_id=new_id()))


def written(book: Ledger, user_id, write):
    out = io.StringIO()
    with book.database.read() as session:
        write(export.stream(session, user_id), out)
    return out.getvalue()


def test_json_lines_hold_one_entry_each(book: Ledger):
    user_id = book.user(25 * USD)

    (line,) = written(book, user_id, export.write_jsonl).splitlines()

    assert json.loads(line)["amount_micros"] == 25 * USD


def test_csv_has_a_header_and_runs_no_formula(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(debit(user_id, USD, description="=SUM(A1:A9)", metadata={"note": "a,b"}))

    rows = list(csv.DictReader(io.StringIO(written(book, user_id, export.write_csv))))

    assert [row["amount_micros"] for row in rows] == [str(25 * USD), str(-USD)]
    assert rows[1]["description"] == "'=SUM(A1:A9)"
    assert json.loads(rows[1]["metadata"]) == {"note": "a,b"}


def test_totals_count_by_kind_and_day(own_book: Ledger):
    user_id, other = own_book.user(25 * USD), own_book.user()
    own_book.do(debit(user_id, 2 * USD))
    own_book.do(transfer(user_id, other, 3 * USD))
    own_book.later(days=1)
    own_book.do(debit(user_id, USD))

    with own_book.database.read() as session:
        request = Totals(since=NOON - timedelta(days=1), until=NOON + timedelta(days=3))
        days = totals.report(session, request).days

    assert [
        (d.day.day, d.kind, d.transaction_count, d.credited_micros // USD, d.debited_micros // USD)
        for d in days
    ] == [
        (1, "purchase", 1, 0, 2),
        (1, "topup", 1, 25, 0),
        (1, "transfer", 1, 3, 3),
        (2, "purchase", 1, 0, 1),
    ]


INSTANT = timedelta(microseconds=1)


def test_totals_count_from_the_first_instant_and_not_the_last(own_book: Ledger):
    own_book.user(25 * USD)

    def credited(since, until) -> int:
        with own_book.database.read() as session:
            days = totals.report(session, Totals(since=since, until=until)).days
        return sum(day.credited_micros for day in days) // USD

    assert credited(NOON, NOON + INSTANT) == 25
    assert credited(NOON - INSTANT, NOON) == 0
    assert credited(NOON + INSTANT, NOON + timedelta(days=1)) == 0


def test_a_day_begins_at_midnight_utc(own_book: Ledger):
    own_book.now = NOON.replace(day=2, hour=0) - INSTANT
    user_id = own_book.user(25 * USD)
    own_book.later(microseconds=1)
    own_book.do(debit(user_id, USD))

    with own_book.database.read() as session:
        request = Totals(since=NOON, until=NOON + timedelta(days=2))
        days = totals.report(session, request).days

    assert [(d.day.day, d.kind) for d in days] == [(1, "topup"), (2, "purchase")]


@pytest.mark.parametrize("length", [timedelta(0), -INSTANT, timedelta(days=400) + INSTANT])
def test_totals_of_no_time_or_too_long_a_time_are_refused(book: Ledger, length: timedelta):
    with book.database.read() as session, pytest.raises(BadRequest):
        totals.report(session, Totals(since=NOON, until=NOON + length))


def test_totals_of_four_hundred_days_are_told(own_book: Ledger):
    with own_book.database.read() as session:
        request = Totals(since=NOON, until=NOON + timedelta(days=400))
        assert totals.report(session, request).days == []
