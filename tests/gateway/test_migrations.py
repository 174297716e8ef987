"""What the migrations make of rows that were there before them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from chassis.clock import utc_now
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from deploy.local.postgres import Postgres
from services.gateway.models import ApiToken
from services.gateway.people import tokens, users
from tests.gateway.conftest import PASSWORD


@contextmanager
def of_revision(postgres: Postgres, revision: str) -> Iterator[Connected]:
    url = postgres.create_database("gateway_older")
    migrate("services.gateway", url, revision)
    database = connect(url)
    yield database
    database.engine.dispose()
    postgres.drop_database("gateway_older")


def bring_up_to_date(database: Connected) -> None:
    migrate("services.gateway", database.engine.url.render_as_string(hide_password=False))


@pytest.fixture
def older_database(postgres: Postgres) -> Iterator[Connected]:
    """A database whose addresses have the keys of before."""
    with of_revision(postgres, "0001") as database:
        yield database


@pytest.mark.parametrize(
    ("email", "email_key"),
    [
        ("Ann@example.com", "ann@example.com"),
        ("ann@straße.example.com", "ann@strasse.example.com"),
        ("\u0390@example.com", "\u03b9\u0308\u0301@example.com"),
    ],
)
def test_an_account_of_before_is_still_found_by_its_address(
    older_database: Connected, email: str, email_key: str
) -> None:
    hashed = users.prepare("ann@example.com", PASSWORD).password_hash
    row = {"id": new_id(), "email": email, "key": email_key, "hash": hashed}
    with older_database.begin() as session:
        session.execute(
            text(
                "INSERT INTO users (user_id, email, email_key, password_hash, created_at)"
                " VALUES (:id, :email, :key, :hash, now())"
            ),
            row,
        )

    bring_up_to_date(older_database)

    assert users.log_in(older_database, email, PASSWORD).user_id == row["id"]


@pytest.fixture
def before_tokens_ended(postgres: Postgres) -> Iterator[Connected]:
    with of_revision(postgres, "0015") as database:
        yield database


def test_tokens_of_logins_of_before_end_after_a_month_and_no_named_or_ended_one_is_changed(
    before_tokens_ended: Connected,
) -> None:
    began = utc_now()
    with before_tokens_ended.begin() as session:
        user_id = users.register(session, began, users.prepare("a@example.com", PASSWORD)).user_id
        long_ago, yesterday = began - timedelta(days=400), began - timedelta(days=1)
        secrets = {
            name: tokens.issue(session, long_ago, user_id, name, is_of_login=name != "named")
            for name in ("login", "other", "revoked", "named")
        }
        session.flush()
        for living in tokens.living(session, began, user_id):
            if living.name == "revoked":
                tokens.revoke(session, yesterday, living.token_id)

    bring_up_to_date(before_tokens_ended)

    with before_tokens_ended.begin() as session:
        found = {row.name: row for row in session.scalars(select(ApiToken))}
        ends = found["login"].expires_at
        assert ends is not None
        assert began + timedelta(days=30) <= ends < began + timedelta(days=30, hours=1)
        assert (found["named"].expires_at, found["revoked"].expires_at) == (None, None)
        # Its use ends it no sooner, though it was given more than half a year ago.
        tokens.note_used(session, began, found["login"].token_id, timedelta(days=30))
        session.flush()
        later = began + timedelta(days=29)
        assert tokens.find(session, later, secrets["login"]) is not None
        assert tokens.find(session, later, secrets["other"]) is not None
