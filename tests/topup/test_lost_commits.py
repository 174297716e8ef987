"""A commit that does not wait for the disk goes with its server: nothing of the money does."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest

from chassis.database import Connected, connect
from chassis.migrate import migrate
from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from tests.topup.conftest import USD, Desk
from tests.topup.test_unknown_outcomes import look


@pytest.fixture
def own_postgres(scratch: Path) -> Iterator[Postgres]:
    """A server that takes its time to write what nobody waits for, and can be lost."""
    server = start_postgres(scratch / f"postgres-{uuid4().hex[-8:]}")
    connection = psycopg2.connect(server.admin_url.replace("+psycopg2", ""))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        cursor.execute("SELECT pg_reload_conf()")
    connection.close()
    yield server
    server.stop()


@pytest.fixture
def database(own_postgres: Postgres) -> Iterator[Connected]:
    url = own_postgres.create_database("topup")
    migrate("services.topup", url)
    database = connect(url)
    yield database
    database.engine.dispose()


def test_a_charge_whose_answer_went_with_the_server_is_found_and_made_once(
    desk: Desk, own_postgres: Postgres
) -> None:
    customer = desk.customer()
    customer.lack(5 * USD)
    desk.drain()
    assert customer.statuses() == ["paid"]

    for process in own_postgres.children:
        process.kill()
    own_postgres.restart()
    desk.till.database.engine.dispose()
    after_the_loss = customer.statuses()
    look(desk)

    assert after_the_loss == ["processing"]
    assert (customer.statuses(), customer.charged_cents()) == (["paid"], 2_500)
    assert len(customer.events("topup_paid")) == 1
