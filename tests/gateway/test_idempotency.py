from uuid import UUID, uuid4

import pytest

from services.gateway.errors import Problem
from services.gateway.idempotency import KEY_LENGTH_MAX, scoped_key

USER = UUID(int=2)


@pytest.mark.parametrize("other", [UUID(int=1), UUID(int=3)])
def test_the_same_key_of_two_users_is_two_commands(other: UUID) -> None:
    assert scoped_key(USER, "buy-1") != scoped_key(other, "buy-1")


def test_nobody_can_write_another_users_key() -> None:
    """Not even by a key that begins with the other's id."""
    mine, other = uuid4(), uuid4()

    assert scoped_key(mine, f"{other}:buy-1") != scoped_key(other, "buy-1")


def test_the_same_key_of_a_user_is_the_same_command() -> None:
    assert scoped_key(USER, "buy-1") == scoped_key(USER, "buy-1")


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "idempotency_key_required"),
        ("", "idempotency_key_required"),
        ("k" * (KEY_LENGTH_MAX + 1), "idempotency_key_malformed"),
        ("two words", "idempotency_key_malformed"),
        ("schlüssel", "idempotency_key_malformed"),
        ("line\n", "idempotency_key_malformed"),
    ],
)
def test_what_is_no_key_is_refused(key: str | None, code: str) -> None:
    with pytest.raises(Problem) as refusal:
        scoped_key(USER, key)

    assert (refusal.value.status, refusal.value.code) == (400, code)


@pytest.mark.parametrize("key", ["k", "k" * KEY_LENGTH_MAX, "!~"])
def test_a_key_of_any_printable_characters_is_taken(key: str) -> None:
    assert scoped_key(USER, key).endswith(key)
