"""Rows that are held, as they are then."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from chassis.database import Connected
from chassis.locks import for_update, locked, locked_or_none
from tests.locks import done_after


class Base(DeclarativeBase):
    pass


class Purse(Base):
    __tablename__ = "purses"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    coins: Mapped[int]
    note: Mapped[str]


@pytest.fixture
def purses(database: Connected) -> Iterator[Connected]:
    Base.metadata.create_all(database.engine)
    with database.begin() as session:
        session.add(Purse(number=1, coins=100, note=""))
    yield database
    Base.metadata.drop_all(database.engine)


def _selected(session: Session, number: int) -> Purse:
    return session.scalars(for_update(select(Purse).where(Purse.number == number))).one()


WAYS: dict[str, Callable[[Session, int], Purse | None]] = {
    "locked": lambda session, number: locked(session, Purse, number),
    "locked_or_none": lambda session, number: locked_or_none(session, Purse, number),
    "for_update": _selected,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_was_seen_before_is_waited_for_and_is_as_it_is_then(
    purses: Connected, way: str
) -> None:
    def spend(session: Session) -> None:
        session.execute(text("UPDATE purses SET coins = coins - 95"))

    def look() -> int | None:
        with purses.begin() as session:
            seen = session.get_one(Purse, 1)
            held = WAYS[way](session, 1)
            assert held is seen
            return held.coins

    assert done_after(purses, spend, look) == 5


@pytest.mark.parametrize("way", WAYS)
def test_what_was_changed_and_not_written_yet_stays(purses: Connected, way: str) -> None:
    with purses.begin() as session:
        session.get_one(Purse, 1).note = "mine"
        held = WAYS[way](session, 1)

        assert held is not None
        assert held.note == "mine"


def test_a_row_that_is_not_there_is_none_or_raises(purses: Connected) -> None:
    with purses.begin() as session:
        assert locked_or_none(session, Purse, 2) is None
        with pytest.raises(NoResultFound):
            locked(session, Purse, 2)


def test_what_others_hold_is_passed_over_where_that_is_asked_for(purses: Connected) -> None:
    with purses.begin() as holder, purses.begin() as session:
        locked(holder, Purse, 1)

        assert session.scalars(for_update(select(Purse), skip_locked=True)).all() == []
