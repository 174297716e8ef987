"""Who deletes the account is known no more, and is moved by no other plan."""

from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.errors import Conflict, NotFound
from contracts.legacy import GetOldHistory
from services.legacy.forgetting import forget_person
from services.legacy.history import old_history
from services.legacy.models import LineRow, MoveRow
from services.legacy.moving import moves
from services.legacy.planning import plans
from tests.legacy.conftest import directory, user
from tests.locks import done_after

GONE, STAYS = "gone@example.org", "stays@example.org"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    service = '"services":[{"name":"Gone\'s machine","status":"Running","category":"compute"}]'
    return directory(tmp_path, user(GONE, "150.5", service), user(STAYS, "20"))


def planned(database: Connected, files: Path) -> UUID:
    return plans.make(database, files, Decimal("0.1"), utc_now)


def moved(database: Connected, plan_id: UUID) -> UUID:
    """Everybody is moved; the id of who is to be forgotten."""
    with database.begin() as session:
        session.execute(text("UPDATE lines SET conflicts = '{}'"))
        moves.begin(session, utc_now(), plan_id)
        session.execute(
            text(
                "UPDATE moves SET status = 'moved', moved_at = now(), due_at = NULL,"
                " transaction_id = gen_random_uuid()"
            )
        )
        return session.scalars(select(MoveRow.user_id).where(MoveRow.email == GONE)).one()


def forgotten(database: Connected, user_id: UUID) -> None:
    for _ in range(2):
        with database.begin() as session:
            forget_person(session, user_id)


def lines(session: Session, plan_id: UUID) -> list[LineRow]:
    return list(session.scalars(select(LineRow).where(LineRow.plan_id == plan_id)))


def everything(database: Connected) -> str:
    """What the database holds of plans and moves, as one text."""
    with database.read() as session:
        rows = session.scalars(
            text(
                "SELECT to_jsonb(l)::text FROM lines l"
                " UNION ALL SELECT to_jsonb(m)::text FROM moves m"
            )
        )
        return "\n".join(rows)


def test_nothing_says_who_it_was(database: Connected, files: Path) -> None:
    user_id = moved(database, planned(database, files))
    planned(database, files)
    assert everything(database).lower().count("gone") > 2

    forgotten(database, user_id)

    assert "gone" not in everything(database).lower()
    assert everything(database).count(STAYS) > 2


def test_the_plan_still_comes_to_the_same(database: Connected, files: Path) -> None:
    plan_id = planned(database, files)
    user_id = moved(database, plan_id)
    with database.read() as session:
        before = plans.totals(session, plan_id)

    forgotten(database, user_id)

    with database.read() as session:
        after = plans.totals(session, plan_id)
    assert (after.new_micros, after.ready) == (before.new_micros, before.ready) == (17_050_000, 2)


@pytest.mark.parametrize("is_made_before", [True, False], ids=["before", "after"])
def test_no_other_plan_moves_the_person_again(
    database: Connected, files: Path, is_made_before: bool
) -> None:
    user_id = moved(database, planned(database, files))
    other = planned(database, files) if is_made_before else None
    forgotten(database, user_id)
    other = other or planned(database, files)

    with database.begin() as session:
        moves.begin(session, utc_now(), other)
        assert len(session.scalars(select(MoveRow)).all()) == 2
        [gone] = [each for each in lines(session, other) if "account_deleted" in each.conflicts]
        assert gone.document == ""
    with database.begin() as session, pytest.raises(Conflict, match="deleted the account"):
        plans.take(session, other, gone.place, None, "an operator", "asked for it")


def test_who_is_forgotten_while_another_plan_begins_is_not_moved_again(
    database: Connected, files: Path
) -> None:
    user_id = moved(database, planned(database, files))
    other = planned(database, files)
    with database.begin() as session:
        session.execute(text("UPDATE lines SET conflicts = '{}'"))

    def begins() -> int:
        with database.begin() as session:
            moves.begin(session, utc_now(), other)
            return len(session.scalars(select(MoveRow)).all())

    assert done_after(database, lambda session: forget_person(session, user_id), begins) == 2


def test_who_was_moved_back_and_deleted_the_account_is_not_moved_by_the_same_plan(
    database: Connected, files: Path
) -> None:
    plan_id = planned(database, files)
    user_id = moved(database, plan_id)
    with database.begin() as session:
        session.execute(text("UPDATE moves SET status = 'reverted', reverted_at = now()"))
    forgotten(database, user_id)

    with database.begin() as session:
        moves.begin(session, utc_now(), plan_id)
        found = {each.email: each.status for each in session.scalars(select(MoveRow))}
    assert found == {"": "reverted", STAYS: "pending"}


def test_there_is_no_old_history_any_more(database: Connected, files: Path) -> None:
    user_id = moved(database, planned(database, files))
    question = GetOldHistory(user_id=user_id)
    with database.read() as session:
        assert old_history(session, question).balance == "150.5"

    forgotten(database, user_id)

    with database.read() as session, pytest.raises(NotFound):
        old_history(session, question)


def test_who_did_not_come_from_there_is_nobody_here(database: Connected, files: Path) -> None:
    planned(database, files)
    before = everything(database)

    forgotten(database, UUID(int=1))

    assert everything(database) == before
