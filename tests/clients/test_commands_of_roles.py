"""The command of people with a role, before a site that answers as it is told here."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from chassis.clock import utc_now
from contracts.analytics import POINTS_MAX, Step
from mycelium_cli import main as mycelium

USER = "01900000-0000-7000-8000-000000000001"
LENGTHS = {
    Step.HOUR: timedelta(hours=1), Step.DAY: timedelta(days=1), Step.WEEK: timedelta(weeks=1),
}  # fmt: skip
NUMBERS = {
    "since": "2026-01-01T00:00:00Z", "until": "2026-11-29T00:00:00Z", "points": [],
    "total": {"registrations": 3, "paths": [], "ways": []},
    "purchases_ended": [], "topups_failed": [],
}  # fmt: skip


class Told(HTTPServer):
    """Answers every question with the same document, and keeps the queries."""

    answer: Any = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.queries: list[dict[str, list[str]]] = []

    def run(self, *words: str) -> Result:
        site = f"http://127.0.0.1:{self.server_port}"
        given = {"MYCELIUM_SITE": site, "MYCELIUM_TOKEN": "myc_test"}
        return CliRunner().invoke(mycelium, ["admin", *words], env=given)


class _Answers(BaseHTTPRequestHandler):
    server: Told

    def do_GET(self) -> None:
        self.server.queries.append(parse_qs(urlsplit(self.path).query))
        body = json.dumps(self.server.answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Told]:
    with Told() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_payouts_that_cannot_be_told_are_not_none_to_make(site: Told) -> None:
    site.answer = {"books": None, "payments": None, "payouts": []}
    none = site.run("payouts")
    site.answer = {"books": None, "payments": None, "payouts": None}
    unknown = site.run("payouts")

    assert (none.stdout.split()[0], none.stderr) == ("PAYOUT", "")
    assert (unknown.stdout, unknown.stderr) == ("", "The payouts cannot be told now.\n")


@pytest.mark.parametrize(
    "away",
    [["promotions", "transactions"], ["topups"], ["purchases", "deployments"]],
    ids=["wallet", "topup", "billing"],
)
def test_what_of_a_file_cannot_be_told_is_not_shown_as_empty(site: Told, away: list[str]) -> None:
    user = {
        "user_id": USER, "email": "ann@example.com", "created_at": "2026-01-01T00:00:00Z",
        "is_email_confirmed": True, "has_second_step": False, "roles": [],
    }  # fmt: skip
    lists = ("promotions", "transactions", "topups", "purchases", "deployments")
    others = {"notifications": [], "mails": [], "acts": [], "sessions": 0}
    facts = dict.fromkeys(("wallet", "available_usd", "held_usd", "auto_topup"))
    told = {name: None if name in away else [] for name in lists}
    site.answer = {"user": user, **facts, **others, **told}

    shown = site.run("user", "show", USER)

    assert shown.stderr.splitlines() == [f"The {name} cannot be told now." for name in away]
    for name, title in (("transactions", "TRANSACTION"), ("purchases", "PURCHASE")):
        assert (f"{title} " in shown.stdout) == (name not in away)


@pytest.mark.parametrize("command", ["paths", "numbers"])
@pytest.mark.parametrize(
    ("days", "step"), [(1, "hour"), (31, "hour"), (42, "day"), (366, "day"), (1_200, "week")]
)
def test_a_time_of_any_length_is_asked_in_steps_that_one_answer_holds(
    site: Told, command: str, days: int, step: str
) -> None:
    site.answer = NUMBERS
    until = utc_now()
    since = until - timedelta(days=days)

    bounded = site.run(command, "--since", f"{since:%Y-%m-%dT%H:%M:%SZ}",
                       "--until", f"{until:%Y-%m-%dT%H:%M:%SZ}")  # fmt: skip
    until_now = site.run(command, "--since", since.isoformat())

    assert [bounded.exit_code, until_now.exit_code] == [0, 0]
    assert site.queries[0]["step"] == [step]
    for query in site.queries:
        [asked] = query["step"]
        # The first and the last step may reach beyond.
        assert timedelta(days=days) // LENGTHS[Step(asked)] + 2 <= POINTS_MAX


def test_a_step_that_is_named_is_asked_for_and_no_time_at_all_means_hours(site: Told) -> None:
    site.answer = NUMBERS

    site.run("numbers", "--since", "2020-01-01T00:00:00Z", "--step", "day")
    site.run("numbers")
    site.run("paths", "--since", "yesterday")

    assert [query["step"] for query in site.queries] == [["day"], ["hour"], ["hour"]]
    assert site.queries[2]["since"] == ["yesterday"]
