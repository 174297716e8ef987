"""What becomes of one user's login is no other user's: neither of one before nor of one after."""

from datetime import timedelta
from uuid import UUID

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select, update

from chassis.clock import utc_now
from chassis.database import Connected
from services.gateway.models import ApiToken, User, UserSession
from services.gateway.people import sessions, tokens
from services.gateway.people.users import log_in, note_wallet_opened
from tests.gateway.conftest import PASSWORD, add_user

DAY = timedelta(days=1)


@pytest.fixture
def users(database: Connected) -> list[User]:
    """Three users in the order in which they came: the middle one is looked at."""
    return [add_user(database, has_wallet=False) for _ in range(3)]


@pytest.fixture
def secrets(database: Connected, users: list[User]) -> list[str]:
    """The secret of a session of each."""
    with database.begin() as session:
        return [sessions.start(session, utc_now(), user.user_id, DAY) for user in users]


@pytest.fixture
def token_secrets(database: Connected, users: list[User]) -> list[str]:
    with database.begin() as session:
        return [tokens.issue(session, utc_now(), user.user_id, "test") for user in users]


def test_a_session_is_of_the_user_who_began_it(
    database: Connected, users: list[User], secrets: list[str]
) -> None:
    with database.read() as session:
        found = sessions.find(session, utc_now(), secrets[1])

    assert found is not None
    assert found.user.user_id == users[1].user_id


def test_ending_a_session_ends_no_others(database: Connected, secrets: list[str]) -> None:
    with database.begin() as session:
        sessions.revoke(session, utc_now(), secrets[1])

    with database.read() as session:
        lives = [sessions.find(session, utc_now(), secret) is not None for secret in secrets]
    assert lives == [True, False, True]


def test_a_session_in_use_prolongs_no_others(
    database: Connected, users: list[User], secrets: list[str]
) -> None:
    later = utc_now() + timedelta(hours=1)
    with database.begin() as session:
        found = sessions.find(session, utc_now(), secrets[1])
        assert found is not None
        sessions.note_seen(session, later, found.session_id, DAY)

    with database.read() as session:
        prolonged = session.scalars(
            select(UserSession.user_id).where(UserSession.expires_at == later + DAY)
        ).all()
    assert prolonged == [users[1].user_id]


def token_id(database: Connected, secret: str) -> UUID:
    with database.read() as session:
        found = tokens.find(session, utc_now(), secret)
    assert found is not None
    return found.token_id


def test_a_token_is_of_the_user_to_whom_it_was_issued(
    database: Connected, users: list[User], token_secrets: list[str]
) -> None:
    with database.read() as session:
        found = tokens.find(session, utc_now(), token_secrets[1])

    assert found is not None
    assert found.user.user_id == users[1].user_id


def test_ending_a_token_ends_no_others(database: Connected, token_secrets: list[str]) -> None:
    mine = token_id(database, token_secrets[1])

    with database.begin() as session:
        tokens.revoke(session, utc_now(), mine)

    with database.read() as session:
        lives = [tokens.find(session, utc_now(), secret) is not None for secret in token_secrets]
    assert lives == [True, False, True]


def test_a_token_in_use_is_noted_on_no_other(
    database: Connected, users: list[User], token_secrets: list[str]
) -> None:
    later = utc_now() + timedelta(hours=1)
    mine = token_id(database, token_secrets[1])

    with database.begin() as session:
        tokens.note_used(session, later, mine, timedelta(days=30))

    with database.read() as session:
        used = session.scalars(select(ApiToken.user_id).where(ApiToken.last_used_at == later)).all()
    assert used == [users[1].user_id]


def test_a_wallet_that_was_opened_is_noted_on_no_other_user(
    database: Connected, users: list[User]
) -> None:
    ids = [user.user_id for user in users]

    with database.begin() as session:
        note_wallet_opened(session, utc_now(), ids[1])

    with database.read() as session:
        opened = session.scalars(
            select(User.user_id).where(User.user_id.in_(ids), User.wallet_opened_at.is_not(None))
        ).all()
    assert opened == [ids[1]]


def test_a_password_that_is_hashed_anew_is_no_other_users(
    database: Connected, users: list[User]
) -> None:
    # An older hash, the same for all: only who logs in gets another.
    outdated = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    ids = [user.user_id for user in users]
    with database.begin() as session:
        session.execute(update(User).where(User.user_id.in_(ids)).values(password_hash=outdated))

    log_in(database, users[1].email, PASSWORD)

    with database.read() as session:
        renewed = session.scalars(
            select(User.user_id).where(User.user_id.in_(ids), User.password_hash != outdated)
        ).all()
    assert renewed == [ids[1]]
