"""Files with one oddity each, in words, and the amount or refusal that a reader comes to."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from services.legacy.reading import documents
from services.legacy.reading.amounts import in_dollars, plain
from services.legacy.reading.documents import Decimal, OldUser, Refused
from services.legacy.reading.sources import sources

BALANCES = {
    "a plain number": ("150.5", "150.5"),
    "a number with an exponent": ("1.505e2", "150.5"),
    "a capital exponent with a plus": ("1505E+0", "1505"),
    "an exponent in a text": ('"1.505e2"', "150.5"),
    "underscores, which the old library reads": ('"1_000_000.5"', "1000000.5"),
    "a plus in front": ('"+7"', "7"),
    "nothing before the point": ('".5"', "0.5"),
    "nothing after the point": ('"5."', "5"),
    "minus zero": ("-0.0", "0"),
    "29 digits, which Python's default context rounds": (
        '"0.30000000000000000000000000005"',
        "0.30000000000000000000000000005",
    ),
    "the largest amount of the old type": (
        '"79228162514264337593543950335"',
        "79228162514264337593543950335",
    ),
    "what a float made of a hundred": ("99.99999999999999", "99.99999999999999"),
    "below zero": ('"-12.5"', "-12.5"),
}
REFUSED = {
    "true as an amount": ("true", "wallet_balance: true or false where an amount has to be"),
    "an object as an amount": ('{"TFP": 5}', "wallet_balance: an object where an amount has to be"),
    "an empty text": ('""', "wallet_balance: an empty text where an amount has to be"),
    "a blank inside": ('"1 000"', "wallet_balance: '1 000' is no amount"),
    "a comma, which may be either": ('"1,000"', "wallet_balance: '1,000' is no amount"),
    "a currency behind": ('"5 TFP"', "wallet_balance: '5 TFP' is no amount"),
    "digits of another script": ('"１２"', "wallet_balance: '１２' is no amount"),
    "not a number, as text": ('"NaN"', "wallet_balance: 'NaN' is no amount"),
    "not a number, as no JSON has it": ("NaN", "not JSON: NaN"),
    "without end": ("-Infinity", "not JSON: -Infinity"),
    "an exponent that fills a memory": (
        "1e999",
        "wallet_balance: '1e999' has more digits than an amount can have",
    ),
    "an exponent that no decimal takes": (
        "1e99999999999999999999",
        "wallet_balance: '1e99999999999999999999' is no amount",
    ),
    "a hundred digits": (
        "9" * 100,
        f"wallet_balance: {'9' * 50!r} has more digits than an amount can have",
    ),
}


def document(balance: str = '"1"', *more: str, email: str = '"who@example.com"') -> bytes:
    return (
        "{" + ",".join([f'"user_email":{email}', f'"wallet_balance":{balance}', *more]) + "}"
    ).encode()


@pytest.mark.parametrize("oddity", BALANCES)
def test_a_balance_is_what_was_written(oddity: str) -> None:
    written, exact = BALANCES[oddity]

    assert plain(documents.read(document(written)).balance) == exact


@pytest.mark.parametrize("oddity", REFUSED)
def test_what_cannot_be_an_amount_is_refused_by_its_name(oddity: str) -> None:
    written, reason = REFUSED[oddity]

    with pytest.raises(Refused) as refusal:
        documents.read(document(written))

    assert str(refusal.value) == reason


def transaction(inside: str) -> bytes:
    return document(
        '"1"', f'"transactions":[{{"id":"t1","created_at":"2025-01-01T00:00:00Z",{inside}}}]'
    )


STRUCTURES: dict[str, tuple[bytes, Any]] = {
    "a doubled key": (b'{"user_email":"a@b.example","user_email":"c"}', "user_email: key twice"),
    "a doubled key deep inside": (
        document('"1"', '"quota":{"a":1,"a":2}'),
        "a: key twice",
    ),
    "both spellings of the balance": (
        document('"1"', '"walletBalance":"2"'),
        "wallet_balance: given twice, as wallet_balance and walletBalance",
    ),
    "no address": (document(email="null"), "user_email: absent"),
    "an address of blanks": (document(email='"  "'), "user_email: empty"),
    "a number as an address": (document(email="7"), "user_email: no text"),
    "transactions that are no list": (
        document('"1"', '"transactions":{}'),
        "transactions: no list",
    ),
    "a transaction that is a text": (
        document('"1"', '"transactions":["x"]'),
        "transactions: an entry of it is no object",
    ),
    "an amount of the history that is none": (
        transaction('"transaction_type":{"TopUp":{"amount":"lots"}}'),
        "transactions/0/transaction_type/TopUp/amount: 'lots' is no amount",
    ),
    "half a character of another encoding": (
        document().replace(b"who", b"w\xe9o"),
        "not UTF-8 at byte 16",
    ),
    "one quote for another": (b"{'user_email': 1}", "not JSON at 1"),
    "ten thousand lists in one another": (b"[" * 200_000, "nested too deeply"),
    "a list of users": (b"[" + document() + b"]", "not an object"),
}


@pytest.mark.parametrize("oddity", STRUCTURES)
def test_a_document_of_the_wrong_shape_is_refused(oddity: str) -> None:
    written, reason = STRUCTURES[oddity]

    with pytest.raises(Refused) as refusal:
        documents.read(written)

    assert str(refusal.value).startswith(reason)


HISTORIES = {
    "a kind that nobody knows stays, without an amount": (
        '"transaction_type":{"Lottery":{"amount":"lots"}},"status":"Won"',
        ("Lottery", "Won", None),
    ),
    "no kind at all": ('"status":"COMPLETED"', ("Unknown", "Completed", None)),
    "an amount that is absent": ('"transaction_type":{"TopUp":{}}', ("TopUp", "", None)),
    "a state that is an object of two": (
        '"transaction_type":"Opened","status":{"a":1,"b":2}',
        ("Opened", "", None),
    ),
    "an exchange out of euros": (
        '"transaction_type":{"Exchange":{"from_currency":"EUR","amount":"25","rate":"10.8"}}',
        ("Exchange", "", "25 EUR"),
    ),
    "a NUL in the note": (
        '"transaction_type":{"Bonus":"1"},"note":"\\u0000"',
        ("Bonus", "", "1 TFP"),
    ),
    "a lone surrogate in the note": (
        '"transaction_type":{"Bonus":"2"},"note":"\\ud800"',
        ("Bonus", "", "2 TFP"),
    ),
}


@pytest.mark.parametrize("oddity", HISTORIES)
def test_an_odd_line_of_the_history_is_kept(oddity: str) -> None:
    inside, expected = HISTORIES[oddity]

    [found] = documents.read(transaction(inside)).transactions

    amount = found.amount and f"{plain(found.amount.exact)} {found.amount.unit}"
    assert (found.kind, found.status, amount) == expected


MOMENTS = {
    "another zone": ("2025-06-01T02:00:00+02:00", "2025-06-01T00:00:00.000000000Z"),
    "small letters": ("2025-06-01t00:00:00z", "2025-06-01T00:00:00.000000000Z"),
    "ten digits of a second": (
        "2025-12-31T23:59:59.9999999999Z",
        "2025-12-31T23:59:59.999999999Z",
    ),
    "a leap second": ("2025-05-05T01:01:60.25Z", "2025-05-05T01:02:00.250000000Z"),
    "the second 61": ("2025-05-05T01:01:61Z", "2025-05-05T01:01:61Z"),
    "a day that does not exist": ("2025-02-30T00:00:00Z", "2025-02-30T00:00:00Z"),
    "the last year that a zone pushes over": (
        "9999-12-31T23:59:59-01:00",
        "9999-12-31T23:59:59-01:00",
    ),
    "words": ("yesterday", "yesterday"),
}


@pytest.mark.parametrize("oddity", MOMENTS)
def test_an_odd_time_refuses_nobody(oddity: str) -> None:
    written, text = MOMENTS[oddity]

    user = documents.read(document('"1"', f'"registered":"{written}"'))

    assert user.times["/registered"].text == text


def test_what_is_finer_than_a_microsecond_is_cut_off() -> None:
    user = documents.read(document('"1"', '"registered":"2025-12-31T23:59:59.999999999Z"'))

    found = user.times["/registered"].at

    assert found is not None
    assert found.isoformat() == "2025-12-31T23:59:59.999999+00:00"


def test_counts_since_1970_are_told_apart_by_their_size() -> None:
    counts = {"registered": 1735689600, "joined": 1735689600 * 10**3, "created": 1735689600 * 10**9}

    user = documents.read(document('"1"', *(f'"{name}":{count}' for name, count in counts.items())))

    assert {moment.text for moment in user.times.values()} == {"2025-01-01T00:00:00.000000000Z"}


def test_a_byte_order_mark_in_front_is_no_part_of_the_document() -> None:
    assert read(b"\xef\xbb\xbf" + document()).email == "who@example.com"


def test_an_address_keeps_its_spelling_and_loses_nothing() -> None:
    assert read(document(email='" Who@Example.COM "')).email == " Who@Example.COM "


def test_a_gzipped_file_is_read_and_one_that_was_cut_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(document())
    (tmp_path / "a.json.gz").write_bytes(whole)
    (tmp_path / "b.json.gz").write_bytes(whole[:-9])
    (tmp_path / "c.json.gz").write_bytes(b"no gzip")
    (tmp_path / "notes.txt").write_text("no user's file")

    first, second, third = sources(tmp_path)

    assert read(first.content).email == "who@example.com"
    assert second.problem.startswith("it cannot be read")
    assert third.problem.startswith("it cannot be read")


def test_only_a_line_feed_ends_a_line_and_a_bad_line_costs_the_others_nothing(
    tmp_path: Path,
) -> None:
    separator = document(email='"a\u2028b@example.com"')
    (tmp_path / "all.jsonl").write_bytes(
        b"\n".join([separator, b"", b'{"user_email":', document()])
    )

    found = list(sources(tmp_path))

    assert [source.place for source in found] == ["all.jsonl:1", "all.jsonl:3", "all.jsonl:4"]
    assert read(found[0].content).email == "a\u2028b@example.com"
    with pytest.raises(Refused, match="ends early"):
        read(found[1].content)
    assert read(found[2].content).email == "who@example.com"


def test_halves_of_a_micro_dollar_go_to_the_even_one_once() -> None:
    rate = Decimal("0.1")
    found = {
        written: in_dollars(Decimal(written), rate)
        for written in ("0.000005", "0.000015", "0.0000150000000000000000000000001", "-0.000005")
    }

    assert {written: dollars.micros for written, dollars in found.items()} == {
        "0.000005": 0,
        "0.000015": 2,
        "0.0000150000000000000000000000001": 2,
        "-0.000005": 0,
    }
    assert plain(found["0.000015"].rounded_away) == "-0.5"


def read(content: bytes) -> OldUser:
    return documents.read(content)
