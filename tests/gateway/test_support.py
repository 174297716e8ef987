"""/admin/users: a user on one page, opened with a reason, and what support does for them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.billing import GetPurchase, Purchase, PurchaseStatus, RefundPurchase
from contracts.errors import Conflict, DeadlineExceeded, Unavailable
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.models import Act, Mail, User
from services.gateway.notifications import mails
from services.gateway.people import sessions, tokens
from services.gateway.staff import desk as rules
from services.gateway.staff import grants
from tests.contracts.golden import examples
from tests.gateway.conftest import add_user, answers_with, token_for
from tests.gateway.test_roles import COMMAND, WHY, Desk, last_acts
from tests.locks import done_after

USD = 1_000_000


@pytest.fixture
def people(database: Connected) -> list[User]:
    """Users who came before and after the one whom support looks at, each with what she has."""
    return [add_user(database, f"{name}@example.com", has_wallet=True) for name in "abc"]


@pytest.fixture
def ann(people: list[User]) -> User:
    return people[1]


@pytest.fixture
def desk(alone: Flask, database: Connected) -> Desk:
    """Of support."""
    return clerk(alone, database, Role.SUPPORT)


def clerk(app: Flask, database: Connected, role: Role) -> Desk:
    user = add_user(database, has_wallet=True)
    with database.begin() as session:
        grants.grant(session, utc_now(), COMMAND, user.user_id, role, WHY)
    return Desk(app, database, user)


def open_page(desk: Desk, user: User) -> str:
    answer = desk.post("/admin/users", whom=user.email, reason="Case 17: they ask")
    assert answer.status_code == 303
    return answer.headers["Location"]


def test_a_page_opens_with_a_reason_that_is_recorded_first(
    database: Connected, desk: Desk, ann: User
) -> None:
    closed = desk.get(f"/admin/users/{ann.user_id}")
    path = open_page(desk, ann)
    page = desk.get(path)

    assert (closed.status_code, f"/admin/users?whom={ann.user_id}" in closed.text) == (303, True)
    assert (path, page.status_code) == (f"/admin/users/{ann.user_id}", 200)
    assert ann.email in page.text
    [act] = last_acts(database, 1)
    assert (act.action, act.subject, act.reason) == (
        "user.read", str(ann.user_id), "Case 17: they ask",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "status"),
    [({"reason": ""}, 422), ({"whom": "b@example"}, 404), ({"whom": "%"}, 404)],
    ids=["no reason", "half an address", "a pattern"],
)
def test_without_a_reason_or_the_whole_address_nothing_opens(
    desk: Desk, ann: User, changed: dict[str, str], status: int
) -> None:
    answer = desk.post("/admin/users", **{"whom": ann.email, "reason": WHY, **changed})

    assert answer.status_code == status
    assert desk.get(f"/admin/users/{ann.user_id}").status_code == 303


def test_a_reason_is_good_for_one_user_one_reader_and_half_an_hour(
    alone: Flask,
    database: Connected,
    desk: Desk,
    people: list[User],
) -> None:
    open_page(desk, people[1])
    other = clerk(alone, database, Role.SUPPORT)
    now = utc_now()
    with database.read() as session:
        reader = last_acts(database, 3)
        reader_id = next(act.actor_id for act in reader if act.action == "user.read")
        assert reader_id is not None
        held = [
            rules.is_open(session, now + after, reader_id, people[1].user_id)
            for after in (timedelta(0), timedelta(minutes=29), timedelta(minutes=31))
        ]

    assert held == [True, True, False]
    assert desk.get(f"/admin/users/{people[0].user_id}").status_code == 303
    assert other.get(f"/admin/users/{people[1].user_id}").status_code == 303


def test_nothing_is_done_to_who_was_not_looked_at(
    database: Connected, desk: Desk, ann: User
) -> None:
    token_for(database, ann)

    answer = desk.post(f"/admin/users/{ann.user_id}/logins", reason=WHY)

    assert "/admin/users?whom=" in answer.headers["Location"]
    with database.read() as session:
        assert len(tokens.living(session, utc_now(), ann.user_id)) == 1


def test_the_page_shows_what_all_services_know(
    alone: Flask, desk: Desk, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every reply its golden example, as it is on the wire."""
    asked: list[Any] = []

    def begin(_backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        asked.append(request)
        told = examples(request.service)[request.reply.__name__]
        return lambda: request.reply.model_validate(told)

    monkeypatch.setattr(Backend, "begin", begin)
    page = desk.get(open_page(desk, ann))

    assert page.status_code == 200
    assert "Cannot be shown" not in page.text
    about_ann = {type(each).__name__ for each in asked if each.user_id == ann.user_id}
    assert about_ann >= {
        "GetWallet",
        "Statement",
        "GetTopupOverview",
        "ListPurchases",
        "ListDeployments",
    }


def test_an_auditor_sees_the_page_and_none_of_its_forms(
    alone: Flask,
    database: Connected,
    ann: User,
) -> None:
    auditor = clerk(alone, database, Role.AUDITOR)
    page = auditor.get(open_page(auditor, ann)).text

    assert ann.email in page
    assert "End all sessions" not in page


def test_all_logins_of_one_user_end(database: Connected, desk: Desk, people: list[User]) -> None:
    now = utc_now()
    for user in people:
        token_for(database, user)
        with database.begin() as session:
            sessions.start(session, now, user.user_id, timedelta(days=1))
    open_page(desk, people[1])

    desk.post(f"/admin/users/{people[1].user_id}/logins", reason="Lost a laptop")

    with database.read() as session:
        left = [
            len(sessions.open_ones(session, now, user.user_id))
            + len(tokens.living(session, now, user.user_id))
            for user in people
        ]
    [act] = last_acts(database, 1)
    assert left == [2, 0, 2]
    assert (act.action, act.reason) == ("user.end_logins", "Lost a laptop")
    assert (act.before, act.after) == (
        {"sessions": 1, "tokens": 1}, {"sessions": 0, "tokens": 0},
    )  # fmt: skip


def test_a_lost_second_step_is_switched_off_once(
    database: Connected, desk: Desk, people: list[User]
) -> None:
    with database.begin() as session:
        for user in people:
            session.get_one(User, user.user_id).second_step_since = utc_now()
    path = open_page(desk, people[1])

    desk.post(f"{path}/second-step", reason="Lost the phone")
    again = desk.client.post(
        f"{path}/second-step", data={"csrf_token": desk.csrf, "reason": WHY}, follow_redirects=True
    )

    with database.read() as session:
        on = [session.get_one(User, user.user_id).second_step_since for user in people]
    assert [since is not None for since in on] == [True, False, True]
    assert "They have no second step" in again.text
    assert last_acts(database, 1)[0].action == "user.end_second_step"


@pytest.mark.parametrize("role", [Role.SUPPORT, Role.OPERATOR])
def test_the_second_step_of_who_has_a_role_stays_on(
    database: Connected, desk: Desk, ann: User, role: Role
) -> None:
    """Else support, or who talks them into it, comes to a role with a password alone."""
    with database.begin() as session:
        session.get_one(User, ann.user_id).second_step_since = utc_now()
        grants.grant(session, utc_now(), COMMAND, ann.user_id, role, WHY)
    path = open_page(desk, ann)

    desk.post(f"{path}/second-step", reason="Lost the phone")
    with database.read() as session:
        assert session.get_one(User, ann.user_id).second_step_since is not None
    with database.begin() as session:
        grants.take(session, utc_now(), COMMAND, ann.user_id, role, WHY)
    desk.post(f"{path}/second-step", reason="Lost the phone")

    with database.read() as session:
        assert session.get_one(User, ann.user_id).second_step_since is None


def test_a_role_that_comes_meanwhile_keeps_the_second_step_on(
    database: Connected, ann: User
) -> None:
    """Whoever gives a role holds the log, and then the user: as who ends a second step does."""
    with database.begin() as session:
        session.get_one(User, ann.user_id).second_step_since = utc_now()

    def end() -> str:
        try:
            with database.begin() as session:
                rules.end_second_step(session, utc_now(), COMMAND, ann.user_id, WHY)
        except Conflict as error:
            return str(error)
        return "it is off"

    def give(session: Session) -> None:
        grants.grant(session, utc_now(), COMMAND, ann.user_id, Role.SUPPORT, WHY)

    assert "Their role takes a second step" in done_after(database, give, end)


def test_nobody_at_the_desk_serves_themself(
    alone: Flask, database: Connected, mail: Callable[..., UUID]
) -> None:
    user = add_user(database, has_wallet=True)
    with database.begin() as session:
        grants.grant(session, utc_now(), COMMAND, user.user_id, Role.SUPPORT, WHY)
    own = Desk(alone, database, user)
    refused = mail(user)
    path = open_page(own, user)
    before = last_acts(database, 1)[0].position

    for act in ("logins", "second-step", f"mails/{refused}", f"purchases/{uuid4()}/refund"):
        answer = own.client.post(
            f"{path}/{act}", data={"csrf_token": own.csrf, "reason": WHY}, follow_redirects=True
        )
        assert "ask a colleague" in answer.text

    assert last_acts(database, 1)[0].position == before


@pytest.fixture
def mail(database: Connected) -> Callable[..., UUID]:
    """A mail to somebody that was refused."""

    def add(user: User, **changes: Any) -> UUID:
        told = ("purchase_completed", f"Mail to {user.email}", "It is paid.", "/dashboard")
        with database.begin() as session:
            mails.queue(session, utc_now(), [(user.user_id, *told)])
            row = session.scalars(
                select(Mail).where(Mail.user_id == user.user_id).order_by(Mail.mail_id.desc())
            ).first()
            assert row is not None
            for name, value in {"outcome": "refused", "due_at": None, **changes}.items():
                setattr(row, name, value)
            return row.mail_id

    return add


def test_a_mail_is_sent_again_to_its_user(
    database: Connected, desk: Desk, people: list[User], mail: Callable[..., UUID]
) -> None:
    ids = [mail(user) for user in people]
    path = open_page(desk, people[1])

    assert "Mail to b@example.com" in desk.get(path).text
    desk.post(f"{path}/mails/{ids[1]}", reason="Their server was full")
    desk.post(f"{path}/mails/{ids[0]}", reason="Of somebody else")

    with database.read() as session:
        of_purchases = select(Mail).where(Mail.kind == "purchase_completed", Mail.outcome == "")
        waiting = session.scalars(of_purchases).all()
        assert [(row.user_id, row.kind, row.attempts) for row in waiting] == [
            (people[1].user_id, "purchase_completed", 0)
        ]
        assert waiting[0].due_at is not None
    assert last_acts(database, 1)[0].after == {
        "mail_id": str(waiting[0].mail_id),
        "outcome": "waits",
    }


def test_a_mail_that_waits_is_not_sent_twice(
    database: Connected, desk: Desk, ann: User, mail: Callable[..., UUID]
) -> None:
    waiting = mail(ann, outcome="", due_at=utc_now())
    path = open_page(desk, ann)

    desk.post(f"{path}/mails/{waiting}", reason=WHY)

    with database.read() as session:
        assert len(session.scalars(select(Mail).where(Mail.user_id == ann.user_id)).all()) == 1


class Billing:
    """Answers for a purchase of one user's; what it says of a refund is chosen."""

    def __init__(self, user: User) -> None:
        self.purchase_id = uuid4()
        self.user_id = user.user_id
        self.asked: list[RefundPurchase] = []
        self.refuses: Exception | None = None
        self.recorded_before: list[str] = []

    def begin(self, backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if isinstance(request, GetPurchase):
            assert request.user_id == self.user_id
            return lambda: self.purchase(0)
        if isinstance(request, RefundPurchase):
            self.asked.append(request)
            self.recorded_before = [act.action for act in last_acts(backend.database, 1)]
            if self.refuses:
                raise self.refuses
            return lambda: self.purchase(5 * USD)
        raise Unavailable("It is away.")

    def purchase(self, refunded_micros: int) -> Purchase:
        now = utc_now()
        return Purchase(
            purchase_id=self.purchase_id,
            user_id=self.user_id,
            status=PurchaseStatus.COMPLETED,
            total_micros=5 * USD,
            shortfall_micros=0,
            lines=[],
            deployment_ids=[],
            created_at=now,
            updated_at=now,
            refunded_micros=refunded_micros,
        )


@pytest.fixture
def billing(monkeypatch: pytest.MonkeyPatch, ann: User, desk: Desk) -> Billing:
    stand_in = Billing(ann)
    answers_with(monkeypatch, stand_in)
    return stand_in


def refund(desk: Desk, ann: User, billing: Billing, **fields: str) -> int:
    path = f"{open_page(desk, ann)}/purchases/{billing.purchase_id}/refund"
    return desk.post(path, reason="It never started", **fields).status_code


def outcomes(database: Connected, count: int) -> list[tuple[str, Any, Any, bool]]:
    acts: list[Act] = last_acts(database, count)
    return [(act.action, act.before, act.after, act.completes is not None) for act in acts]


def test_a_refund_is_recorded_before_it_is_asked_and_after_it_is_done(
    database: Connected, desk: Desk, ann: User, billing: Billing
) -> None:
    key = str(uuid4())

    assert refund(desk, ann, billing, key=key, line="1") == 303
    assert refund(desk, ann, billing, key=key, line="1") == 303

    first, second = billing.asked
    assert first.idempotency_key == second.idempotency_key
    assert (first.purchase_id, first.line, first.reason) == (
        billing.purchase_id, 1, "It never started",
    )  # fmt: skip
    begun, done = last_acts(database, 2)
    assert billing.recorded_before == ["purchase.refund"]
    assert first.actor == str(begun.actor_id)
    assert done.completes == begun.position
    said = {"purchase_id": str(billing.purchase_id), "line": 1, "refunded_micros": 0}
    assert outcomes(database, 2) == [
        ("purchase.refund", said, None, False),
        ("purchase.refund", None, {"outcome": "done", "refunded_micros": 5 * USD}, True),
    ]


def test_a_refund_that_billing_refuses_says_so_in_the_log(
    database: Connected, desk: Desk, ann: User, billing: Billing
) -> None:
    billing.refuses = Conflict("All of it was refunded.")

    assert refund(desk, ann, billing, key=str(uuid4())) == 303

    assert billing.asked[0].line is None
    assert outcomes(database, 1)[0][2] == {"outcome": "conflict"}


@pytest.mark.parametrize("lost", [DeadlineExceeded("No answer."), Unavailable("It is away.")])
def test_a_refund_whose_answer_is_lost_has_no_outcome(
    database: Connected, desk: Desk, ann: User, billing: Billing, lost: Exception
) -> None:
    billing.refuses = lost

    assert refund(desk, ann, billing, key=str(uuid4())) in (503, 504)

    [(action, _, after, completes)] = outcomes(database, 1)
    assert (action, after, completes) == ("purchase.refund", None, False)


def test_a_refund_without_a_reason_asks_nobody(desk: Desk, ann: User, billing: Billing) -> None:
    path = open_page(desk, ann)

    desk.post(f"{path}/purchases/{billing.purchase_id}/refund", reason="", key=str(uuid4()))

    assert billing.asked == []
