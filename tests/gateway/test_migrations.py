"""What the migrations make of rows that were there before them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from deploy.local.postgres import Postgres
from services.gateway.people import users
from tests.gateway.conftest import PASSWORD


@pytest.fixture
def older_database(postgres: Postgres) -> Iterator[Connected]:
    """A database whose addresses have the keys of before."""
    url = postgres.create_database("gateway_older")
    migrate("services.gateway", url, "0001")
    database = connect(url)
    yield database
    database.engine.dispose()
    postgres.drop_database("gateway_older")


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

    migrate("services.gateway", older_database.engine.url.render_as_string(hide_password=False))

    assert users.log_in(older_database, email, PASSWORD).user_id == row["id"]
