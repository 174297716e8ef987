"""/admin/operations: what each service says of itself, and its dead letters."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from chassis.database import Connected
from contracts.analytics import Cause, Figures, GetNumbers, Numbers
from contracts.errors import Conflict, NotFound, Overloaded, ServiceError, Unavailable
from contracts.operating import (
    SERVICES,
    DeadLetter,
    DeadLetters,
    DiscardDeadLetter,
    GetDeadLetters,
    GetState,
    LetterDone,
    QueueState,
    ReplayDeadLetter,
    ServiceState,
)
from services.gateway.access import Role
from services.gateway.backend import Backend
from tests.gateway.conftest import answers_with
from tests.gateway.test_roles import Desk, last_acts
from tests.gateway.test_support import clerk

LETTER = DeadLetter(
    message="33c4d218d046",
    queue="evt-topup-topup_paid--wallet.topup_paid",
    attempts=6,
    error="KeyError: <b>amount</b>",
    body='{"topup_id": "<script>"}',
)


class Services:
    """All of them with two processes; the wallet has a dead letter. ``fails``: what acts raise."""

    def __init__(self) -> None:
        self.away = {"billing"}
        self.fails: ServiceError | None = None
        self.acts: list[Any] = []

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if request.service in self.away:
            raise Unavailable("It is away.")
        if isinstance(request, ReplayDeadLetter | DiscardDeadLetter):
            self.acts.append((request.service, request.method, request.message))
            if self.fails:
                raise self.fails
            return lambda: LetterDone(count=1)
        is_wallet = request.service == "wallet"
        if isinstance(request, GetDeadLetters):
            return lambda: DeadLetters(letters=[LETTER] if is_wallet else [], total=int(is_wallet))
        if isinstance(request, GetState):
            queue = QueueState(name="evt-of-it", waiting=17, consumers=2)
            return lambda: ServiceState(
                processes=2,
                queues=[queue],
                dead_letters=int(is_wallet),
                outbox_unsent=3,
                outbox_oldest_s=120,
            )
        if isinstance(request, GetNumbers):
            cause = Cause(outcome="auto", code="card_declined", count=5)
            return lambda: Numbers(
                since=request.since,
                until=request.until,
                step=request.step,
                points=[],
                total=Figures(),
                purchases_ended=[],
                topups_failed=[cause],
            )
        raise Unavailable("It is away.")


@pytest.fixture
def desk(alone: Flask, database: Connected) -> Desk:
    return clerk(alone, database, Role.OPERATOR)


@pytest.fixture
def services(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Services:
    stand_in = Services()
    answers_with(monkeypatch, stand_in)
    return stand_in


def test_each_service_says_how_it_is_and_one_that_is_away_is_named(
    desk: Desk, services: Services
) -> None:
    page = desk.get("/admin/operations").text

    assert page.count("2 alive") == len(SERVICES) - 1
    assert page.count("Does not answer") == 1
    assert page.count("oldest 2 minutes") == len(SERVICES) - 1
    assert page.count("/admin/operations/wallet") == 1
    assert "Automatic: card declined" in page
    assert "POOLS_PAGE" in page


def test_with_all_services_away_the_page_still_works(desk: Desk, services: Services) -> None:
    services.away = {*SERVICES}

    page = desk.get("/admin/operations")

    assert page.status_code == 200
    assert page.text.count("Does not answer") == len(SERVICES)


def test_a_dead_letter_is_read_as_it_is(desk: Desk, services: Services) -> None:
    page = desk.get("/admin/operations/wallet").text

    assert LETTER.queue in page
    assert "KeyError: &lt;b&gt;amount" in page
    assert "&lt;script&gt;" in page
    assert "None" in desk.get("/admin/operations/catalog").text
    assert desk.get("/admin/operations/nobody").status_code == 404


@pytest.mark.parametrize("act", ["replay", "discard"])
def test_a_letter_is_replayed_or_discarded_with_a_reason_and_recorded(
    database: Connected, desk: Desk, services: Services, act: str
) -> None:
    path = f"/admin/operations/wallet/{LETTER.message}/{act}"

    without = desk.post(path, reason="")
    done = desk.post(path, reason="The cause is mended")

    assert (without.status_code, done.status_code) == (422, 303)
    assert services.acts == [("wallet", f"{act}_dead_letter", LETTER.message)]
    begun, ended = last_acts(database, 2)
    assert (begun.action, begun.subject, begun.reason) == (
        f"dead_letter.{act}", f"wallet {LETTER.message}", "The cause is mended",
    )  # fmt: skip
    assert begun.before == {"queue": LETTER.queue, "attempts": 6, "error": "KeyError"}
    assert (ended.completes, ended.after) == (begun.position, {"outcome": "done", "count": 1})


def test_a_letter_that_is_gone_is_nothing_to_act_on(
    database: Connected, desk: Desk, services: Services
) -> None:
    answer = desk.post("/admin/operations/wallet/0000000000ff/replay", reason="Once more")

    assert (answer.status_code, services.acts) == (404, [])
    assert "look again" in answer.text
    assert not last_acts(database, 1)[0].action.startswith("dead_letter")


@pytest.mark.parametrize(
    ("fails", "status", "after"),
    [
        (Conflict("It stays."), 409, {"outcome": "conflict"}),
        (NotFound("It is gone."), 404, {"outcome": "not_found"}),
        (Unavailable("Away."), 503, None),
        (Overloaded("Too much waits."), 503, None),
        (ServiceError("Something went wrong on our side."), 502, None),
    ],
    ids=["refused", "gone meanwhile", "no answer", "overloaded", "a fault"],
)
def test_what_did_not_happen_is_not_recorded_as_done(
    database: Connected,
    desk: Desk,
    services: Services,
    fails: ServiceError,
    status: int,
    after: dict[str, str] | None,
) -> None:
    services.fails = fails

    answer = desk.post(f"/admin/operations/wallet/{LETTER.message}/replay", reason="Once more")

    assert answer.status_code == status
    assert last_acts(database, 1)[0].after == after


def test_an_auditor_reads_and_has_no_buttons(
    alone: Flask, database: Connected, services: Services
) -> None:
    page = clerk(alone, database, Role.AUDITOR).get("/admin/operations/wallet").text

    assert LETTER.queue in page
    assert "Discard" not in page
