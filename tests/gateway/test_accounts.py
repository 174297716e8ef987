"""Accounts, on a real database."""

import unicodedata
from datetime import timedelta

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from chassis.clock import utc_now
from chassis.database import Connected
from services.gateway.models import User
from services.gateway.people import sessions, tokens, users
from tests.gateway.conftest import PASSWORD, add_user


def test_an_address_differing_in_case_is_the_same_account(database: Connected) -> None:
    add_user(database, "Ann@Example.com", has_wallet=False)

    with pytest.raises(users.EmailTaken):
        add_user(database, "ann@example.COM", has_wallet=False)


@pytest.mark.parametrize(
    "email", ["", "ann", "ann@", "@example.com", "a b@example.com", "ann@example..com", "a@b\x00.c"]
)
def test_what_is_no_address_is_refused_with_a_sentence(email: str) -> None:
    with pytest.raises(users.InvalidEmail, match="not an email address"):
        users.prepare(email, PASSWORD)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "has 5 characters: take at least 8"),
        ("x" * 257, "too long"),
        ("aaaaaaaaaa", "over and over"),
        ("e\u0301" * 257, "too long"),
        ("e\u0301" * 7, "has 7 characters"),
        ("Ann@Example.com", "is the email address"),
        ("password1", "Many people use this"),
        ("QWERTYUIOP", "Many people use this"),
        ("Mycelium-2026!", "a word of this site"),
        ("ｐａｓｓｗｏｒｄ", "Many people use this"),
    ],
)
def test_a_weak_password_is_refused_with_the_reason(password: str, reason: str) -> None:
    with pytest.raises(users.WeakPassword, match=reason):
        users.prepare("ann@example.com", password)


def test_a_password_is_stored_as_argon2id_only() -> None:
    account = users.prepare("ann@example.com", PASSWORD)

    assert account.password_hash.startswith("$argon2id$")
    assert PASSWORD not in repr(account)


def test_the_right_password_logs_in_whatever_the_case_of_the_address(database: Connected) -> None:
    user = add_user(database, "ann@example.com", has_wallet=False)

    assert users.log_in(database, " ANN@example.com", PASSWORD).user_id == user.user_id


def test_a_wrong_password_and_an_unknown_address_say_the_same(database: Connected) -> None:
    add_user(database, "ann@example.com", has_wallet=False)

    with pytest.raises(users.WrongCredentials) as wrong:
        users.log_in(database, "ann@example.com", "another password")
    with pytest.raises(users.WrongCredentials) as unknown:
        users.log_in(database, "bob@example.com", "another password")

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


@pytest.mark.parametrize(
    ("before_its_end", "lives"), [(timedelta(microseconds=1), True), (timedelta(), False)]
)
def test_a_session_ends_by_itself_on_the_instant(
    database: Connected, before_its_end: timedelta, lives: bool
) -> None:
    user, now = add_user(database, has_wallet=False), utc_now()
    with database.begin() as session:
        secret = sessions.start(session, now, user.user_id, timedelta(days=1))

    with database.read() as session:
        found = sessions.find(session, now + timedelta(days=1) - before_its_end, secret)

    assert (found is not None) is lives


def test_a_token_is_stored_as_a_hash_and_can_be_revoked(database: Connected) -> None:
    user, now = add_user(database, has_wallet=False), utc_now()
    with database.begin() as session:
        secret = tokens.issue(session, now, user.user_id, "test")

    with database.begin() as session:
        found = tokens.find(session, utc_now(), secret)
        assert found is not None
        tokens.revoke(session, now, found.token_id)

    with database.read() as session:
        assert tokens.find(session, utc_now(), secret) is None
        assert tokens.find(session, utc_now(), found.token_id.hex) is None


@pytest.mark.parametrize(
    ("registered", "typed"),
    [
        ("ann@bücher.example.com", "ann@xn--bcher-kva.example.com"),
        ("ann@xn--bcher-kva.example.com", "Ann@BÜCHER.example.com"),
        ("ann@bu\u0308cher.example.com", "ann@bücher.example.com"),
        ("caf\u00e9@example.com", "CAFE\u0301@example.com"),
        ("cafe\u0301@example.com", "caf\u00e9@example.com"),
        ("ann@ｅxample。com", "ann@example.com"),
        ("J\u030c@example.com", "\u01f0@example.com"),
    ],
    ids=ascii,
)
def test_every_spelling_of_an_address_is_the_same_account(
    database: Connected, registered: str, typed: str
) -> None:
    user = add_user(database, registered, has_wallet=False)

    assert users.log_in(database, typed, PASSWORD).user_id == user.user_id
    with pytest.raises(users.EmailTaken):
        add_user(database, typed, has_wallet=False)


def test_domains_that_only_caseless_letters_make_alike_are_two(database: Connected) -> None:
    user = add_user(database, "ann@straße.example.com", has_wallet=False)
    other = add_user(database, "ann@strasse.example.com", has_wallet=False)

    assert users.log_in(database, "ann@STRASSE.example.com", PASSWORD).user_id == other.user_id
    assert users.log_in(database, "ann@straße.example.com", PASSWORD).user_id == user.user_id


@pytest.mark.parametrize(
    ("registered", "typed"),
    [
        ("caf\u00e9 au lait", "cafe\u0301 au lait"),
        ("cafe\u0301 au lait", "caf\u00e9 au lait"),
        ("\uac01\uac02" * 128, "\u1100\u1161\u11a8\u1100\u1161\u11a9" * 128),
        ("two\u00a0\u00a0spaces", "two  spaces"),
        (" with its spaces ", " with its spaces "),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_password_logs_in_from_every_keyboard(
    database: Connected, registered: str, typed: str
) -> None:
    account = users.prepare("ann@example.com", registered)
    with database.begin() as session:
        user = users.register(session, utc_now(), account)

    assert users.log_in(database, "ann@example.com", typed).user_id == user.user_id


def test_a_password_that_was_hashed_as_it_was_typed_logs_in_and_gets_its_normal_form(
    database: Connected,
) -> None:
    user = add_user(database, "ann@example.com", has_wallet=False)
    typed = "cafe\u0301 au lait"
    with database.begin() as session:
        as_typed = PasswordHasher().hash(typed)
        session.execute(update(User).values(password_hash=as_typed))

    assert users.log_in(database, "ann@example.com", typed).user_id == user.user_id
    composed = unicodedata.normalize("NFC", typed)
    assert users.log_in(database, "ann@example.com", composed).user_id == user.user_id


@given(st.text(max_size=80) | st.emails() | st.text("@.ab\u0301\u0323\u0345ßſKÅ", max_size=20))
def test_the_key_of_an_address_is_one_for_all_its_spellings(typed: str) -> None:
    key = users.email_key(typed)

    for spelling in (
        key,
        unicodedata.normalize("NFD", typed),
        unicodedata.normalize("NFC", typed),
        f"  {typed}\t",
    ):
        assert users.email_key(spelling) == key
