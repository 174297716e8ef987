"""What is published again: everything since a moment, and nothing that may be forgotten."""

import subprocess
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import text

from chassis.clock import utc_now
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from chassis.outbox import publish
from chassis.settings import InboxSettings
from deploy.local.postgres import Postgres
from tests.chassis.probe.messages import Told
from tests.system import run_command


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[Connected]:
    name = f"republish_{new_id().hex[-12:]}"
    database = connect(postgres.create_database(name))
    migrate("tests.chassis.probe", database.engine.url.render_as_string(hide_password=False))
    yield database
    database.engine.dispose()
    postgres.drop_database(name)


def published(database: Connected, hours_ago: int) -> None:
    with database.begin() as session:
        publish(session, Told(event_id=new_id(), occurred_at=utc_now(), n=hours_ago))
    with database.begin() as session:
        session.execute(
            text(
                "UPDATE outbox SET published_at = now(), attempts = 3, next_attempt_at = now(),"
                " created_at = now() - make_interval(hours => :hours) WHERE payload->>'n' = :n"
            ),
            {"hours": hours_ago, "n": str(hours_ago)},
        )


def unsent(database: Connected) -> list[tuple[int, int]]:
    with database.read() as session:
        found = session.execute(
            text(
                "SELECT payload->>'n', attempts FROM outbox WHERE published_at IS NULL ORDER BY id"
            )
        )
        return [(int(n), attempts) for n, attempts in found]


def run(database: Connected, since: str) -> subprocess.CompletedProcess[str]:
    return run_command(database, "chassis.republish", "probe", "--since", since)


def test_what_was_published_since_a_moment_is_sent_again(database: Connected) -> None:
    for hours_ago in (5, 2, 1):
        published(database, hours_ago)
    since = (utc_now() - timedelta(hours=3)).isoformat()

    done = run(database, since)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "probe.told: 2\n2 events of probe are published again.\n"
    assert unsent(database) == [(2, 0), (1, 0)]


@pytest.mark.parametrize(
    ("since", "said"),
    [
        ("2026-11-29", "with its zone"),
        ("2026-01-01T00:00:00+00:00", "INBOX_KEPT_DAYS"),
    ],
)
def test_a_moment_that_is_unclear_or_forgotten_is_refused(
    database: Connected, since: str, said: str
) -> None:
    refused = run(database, since)

    assert refused.returncode == 2
    assert said in " ".join(refused.stderr.split())


def test_what_would_be_forgotten_while_it_is_sent_is_refused(database: Connected) -> None:
    known_for = timedelta(days=InboxSettings().inbox_kept_days)
    forgotten_within_a_day = utc_now() - known_for + timedelta(hours=23)
    known_for_longer = utc_now() - known_for + timedelta(hours=25)

    refused = run(database, forgotten_within_a_day.isoformat())

    assert refused.returncode == 2
    assert "sending may take a day" in " ".join(refused.stderr.split())
    assert run(database, known_for_longer.isoformat()).returncode == 0
