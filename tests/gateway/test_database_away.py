"""While the gateway's own database is away: a page says so, and the log says it once."""

import json
from collections.abc import Callable, Iterator

import pytest
import requests
from sqlalchemy import create_engine, make_url, text

from chassis.database import Connected
from deploy.local.postgres import Postgres
from services.gateway.models import User
from tests.gateway.conftest import Front, Site, add_user
from tests.gateway.test_site import log_in
from tests.patience import PATIENCE_S, eventually


@pytest.fixture
def user(database: Connected) -> User:
    return add_user(database, has_wallet=True)


@pytest.fixture
def close_database(postgres: Postgres, databases: dict[str, str]) -> Iterator[Callable[[], None]]:
    """Nobody gets into the gateway's database any more, for the rest of a test."""
    name = make_url(databases["gateway"]).database
    engine = create_engine(postgres.admin_url, isolation_level="AUTOCOMMIT")

    def allow(connections: str) -> None:
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {connections}"))

    def close() -> None:
        allow("false")
        with engine.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n"),
                {"n": name},
            )

    yield close
    allow("true")
    engine.dispose()


def test_who_is_logged_in_sees_the_page_that_says_so(
    site: Site, user: User, close_database: Callable[[], None]
) -> None:
    browser, _ = log_in(site, user)
    close_database()

    pages = [
        browser.get(site.base_url + path, timeout=PATIENCE_S) for path in ("/dashboard", "/login")
    ]

    assert [page.status_code for page in pages] == [503, 503]
    assert all("cannot reach its database" in page.text for page in pages)
    assert all("</html>" in page.text for page in pages)


def test_two_hundred_requests_write_the_same_failure_a_few_times(
    start_front: Callable[..., Front], user: User, close_database: Callable[[], None]
) -> None:
    front = start_front()
    browser, _ = log_in(Site(front.base_url), user)
    before = len(front.child.log_path.read_text())
    close_database()

    for _ in range(200):
        assert browser.get(front.base_url + "/dashboard", timeout=PATIENCE_S).status_code == 503

    lines = front.child.log_path.read_text()[before:].splitlines()
    failures = [line for line in lines if json.loads(line)["level"] == "ERROR"]
    assert failures
    assert sum(map(len, failures)) < 50_000
    assert len(failures) < 50


def test_readiness_is_answered_in_time(site: Site, close_database: Callable[[], None]) -> None:
    close_database()

    def readiness() -> tuple[str, bool]:
        answer = requests.get(f"{site.base_url}/readyz", timeout=PATIENCE_S)
        return answer.json()["checks"]["database"], answer.elapsed.total_seconds() < 3

    eventually(readiness, lambda found: found == ("away", True))
