"""Old rows go in small steps, and hold up nobody."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, text

from chassis import retention
from chassis.database import Connected
from chassis.retention import Kept, forget

NOW = datetime(2027, 3, 10, 12, 0, tzinfo=UTC)
KEPT = Kept("leaves", "fell_at", days=30)
OLD, YOUNG = NOW - timedelta(days=31), NOW - timedelta(days=29)


@pytest.fixture
def leaves(database: Connected) -> Iterator[Connected]:
    with database.begin() as session:
        session.execute(text("CREATE TABLE leaves (n integer, fell_at timestamptz)"))
        session.execute(text("CREATE INDEX leaves_fallen ON leaves (fell_at)"))
    yield database
    with database.begin() as session:
        session.execute(text("DROP TABLE leaves"))


def fall(database: Connected, *numbers: int, at: datetime = OLD) -> None:
    with database.begin() as session:
        for n in numbers:
            session.execute(text("INSERT INTO leaves VALUES (:n, :at)"), {"n": n, "at": at})


def left(database: Connected) -> list[int]:
    with database.read() as session:
        return list(session.scalars(text("SELECT n FROM leaves ORDER BY n")))


def test_old_rows_go_in_batches_and_young_ones_stay(
    leaves: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_SIZE", 2)
    fall(leaves, 1, 2, 3, 4, 5)
    fall(leaves, 6, at=YOUNG)
    commits: list[object] = []

    def note(connection: object) -> None:
        commits.append(connection)

    event.listen(leaves.engine, "commit", note)

    gone = forget(leaves, NOW, [KEPT])

    event.remove(leaves.engine, "commit", note)
    assert (gone, left(leaves), len(commits)) == ({"leaves": 5}, [6], 3)


def test_years_of_old_rows_are_left_to_later_calls(
    leaves: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_SIZE", 2)
    monkeypatch.setattr(retention, "SECONDS_MAX", 0)
    fall(leaves, 1, 2, 3)

    assert [forget(leaves, NOW, [KEPT]) for _ in range(2)] == [{"leaves": 2}, {"leaves": 1}]


def test_a_row_that_somebody_holds_is_passed_over_and_goes_later(leaves: Connected) -> None:
    fall(leaves, 1, 2, 3)
    with leaves.begin() as other:
        other.execute(text("SELECT FROM leaves WHERE n = 1 FOR UPDATE"))
        forget(leaves, NOW, [KEPT])
        left_meanwhile = left(leaves)

    forget(leaves, NOW, [KEPT])

    assert (left_meanwhile, left(leaves)) == ([1], [])


def test_others_write_to_the_table_while_a_batch_is_under_way(leaves: Connected) -> None:
    fall(leaves, 1)
    fall(leaves, 2, at=YOUNG)
    with leaves.begin() as deletion:
        deletion.execute(text(KEPT.statement), {"before": NOW - timedelta(days=30), "limit": 9})
        fall(leaves, 3)
        with leaves.begin() as other:
            other.execute(text("UPDATE leaves SET n = 20 WHERE n = 2"))

    assert left(leaves) == [3, 20]


def test_a_batch_that_fails_undoes_none_before_it_and_stops_no_other_table(
    leaves: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_SIZE", 1)
    fall(leaves, 1, at=OLD)
    fall(leaves, 2, at=OLD + timedelta(minutes=1))
    with leaves.begin() as session:
        session.execute(text("ALTER TABLE leaves ADD UNIQUE (n)"))
        session.execute(text("CREATE TABLE kept_by (n integer REFERENCES leaves (n))"))
        session.execute(text("INSERT INTO kept_by VALUES (2)"))
        session.execute(text("CREATE TABLE other (at timestamptz)"))
        session.execute(text("INSERT INTO other VALUES (:old)"), {"old": OLD})

    gone = forget(leaves, NOW, [KEPT, Kept("other", "at", days=1)])

    with leaves.begin() as session:
        session.execute(text("DROP TABLE kept_by, other"))
    assert (gone, left(leaves)) == ({"other": 1}, [2])


def test_an_exception_stays_for_ever(leaves: Connected) -> None:
    fall(leaves, 1, 2)

    forget(leaves, NOW, [Kept("leaves", "fell_at", days=30, unless="n = 2")])

    assert left(leaves) == [2]
