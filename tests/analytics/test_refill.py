"""Who registered when is counted of what the website prints; tests/people counts all the rest."""

from pathlib import Path

import pytest
from sqlalchemy import select

from chassis.database import Connected, connect
from services.analytics.models import FactRow
from services.analytics.refill import refill, registrations
from services.gateway.people.users import NewAccount, register
from services.gateway.registrations import lines
from tests.analytics.conftest import ANN, BOB, at
from tests.counted import all_counts


def test_registrations_are_counted_of_what_the_website_prints(
    database: Connected, databases: dict[str, str], tmp_path: Path
) -> None:
    website = connect(databases["gateway"])
    before = set(lines(website))
    with website.begin() as session:
        user = register(session, at(2, "10:00:00"), NewAccount("a@ex.org", "a@ex.org", "x"))
    (line,) = set(lines(website)) - before
    website.engine.dispose()
    file = tmp_path / "registered"
    file.write_text(f"{line}\n{BOB} {at(3, '10:00:00').isoformat()}\n")

    for _ in range(2):
        assert refill(database, registrations(file)) == 2

    counts = all_counts(database)
    assert [counts["day", "registrations", at(day, "00:00:00"), ""] for day in (2, 3)] == [1, 1]
    with database.read() as session:
        assert set(session.scalars(select(FactRow.subject_id))) == {user.user_id, BOB}


def test_a_line_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    file = tmp_path / "registered"
    file.write_text(f"{ANN} {at(3, '10:00:00').isoformat()}\n{BOB} yesterday\n")

    with pytest.raises(ValueError, match="line 2"):
        list(registrations(file))
