"""The 70 files that a real program of the family wrote, against what two readers found."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.legacy.reading import documents
from services.legacy.reading.amounts import in_dollars, plain
from services.legacy.reading.documents import OldUser, Refused
from services.legacy.reading.sources import sources

SAMPLES = Path(__file__).with_name("samples")
EXPECTED = json.loads((SAMPLES / "expected.json").read_text())
READABLE = [each for each in EXPECTED if each["reading"] == "ok"]
REFUSED = [each for each in EXPECTED if each["reading"] == "refused"]
FILES = {"ids": lambda each: each["file"]}
USD_EACH = {"TFP": documents.Decimal("0.1"), "USD": documents.Decimal(1)}


def users(file: str) -> list[OldUser]:
    return [documents.read(source.content) for source in sources(SAMPLES / file)]


def by_pointer(found: list[OldUser], file: str, name: str) -> dict[str, Any]:
    """Of all users of a file; in a file of lines the pointer begins with the line."""
    if not file.endswith(".jsonl"):
        return getattr(found[0], name)
    return {
        f"/{line}{pointer}": value
        for line, user in enumerate(found)
        for pointer, value in getattr(user, name).items()
    }


def test_there_are_70_of_them() -> None:
    assert len(EXPECTED) == len(READABLE) + len(REFUSED) + 1 == 70


@pytest.mark.parametrize("expected", READABLE, **FILES)
def test_every_amount_is_exactly_what_was_written(expected: dict[str, Any]) -> None:
    found = by_pointer(users(expected["file"]), expected["file"], "amounts")

    assert {
        pointer: {"unit": amount.unit, "exact": plain(amount.exact)}
        for pointer, amount in found.items()
    } == {
        pointer: {"unit": amount["unit"], "exact": amount["exact"]}
        for pointer, amount in expected["amounts"].items()
    }


@pytest.mark.parametrize("expected", READABLE, **FILES)
def test_what_is_worth_dollars_is_rounded_once(expected: dict[str, Any]) -> None:
    found = by_pointer(users(expected["file"]), expected["file"], "amounts")

    assert {
        pointer: str(in_dollars(amount.exact, USD_EACH[amount.unit]).micros)
        for pointer, amount in found.items()
        if amount.unit in USD_EACH
    } == {
        pointer: amount["micro_usd"]
        for pointer, amount in expected["amounts"].items()
        if "micro_usd" in amount
    }


@pytest.mark.parametrize("expected", READABLE, **FILES)
def test_every_time_has_nine_digits_and_is_never_rounded_up(expected: dict[str, Any]) -> None:
    found = by_pointer(users(expected["file"]), expected["file"], "times")

    assert {pointer: moment.text for pointer, moment in found.items()} == expected["times"]


@pytest.mark.parametrize("expected", READABLE, **FILES)
def test_kinds_and_states_are_in_one_spelling(expected: dict[str, Any]) -> None:
    found = users(expected["file"])

    assert [user.email for user in found] == expected.get(
        "user_emails", [expected.get("user_email")]
    )
    if not expected["file"].endswith(".jsonl"):
        [user] = found
        assert [each.kind for each in user.transactions] == expected["transaction_kinds"]
        assert [each.status for each in user.transactions] == expected["transaction_statuses"]
        assert [each.status for each in user.services] == expected["service_statuses"]


@pytest.mark.parametrize("expected", REFUSED, **FILES)
def test_an_unfinished_file_is_refused_with_its_reason(expected: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refusal:
        users(expected["file"])

    assert str(refusal.value) == expected["reason"]


def test_what_was_never_renamed_is_no_users_file() -> None:
    places = {source.place for source in sources(SAMPLES)}
    named = {each["file"] for each in EXPECTED}

    assert named - places == {"broken/gina_broken_at_example_com.json.tmp", "lines/three.jsonl"}
    assert places - named == {
        "expected.json",
        *(f"lines/three.jsonl:{line}" for line in (1, 2, 3)),
    }
