"""/admin/adjustments: one person of finance proposes, another decides."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.errors import Conflict, DeadlineExceeded, ServiceError, Unavailable
from contracts.wallet import (
    Adjustment,
    AdjustmentList,
    AdjustmentStatus,
    DecideAdjustment,
    ListAdjustments,
    ProposeAdjustment,
)
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.models import User
from tests.contracts.golden import examples
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_roles import Desk, last_acts
from tests.gateway.test_support import clerk

USD = 1_000_000


class Wallet:
    """Its adjustments; ``fails`` is what a command raises."""

    def __init__(self) -> None:
        self.adjustments: list[Adjustment] = []
        self.asked: list[ProposeAdjustment | DecideAdjustment] = []
        self.fails: ServiceError | None = None

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if isinstance(request, ProposeAdjustment | DecideAdjustment):
            self.asked.append(request)
            if self.fails:
                raise self.fails
        if isinstance(request, ProposeAdjustment):
            self.adjustments.append(adjustment(**request.model_dump(exclude={"idempotency_key"})))
            return lambda: self.adjustments[-1]
        if isinstance(request, DecideAdjustment):
            status = AdjustmentStatus.POSTED if request.is_approved else AdjustmentStatus.REJECTED
            decided = self.adjustments[-1].model_copy(
                update={
                    "status": status,
                    "decided_by": request.decided_by,
                    "decided_at": utc_now(),
                    "decision_reason": request.reason,
                }
            )
            self.adjustments[-1] = decided
            return lambda: decided
        if isinstance(request, ListAdjustments):
            found = [
                each
                for each in self.adjustments
                if not request.only_open or each.status is AdjustmentStatus.PROPOSED
            ]
            return lambda: AdjustmentList(adjustments=found)
        raise Unavailable("It is away.")


def adjustment(**fields: Any) -> Adjustment:
    blank = dict.fromkeys(("decided_by", "decided_at", "decision_reason"))
    example = examples("wallet")["Adjustment"]
    return Adjustment.model_validate(
        {**example, **blank, "transaction_id": None, "status": "proposed", **fields}
    )


@pytest.fixture
def wallet(monkeypatch: pytest.MonkeyPatch) -> Wallet:
    stand_in = Wallet()
    answers_with(monkeypatch, stand_in)
    return stand_in


@pytest.fixture
def people(database: Connected) -> list[User]:
    return [add_user(database, f"{name}@example.com", has_wallet=True) for name in "abc"]


@pytest.fixture
def proposer(alone: Flask, database: Connected) -> Desk:
    return clerk(alone, database, Role.FINANCE)


FORM = {"direction": "debit", "amount": "5.25", "reason": "Case 17: charged twice"}


def proposed(desk: Desk, user: User, wallet: Wallet) -> Adjustment:
    assert desk.post("/admin/adjustments", whom=user.email, **FORM).status_code == 303
    return wallet.adjustments[-1]


def test_one_proposes_and_another_approves_and_both_are_recorded(
    alone: Flask, database: Connected, proposer: Desk, people: list[User], wallet: Wallet
) -> None:
    approver = clerk(alone, database, Role.FINANCE)
    made = proposed(proposer, people[1], wallet)
    own_page, page = (desk.get("/admin/adjustments").text for desk in (proposer, approver))
    path = f"/admin/adjustments/{made.adjustment_id}/approve"
    approved = approver.post(path, reason="Seen the invoices")

    assert (made.user_id, made.amount_micros) == (people[1].user_id, -5_250_000)
    assert "A colleague decides this one." in own_page
    assert f'action="{path}"' not in own_page
    assert f'action="{path}"' in page
    assert "b@example.com" in page
    assert approved.status_code == 303
    acts = last_acts(database, 4)
    assert [(act.action, act.completes is None) for act in acts] == [
        ("adjustment.propose", True),
        ("adjustment.propose", False),
        ("adjustment.approve", True),
        ("adjustment.approve", False),
    ]
    assert [act.subject for act in acts[1:3]] == [
        str(people[1].user_id),
        str(made.adjustment_id),
    ]
    assert [act.actor_id for act in acts[::2]] == [each.proposed_by for each in [made]] + [
        wallet.adjustments[-1].decided_by
    ]
    assert acts[0].actor_id != acts[2].actor_id
    outcome = acts[3].after or {}
    assert (outcome["outcome"], outcome["status"], outcome["amount_micros"]) == (
        "done",
        "posted",
        -5_250_000,
    )


def test_what_is_rejected_says_so(
    alone: Flask, database: Connected, proposer: Desk, people: list[User], wallet: Wallet
) -> None:
    made = proposed(proposer, people[0], wallet)
    other = clerk(alone, database, Role.FINANCE)
    other.post(f"/admin/adjustments/{made.adjustment_id}/reject", reason="Not so: case 18")

    assert "Rejected by" in other.get("/admin/adjustments").text
    assert last_acts(database, 1)[0].action == "adjustment.reject"


@pytest.mark.parametrize(
    ("fails", "status", "after"),
    [
        (Conflict("Nobody decides what they proposed."), 409, {"outcome": "conflict"}),
        (DeadlineExceeded("No answer."), 504, None),
    ],
    ids=["refused", "lost"],
)
def test_what_the_wallet_refuses_or_leaves_unanswered_is_not_recorded_as_done(
    database: Connected,
    proposer: Desk,
    people: list[User],
    wallet: Wallet,
    fails: ServiceError,
    status: int,
    after: dict[str, str] | None,
) -> None:
    made = proposed(proposer, people[1], wallet)
    wallet.fails = fails
    answer = proposer.post(f"/admin/adjustments/{made.adjustment_id}/approve", reason="By myself")

    assert (answer.status_code, last_acts(database, 1)[0].after) == (status, after)


def test_a_form_sent_again_after_a_lost_answer_carries_the_same_key(
    proposer: Desk, people: list[User], wallet: Wallet
) -> None:
    wallet.fails = DeadlineExceeded("No answer.")
    form = {**FORM, "whom": people[1].email, "key": str(uuid4())}
    lost = proposer.post("/admin/adjustments", **form)
    [form["key"]] = re.findall(r'name="key" value="([^"]+)"', lost.text)
    proposer.post("/admin/adjustments", **form)

    first, again = wallet.asked
    assert first == again
    assert lost.status_code == 504
    assert "No answer. Pressing again is safe: it is proposed once." in lost.text


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"amount": "0"}, 422),
        ({"amount": "5,25"}, 422),
        ({"reason": "no"}, 422),
        ({"whom": "nobody@example.com"}, 404),
    ],
)
def test_what_nobody_can_mean_is_not_proposed_and_stands_there_again(
    proposer: Desk, people: list[User], wallet: Wallet, fields: dict[str, str], status: int
) -> None:
    answer = proposer.post("/admin/adjustments", **{**FORM, "whom": people[1].email, **fields})

    assert (answer.status_code, wallet.asked) == (status, [])
    assert 'aria-invalid="true"' in answer.text
    assert all(f'value="{text}"' in answer.text for text in fields.values())


def test_an_auditor_sees_them_and_no_form(
    alone: Flask, database: Connected, proposer: Desk, people: list[User], wallet: Wallet
) -> None:
    proposed(proposer, people[1], wallet)
    page = clerk(alone, database, Role.AUDITOR).get("/admin/adjustments").text

    assert "Case 17: charged twice" in page
    assert "<form" not in page.partition('class="dashboard"')[2].partition("</main>")[0]


def test_without_the_wallet_the_page_says_so(
    proposer: Desk, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wallet, "begin", lambda *_: (_ for _ in ()).throw(Unavailable("Away.")))
    answer = proposer.get("/admin/adjustments")

    assert answer.status_code == 200
    assert "Cannot be shown at the moment" in answer.text
