"""Plans: totals, conflicts, what was rounded away, and what a person decides."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.errors import Conflict as Refusal
from contracts.legacy import SERVICES_MAX
from services.legacy.examples import BLOCKING, FAULTS, examples, write
from services.legacy.models import LineRow
from services.legacy.planning import plans
from services.legacy.planning.judging import Conflict, has_float_tail
from services.legacy.reading.amounts import in_dollars
from tests.legacy.conftest import directory, user

RATE = Decimal("0.1")
SAMPLES = Path(__file__).with_name("samples")


def planned(database: Connected, path: Path, *registered: str) -> UUID:
    return plans.make(database, path, RATE, utc_now, registered)


def lines(database: Connected, plan_id: UUID) -> dict[str, LineRow]:
    with database.read() as session:
        found = session.scalars(select(LineRow).where(LineRow.plan_id == plan_id))
        return {line.place: line for line in found}


def conflicts(database: Connected, path: Path, *registered: str) -> dict[str, list[str]]:
    found = lines(database, planned(database, path, *registered))
    return {place: line.conflicts for place, line in found.items()}


def running(more: str) -> str:
    return '"services":[{"id":"s","name":"VM","status":"Running",' + more + "}]"


CONFLICTS = {
    "below zero": (user("a@b.example", "-1"), [Conflict.NEGATIVE_BALANCE]),
    "more than a wallet holds": (user("a@b.example", "10000000001"), [Conflict.TOO_LARGE]),
    "just what a wallet holds": (user("a@b.example", "10000000000"), []),
    "what a float left": (
        user("a@b.example", "99.99999999999999", as_number=True),
        [Conflict.FLOAT_TAIL],
    ),
    "the same as text, which no float wrote": (user("a@b.example", "99.99999999999999"), []),
    "no address": (user("nobody", "1"), [Conflict.ADDRESS_UNUSABLE]),
    "a category that is not sold": (
        user(
            "a@b.example",
            "1",
            running('"category":"magic","price_per_month":"5","renewal":"2026-01-01"'),
        ),
        [Conflict.UNKNOWN_CATEGORY],
    ),
    "a price in another coin": (
        user(
            "a@b.example",
            "1",
            running('"category":"compute","price":["5","EUR"],"renewal":"2026-01-01"'),
        ),
        [Conflict.UNKNOWN_PRICE],
    ),
    "no next month": (
        user("a@b.example", "1", running('"category":"compute","price_per_month":"5"')),
        [Conflict.UNKNOWN_RENEWAL],
    ),
    "a next month before all calendars": (
        user(
            "a@b.example",
            "1",
            running('"category":"compute","price_per_month":"5","renewal":"0001-01-01"'),
        ),
        [Conflict.UNKNOWN_RENEWAL],
    ),
    "a next month behind all calendars": (
        user(
            "a@b.example",
            "1",
            running('"category":"compute","price_per_month":"5","renewal":"9999-12-31T23:59:59Z"'),
        ),
        [Conflict.UNKNOWN_RENEWAL],
    ),
    "a service that does not run, whatever it lacks": (
        user("a@b.example", "1", '"services":[{"name":"VM","status":"Stopped"}]'),
        [],
    ),
}


@pytest.mark.parametrize("oddity", CONFLICTS)
def test_what_a_person_has_to_decide_has_a_name(
    database: Connected, tmp_path: Path, oddity: str
) -> None:
    document, expected = CONFLICTS[oddity]

    assert conflicts(database, directory(tmp_path, document)) == {"0.json": expected}


def test_somebody_twice_is_neither_added_up_nor_chosen(database: Connected, tmp_path: Path) -> None:
    path = directory(
        tmp_path,
        user("Ann@Example.org", "1"),
        user(" ann@example.ORG", "2"),
        user("b@c.example", "3"),
    )

    assert conflicts(database, path) == {
        "0.json": [Conflict.DUPLICATE_ADDRESS],
        "1.json": [Conflict.DUPLICATE_ADDRESS],
        "2.json": [],
    }


def test_who_has_an_account_already_is_a_conflict(database: Connected, tmp_path: Path) -> None:
    path = directory(tmp_path, user("Ann@Example.org", "1"), user("b@c.example", "3"))

    assert conflicts(database, path, "ann@example.org", "other@example.org") == {
        "0.json": [Conflict.ADDRESS_REGISTERED],
        "1.json": [],
    }


def test_one_refused_file_stops_no_other(database: Connected, tmp_path: Path) -> None:
    found = lines(
        database,
        planned(
            database,
            directory(
                tmp_path, "{", user("a@b.example", "true", as_number=True), user("b@c.example", "3")
            ),
        ),
    )

    assert {place: line.refusal for place, line in found.items()} == {
        "0.json": "ends early",
        "1.json": "wallet_balance: true or false where an amount has to be",
        "2.json": "",
    }


def test_the_samples_come_to_their_exact_total(database: Connected) -> None:
    plan_id = planned(database, SAMPLES)

    with database.read() as session:
        totals = plans.totals(session, plan_id)

    assert (totals.documents, totals.refused, totals.in_conflict, totals.ready) == (72, 12, 9, 51)
    assert totals.old_points_ready * 100_000 == totals.new_micros + totals.rounded_away


def test_a_document_is_archived_with_every_field_and_digit(
    database: Connected, tmp_path: Path
) -> None:
    document = user("a@b.example", "1", '"mood":[1.10,1E+2,"\\u0000",{"x":"\\ud800"}]')
    path = directory(tmp_path, document)

    assert lines(database, planned(database, path))["0.json"].document == document


def test_the_examples_are_the_same_for_the_same_seed_and_hold_every_fault(
    database: Connected, tmp_path: Path
) -> None:
    found = list(examples(60, seed=1, faults=0.6, transactions=1))
    write(tmp_path, iter(found))

    plan_id = planned(database, tmp_path)

    assert found == list(examples(60, seed=1, faults=0.6, transactions=1))
    assert {example.fault for example in found} == {"", *FAULTS}
    with database.snapshot() as session:
        stopped = {line.place for line in plans.problems(session, plan_id)}
    assert stopped == {example.name for example in found if example.fault in BLOCKING}


def test_a_decision_moves_somebody_with_the_balance_that_is_right(
    database: Connected, tmp_path: Path
) -> None:
    document = user("a@b.example", "99.99999999999999", as_number=True)
    plan_id = planned(database, directory(tmp_path, document))

    with database.begin() as session:
        plans.take(session, plan_id, "0.json", "100", "ops", "a float")

    line = lines(database, plan_id)["0.json"]
    assert (line.conflicts, line.amount_micros, line.decision) == (
        [],
        10_000_000,
        "float_tail: taken by ops: a float",
    )


REFUSED_DECISIONS = {
    "below zero without another balance": (user("a@b.example", "-1"), None, "no wallet can hold"),
    "what is no amount": (user("a@b.example", "-1"), "lots", "--points: 'lots' is no amount"),
    "no address to invite at": (user("nobody", "1"), None, "nobody can be invited"),
}


@pytest.mark.parametrize("case", REFUSED_DECISIONS)
def test_what_no_decision_helps_is_refused(database: Connected, tmp_path: Path, case: str) -> None:
    document, points, message = REFUSED_DECISIONS[case]
    plan_id = planned(database, directory(tmp_path, document))

    with database.begin() as session, pytest.raises(Refusal, match=message):
        plans.take(session, plan_id, "0.json", points, "ops", "because")


def test_of_one_person_one_document_is_taken(database: Connected, tmp_path: Path) -> None:
    twice = [user("a@b.example", "1"), user("A@b.example", "2")]
    plan_id = planned(database, directory(tmp_path, *twice))

    with database.begin() as session:
        plans.take(session, plan_id, "1.json", None, "ops", "the newer one")
    with database.begin() as session, pytest.raises(Refusal, match=r"moved with 1\.json"):
        plans.take(session, plan_id, "0.json", None, "ops", "and this")


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("99.99999999999999", True),
        ("0.30000000000000004", True),
        ("33.333333333333336", False),
        ("150.5", False),
        ("1234567.891234", False),
        ("0.1000000000000000055511151231", True),
    ],
)
def test_what_a_float_left_is_told_from_what_is_long(amount: str, expected: bool) -> None:
    assert has_float_tail(Decimal(amount)) is expected


amounts = st.decimals(
    min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False, places=None
).map(lambda amount: Decimal(f"{amount:.18f}"))


@given(st.lists(amounts, max_size=8))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_totals_of_a_plan_are_the_sums_of_its_parts(
    database: Connected, tmp_path_factory: pytest.TempPathFactory, balances: list[Decimal]
) -> None:
    path = directory(
        tmp_path_factory.mktemp("users"),
        *(
            user(f"u{number}@example.org", f"{balance:f}")
            for number, balance in enumerate(balances)
        ),
    )
    with database.begin() as session:
        session.execute(text("TRUNCATE plans, lines, moves"))

    plan_id = planned(database, path)

    with localcontext() as context, database.read() as session:
        context.prec = 200
        totals = plans.totals(session, plan_id)
        expected = [(balance * 100_000).to_integral_value(ROUND_HALF_EVEN) for balance in balances]
        assert totals.new_micros == sum(expected)
        assert totals.old_points == sum(balances)
        assert totals.old_points * 100_000 - totals.new_micros == totals.rounded_away
        assert abs(totals.rounded_away) <= Decimal("0.5") * len(balances)


@given(amounts, st.integers(min_value=1, max_value=10**6))
def test_what_is_rounded_away_is_half_a_micro_dollar_at_most(amount: Decimal, rate: int) -> None:
    found = in_dollars(amount, Decimal(rate).scaleb(-4))

    assert abs(found.rounded_away) <= Decimal("0.5")


@pytest.mark.parametrize("count", [SERVICES_MAX, SERVICES_MAX + 1])
def test_what_no_event_can_tell_is_refused_before_anything_is_paid(
    database: Connected, tmp_path: Path, count: int
) -> None:
    service = '{"name":"VM","status":"Running"}'
    path = directory(
        tmp_path, user("a@b.example", "1", f'"services":[{",".join([service] * count)}]')
    )

    [line] = lines(database, planned(database, path)).values()

    assert ("services: more than 1,000" in line.refusal) is (count > SERVICES_MAX)
