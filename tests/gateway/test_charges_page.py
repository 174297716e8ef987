"""/admin/charges: the switch over automatic charges, and payments that need a look."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from chassis.database import Connected
from contracts.errors import Conflict, ServiceError, Unavailable
from contracts.topup import GetOperatorSwitch, ListProblems, OperatorSwitch, SetOperatorSwitch
from services.gateway.access import Role
from services.gateway.backend import Backend
from tests.contracts.golden import examples
from tests.gateway.conftest import answers_with
from tests.gateway.test_roles import Desk, last_acts
from tests.gateway.test_support import clerk


class Topup:
    """Its switch, and one problem; ``fails`` is what turning the switch raises."""

    def __init__(self) -> None:
        self.switch = OperatorSwitch(is_stopped=False)
        self.fails: ServiceError | None = None
        self.turned: list[SetOperatorSwitch] = []

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if isinstance(request, ListProblems):
            told = examples("topup")["ProblemList"]
            return lambda: ListProblems.reply.model_validate(told)
        if isinstance(request, SetOperatorSwitch):
            self.turned.append(request)
            if self.fails:
                raise self.fails
            self.switch = OperatorSwitch(**request.model_dump())
        if isinstance(request, GetOperatorSwitch | SetOperatorSwitch):
            return lambda: self.switch
        raise Unavailable("It is away.")


@pytest.fixture
def desk(alone: Flask, database: Connected) -> Desk:
    return clerk(alone, database, Role.OPERATOR)


@pytest.fixture
def topup(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Topup:
    stand_in = Topup()
    answers_with(monkeypatch, stand_in)
    return stand_in


def test_an_operator_stops_all_charges_and_lets_them_go_on(
    database: Connected, desk: Desk, topup: Topup
) -> None:
    going = desk.get("/admin/charges").text
    desk.post("/admin/charges/stop", reason="Charges twice?")
    stopped = desk.get("/admin/charges").text
    desk.post("/admin/charges/release", reason="It was one person")

    assert "Stop all automatic charges" in going
    assert "Charges twice?" in stopped
    assert "Let them go out" in stopped
    acts = last_acts(database, 4)
    me = str(acts[0].actor_id)
    assert [(each.is_stopped, each.reason, each.changed_by) for each in topup.turned] == [
        (True, "Charges twice?", me),
        (False, "It was one person", me),
    ]
    states = [
        {"is_stopped": False, "reason": "", "by": ""},
        {"is_stopped": True, "reason": "Charges twice?", "by": me},
        {"is_stopped": False, "reason": "It was one person", "by": me},
    ]
    assert [(act.action, act.before, act.after) for act in acts] == [
        ("charges.stop", states[0], None),
        ("charges.stop", None, {"outcome": "done", **states[1]}),
        ("charges.release", states[1], None),
        ("charges.release", None, {"outcome": "done", **states[2]}),
    ]


def test_without_a_reason_nothing_is_stopped(desk: Desk, topup: Topup) -> None:
    answer = desk.post("/admin/charges/stop", reason=" no ")

    assert (answer.status_code, topup.turned) == (422, [])
    assert "Say why" in answer.text


@pytest.mark.parametrize(
    ("fails", "after"),
    [(Unavailable("It is away."), None), (Conflict("Not now."), {"outcome": "conflict"})],
    ids=["away", "refused"],
)
def test_a_switch_that_was_not_turned_is_not_recorded_as_turned(
    database: Connected,
    desk: Desk,
    topup: Topup,
    fails: ServiceError,
    after: dict[str, str] | None,
) -> None:
    topup.fails = fails

    assert desk.post("/admin/charges/stop", reason="Why not").status_code in (409, 503)
    assert last_acts(database, 1)[0].after == after


def test_problems_are_listed_and_no_list_says_so(
    desk: Desk, topup: Topup, monkeypatch: pytest.MonkeyPatch
) -> None:
    [problem] = examples("topup")["ProblemList"]["problems"]
    told = desk.get("/admin/charges").text
    monkeypatch.setattr(Topup, "begin", lambda *_: (_ for _ in ()).throw(Unavailable("Away.")))
    away = desk.get("/admin/charges")

    assert problem["message"] in told
    assert away.status_code == 200
    assert "Cannot be shown" in away.text


def test_finance_sees_the_switch_and_cannot_turn_it(
    alone: Flask, database: Connected, topup: Topup
) -> None:
    page = clerk(alone, database, Role.FINANCE).get("/admin/charges").text

    assert "Going out" in page
    assert "Stop all automatic charges" not in page
