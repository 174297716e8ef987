"""What is due is taken up by one worker at a time, and for each owner in turn."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import DateTime
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from chassis.database import Connected
from chassis.leases import Leases

NOW = datetime(2027, 3, 10, 12, 0, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)


class Base(DeclarativeBase):
    pass


class Parcel(Base):
    __tablename__ = "parcels"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner: Mapped[str | None]
    due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


DUE = Leases(Parcel.due_at, Parcel.owner, lease=MINUTE)


@pytest.fixture
def parcels(database: Connected) -> Iterator[Connected]:
    Base.metadata.create_all(database.engine)
    yield database
    Base.metadata.drop_all(database.engine)


def send(database: Connected, owner: str | None, *numbers: int, at: datetime | None = NOW) -> None:
    with database.begin() as session:
        session.add_all(Parcel(number=number, owner=owner, due_at=at) for number in numbers)


def taken(database: Connected, now: datetime = NOW, due: Leases = DUE) -> list[int]:
    with database.begin() as session:
        return list(due.take(session, now))


def test_what_is_due_is_leased_until_the_instant_in_which_the_lease_ends(
    parcels: Connected,
) -> None:
    send(parcels, "ann", 1)

    assert taken(parcels, NOW - INSTANT) == []
    assert taken(parcels, NOW) == [1]
    assert taken(parcels, NOW + MINUTE - INSTANT) == []
    assert taken(parcels, NOW + MINUTE) == [1]


def test_what_is_never_due_is_never_taken(parcels: Connected) -> None:
    send(parcels, "ann", 1, at=None)

    assert taken(parcels, NOW + timedelta(days=999)) == []


def test_every_owner_has_a_turn_before_one_has_a_second(parcels: Connected) -> None:
    send(parcels, "ann", 1, 2, 3, at=NOW - MINUTE)
    send(parcels, "ben", 4)
    send(parcels, None, 5)

    assert taken(parcels, due=replace(DUE, limit=3)) == [1, 4, 5]


def test_the_oldest_comes_first_and_at_one_moment_the_lowest_key(parcels: Connected) -> None:
    send(parcels, "ann", 2, 1)
    send(parcels, "ben", 3, at=NOW - MINUTE)

    assert taken(parcels) == [3, 1, 2]


def test_whose_each_is_is_told(parcels: Connected) -> None:
    send(parcels, "ann", 1)
    send(parcels, None, 2)

    with parcels.begin() as session:
        assert DUE.take(session, NOW) == {1: "ann", 2: None}


def test_what_somebody_else_holds_is_passed_over(parcels: Connected) -> None:
    send(parcels, "ann", 1)
    send(parcels, "ben", 2)

    with parcels.begin() as holder:
        first = replace(DUE, limit=1).take(holder, NOW)
        holder.flush()

        assert list(first) == [1]
        assert taken(parcels) == [2]


def test_the_next_moment_is_the_earliest_of_all(parcels: Connected) -> None:
    with parcels.read() as session:
        assert DUE.next_at(session) is None

    send(parcels, "ann", 1, at=NOW + MINUTE)
    send(parcels, "ben", 2)
    send(parcels, "cleo", 3, at=None)

    with parcels.read() as session:
        assert DUE.next_at(session) == NOW


def test_rounds_go_on_until_nothing_is_due_or_there_were_enough(parcels: Connected) -> None:
    send(parcels, "ann", 1, 2, 3)
    by_two = replace(DUE, limit=2)

    assert list(by_two.rounds(parcels, lambda: NOW, at_most=9)) == [[1, 2], [3]]
    assert list(by_two.rounds(parcels, lambda: NOW + MINUTE, at_most=1)) == [[1, 2]]
    assert taken(parcels, NOW + MINUTE) == [3]
