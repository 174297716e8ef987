"""Accounts, on a real database."""

from datetime import timedelta

import pytest

from chassis.clock import utc_now
from chassis.database import Connected
from services.gateway import accounts, sessions, tokens
from tests.gateway.conftest import PASSWORD, add_user


def test_an_address_differing_in_case_is_the_same_account(database: Connected) -> None:
    add_user(database, "Ann@Example.com", has_wallet=False)

    with pytest.raises(accounts.EmailTaken):
        add_user(database, "ann@example.COM", has_wallet=False)


@pytest.mark.parametrize(
    "email", ["", "ann", "ann@", "@example.com", "a b@example.com", "ann@example..com", "a@b\x00.c"]
)
def test_what_is_no_address_is_refused_with_a_sentence(email: str) -> None:
    with pytest.raises(accounts.InvalidEmail, match="not an email address"):
        accounts.prepare(email, PASSWORD)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "has 5 characters: take at least 8"),
        ("x" * 257, "too long"),
        ("aaaaaaaaaa", "over and over"),
        ("Ann@Example.com", "is the email address"),
    ],
)
def test_a_weak_password_is_refused_with_the_reason(password: str, reason: str) -> None:
    with pytest.raises(accounts.WeakPassword, match=reason):
        accounts.prepare("ann@example.com", password)


def test_a_password_is_stored_as_argon2id_only() -> None:
    account = accounts.prepare("ann@example.com", PASSWORD)

    assert account.password_hash.startswith("$argon2id$")
    assert PASSWORD not in repr(account)


def test_the_right_password_logs_in_whatever_the_case_of_the_address(database: Connected) -> None:
    user = add_user(database, "ann@example.com", has_wallet=False)

    assert accounts.log_in(database, " ANN@example.com", PASSWORD).user_id == user.user_id


def test_a_wrong_password_and_an_unknown_address_say_the_same(database: Connected) -> None:
    add_user(database, "ann@example.com", has_wallet=False)

    with pytest.raises(accounts.WrongCredentials) as wrong:
        accounts.log_in(database, "ann@example.com", "another password")
    with pytest.raises(accounts.WrongCredentials) as unknown:
        accounts.log_in(database, "bob@example.com", "another password")

    assert str(wrong.value) == str(unknown.value)


def test_a_session_is_found_by_its_secret_until_it_is_revoked(database: Connected) -> None:
    user, now = add_user(database, has_wallet=False), utc_now()
    with database.begin() as session:
        secret = sessions.start(session, now, user.user_id, timedelta(days=1))

    with database.begin() as session:
        found = sessions.find(session, now, secret)
        sessions.revoke(session, now, secret)
        gone = sessions.find(session, now, secret)

    assert found is not None
    assert found.user.user_id == user.user_id
    assert gone is None


def test_a_session_ends_by_itself(database: Connected) -> None:
    user, now = add_user(database, has_wallet=False), utc_now()
    with database.begin() as session:
        secret = sessions.start(session, now, user.user_id, timedelta(days=1))

    with database.read() as session:
        assert sessions.find(session, now + timedelta(hours=23), secret) is not None
        assert sessions.find(session, now + timedelta(hours=25), secret) is None


def test_a_token_is_stored_as_a_hash_and_can_be_revoked(database: Connected) -> None:
    user, now = add_user(database, has_wallet=False), utc_now()
    with database.begin() as session:
        secret = tokens.issue(session, now, user.user_id, "test")

    with database.begin() as session:
        found = tokens.find(session, secret)
        assert found is not None
        tokens.revoke(session, now, found.token_id)

    with database.read() as session:
        assert tokens.find(session, secret) is None
        assert tokens.find(session, found.token_id.hex) is None
