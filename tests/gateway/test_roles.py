"""Roles: who gives them, and the audit log of what is done by them."""

import json
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from chassis.chain import check_lines
from chassis.clock import utc_now
from chassis.database import Connected
from contracts.errors import Conflict, NotFound
from services.gateway import audit_log
from services.gateway.access import Role
from services.gateway.errors import Problem
from services.gateway.models import Act, Notification, RoleGrant, User
from services.gateway.people import closing
from services.gateway.people.tokens import Scope
from services.gateway.people.users import ReasonMissing
from services.gateway.staff import acts, grants
from services.gateway.staff.acts import Actor
from services.gateway.staff.guard import make_token
from tests.gateway.conftest import add_user
from tests.gateway.test_site import csrf_token, logged_in
from tests.locks import done_after

COMMAND = Actor(None, "the owner", "", "root@host")
WHY = "because a test asks for it"


@pytest.fixture
def people(database: Connected) -> list[User]:
    """Three in the order in which they came: the middle one is operator."""
    found = [add_user(database, f"{name}@example.com", has_wallet=True) for name in "abc"]
    with database.begin() as session:
        grants.grant(session, utc_now(), COMMAND, found[1].user_id, Role.OPERATOR, WHY)
    return found


def actor(user: User) -> Actor:
    return Actor(user.user_id, "", "operator", "192.0.2.1")


def held_by(database: Connected, user: User) -> set[str]:
    with database.read() as session:
        return {*grants.roles_of(session, user.user_id)}


def last_acts(database: Connected, count: int) -> list[Act]:
    """The newest last."""
    with database.read() as session:
        return acts.newest(session, limit=count)[::-1]


class Desk:
    """Somebody with a second step who is logged in, and fills in forms of /admin."""

    def __init__(self, app: Flask, database: Connected, user: User) -> None:
        self.client: FlaskClient = logged_in(app, user)
        self.csrf = csrf_token(self.client.get("/docs/none").text)
        with database.begin() as session:
            session.get_one(User, user.user_id).second_step_since = utc_now()

    def get(self, path: str) -> TestResponse:
        return self.client.get(path)

    def post(self, path: str, **fields: Any) -> TestResponse:
        return self.client.post(path, data={"csrf_token": self.csrf, **fields})


@pytest.fixture
def desk(alone: Flask, database: Connected, people: list[User]) -> Desk:
    """The operator's."""
    return Desk(alone, database, people[1])


def test_a_role_is_given_and_taken_with_who_where_why_before_and_after(
    database: Connected, desk: Desk, people: list[User]
) -> None:
    form = {"whom": "C@example.com ", "role": "support", "reason": "  Case 17,\n joins support "}

    given = desk.post("/admin/roles/grant", **form)
    held = held_by(database, people[2])
    taken = desk.post("/admin/roles/take", **{**form, "whom": str(people[2].user_id)})

    assert (given.status_code, taken.status_code) == (303, 303)
    assert (held, held_by(database, people[2])) == ({"support"}, set())
    assert [
        (act.actor_id, act.roles, act.origin, act.action, act.subject, act.reason)
        for act in last_acts(database, 2)
    ] == [
        (people[1].user_id, "operator", "127.0.0.1", action, str(people[2].user_id),
         "Case 17, joins support")
        for action in ("role.grant", "role.take")
    ]  # fmt: skip
    assert [(act.before, act.after) for act in last_acts(database, 2)] == [
        ({"roles": ""}, {"roles": "support"}),
        ({"roles": "support"}, {"roles": ""}),
    ]
    assert held_by(database, people[0]) == set()


def test_whoever_gets_or_loses_a_role_is_told(
    database: Connected, desk: Desk, people: list[User]
) -> None:
    desk.post("/admin/roles/grant", whom="c@example.com", role="finance", reason=WHY)

    with database.read() as session:
        told = session.scalars(select(Notification).where(Notification.kind == "role_changed"))
        titles = {(note.user_id, note.title) for note in told}
    assert titles == {
        (people[1].user_id, "You now have the operator role"),
        (people[2].user_id, "You now have the finance role"),
    }


@pytest.mark.parametrize(
    ("changed", "status", "named"),
    [
        ({"reason": " why "}, 422, "Say why"),
        ({"reason": "x" * 201}, 422, "Say why"),
        ({"whom": "nobody@example.com"}, 404, "Nobody has this address"),
        ({"whom": str(uuid4())}, 404, "Nobody has this address"),
        ({"whom": "b@example.com", "role": "finance"}, 409, "your own roles"),
        ({"role": "buyer"}, 422, "Choose a role"),
        ({"role": "king"}, 422, "Choose a role"),
    ],
    ids=["no reason", "a long one", "nobody", "no id", "oneself", "everybody s", "no role"],
)
def test_what_is_wrong_is_said_and_nothing_is_changed_or_recorded(
    database: Connected,
    desk: Desk,
    people: list[User],
    changed: dict[str, str],
    status: int,
    named: str,
) -> None:
    before = last_acts(database, 1)[0].position
    form = {"whom": "c@example.com", "role": "support", "reason": WHY, **changed}

    answer = desk.post("/admin/roles/grant", **form)

    assert (answer.status_code, named in answer.text) == (status, True)
    assert [held_by(database, user) for user in people] == [set(), {"operator"}, set()]
    assert last_acts(database, 1)[0].position == before


def test_a_role_is_given_once_and_taken_once(database: Connected, people: list[User]) -> None:
    with database.begin() as session:
        grants.grant(session, utc_now(), actor(people[1]), people[0].user_id, Role.SELLER, WHY)
        with pytest.raises(Conflict, match="already have the seller role"):
            grants.grant(session, utc_now(), actor(people[1]), people[0].user_id, Role.SELLER, WHY)
        grants.take(session, utc_now(), actor(people[1]), people[0].user_id, Role.SELLER, WHY)
        with pytest.raises(Conflict, match="don't have the seller role"):
            grants.take(session, utc_now(), actor(people[1]), people[0].user_id, Role.SELLER, WHY)


def test_who_stopped_being_operator_a_moment_ago_gives_nothing(
    database: Connected, people: list[User]
) -> None:
    with database.begin() as session:
        grants.grant(session, utc_now(), COMMAND, people[0].user_id, Role.OPERATOR, WHY)

    def take(session: Session) -> None:
        grants.take(session, utc_now(), actor(people[0]), people[1].user_id, Role.OPERATOR, WHY)

    def take_back() -> str:
        try:
            with database.begin() as session:
                them = people[0].user_id
                grants.take(session, utc_now(), actor(people[1]), them, Role.OPERATOR, WHY)
        except Conflict as error:
            return str(error)
        return "both are gone"

    assert "no longer an operator" in done_after(database, take, take_back)
    assert held_by(database, people[0]) == {"operator"}


def test_whose_role_is_taken_at_this_moment_makes_no_token_for_it(
    database: Connected, people: list[User]
) -> None:
    user_id = people[1].user_id

    def take(session: Session) -> None:
        grants.take(session, utc_now(), COMMAND, user_id, Role.OPERATOR, WHY)

    def make() -> str:
        try:
            with database.begin() as session:
                return make_token(session, utc_now(), user_id, "ops", [Scope.ADMIN], None)
        except Problem as problem:
            return problem.code

    assert done_after(database, take, make) == "role_missing"


def test_an_account_that_is_gone_gets_no_role(database: Connected, people: list[User]) -> None:
    with database.begin() as session:
        closing.forget(session, utc_now(), people[2].user_id)
    with database.begin() as session, pytest.raises(NotFound):
        grants.grant(session, utc_now(), COMMAND, people[2].user_id, Role.SUPPORT, WHY)


def test_an_account_that_is_deleted_meanwhile_gets_no_role(
    database: Connected, people: list[User]
) -> None:
    """The operator's page has looked it up by then."""

    def give() -> str:
        try:
            with database.begin() as session:
                user = grants.find(session, "c@example.com")
                grants.grant(session, utc_now(), COMMAND, user.user_id, Role.SUPPORT, WHY)
        except NotFound as error:
            return str(error)
        return "it has a role"

    def forget(session: Session) -> None:
        closing.forget(session, utc_now(), people[2].user_id)

    assert done_after(database, forget, give) == "There is no such user."


@pytest.mark.parametrize(("sends_mails", "status"), [(True, 409), (False, 303)])
def test_who_has_not_shown_that_the_address_is_theirs_gets_no_role(
    alone: Flask,
    database: Connected,
    desk: Desk,
    people: list[User],
    monkeypatch: pytest.MonkeyPatch,
    sends_mails: bool,
    status: int,
) -> None:
    """Anybody may register with the address of somebody who is about to be given one."""
    with database.begin() as session:
        for user in people:
            session.get_one(User, user.user_id).email_confirmed_at = None
    backend = alone.extensions["mycelium"]
    address = "smtp+plain://127.0.0.1:1" if sends_mails else None
    mailing = backend.settings.model_copy(update={"smtp_url": address})
    monkeypatch.setattr(backend, "settings", mailing)
    form = {"whom": "c@example.com", "role": "support", "reason": WHY}

    answer = desk.post("/admin/roles/grant", **form)

    assert answer.status_code == status
    assert held_by(database, people[2]) == (set() if sends_mails else {"support"})
    assert ("not confirmed" in answer.text) is sends_mails


def test_who_has_a_role_keeps_the_account_until_it_is_taken(
    alone: Flask, database: Connected, people: list[User]
) -> None:
    with alone.app_context():
        reasons = {user.email[0]: closing._held(user.user_id) for user in people}

    assert [bool(reasons[name]) for name in "abc"] == [False, True, False]
    assert "Ask an operator" in reasons["b"][0].sentence


def test_the_menu_leads_to_admin_for_staff_alone(
    alone: Flask, database: Connected, desk: Desk, people: list[User]
) -> None:
    with database.begin() as session:
        session.add(RoleGrant(user_id=people[0].user_id, role="seller", granted_at=utc_now()))

    seller, buyer = logged_in(alone, people[0]), logged_in(alone, people[2])

    link = 'href="/admin"'
    assert link in desk.get("/docs/none").text
    assert link not in seller.get("/docs/none").text + buyer.get("/docs/none").text


def record(session: Session, action: str = "test.act", subject: str = "") -> int:
    said = {"amount_micros": 5_000_000, "name": "Zoë \u2028 “x” <b>", "is_on": True, "of": ["a"]}
    return acts.record(
        session, utc_now(), COMMAND, action, subject or str(uuid4()), WHY, before=said, after=None
    )


@pytest.fixture
def log(database: Connected) -> Connected:
    """A log with acts in it: nothing can empty it, so that other tests' acts stand there too."""
    with database.begin() as session:
        for _ in range(3):
            record(session)
    return database


def exported(database: Connected) -> list[str]:
    with database.read() as session:
        return list(acts.lines(session))


def test_the_chain_of_the_log_holds_and_ends_where_it_says(log: Connected) -> None:
    with log.read() as session:
        head = acts.head(session)

    assert check_lines(exported(log), acts.flaw, head.digest) == (None, head)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda lines: [*lines[:-2], lines[-1]],
        lambda lines: [*lines[:-2], lines[-2].replace("5000000", "5000001"), lines[-1]],
        lambda lines: [*lines[:-2], lines[-1], lines[-2]],
        lambda lines: [*lines[:-2], "{}", lines[-1]],
    ],
    ids=["removed", "changed", "swapped", "nonsense"],
)
def test_an_export_of_the_log_that_was_tampered_with_is_found_out(
    log: Connected, tamper: Callable[[list[str]], list[str]]
) -> None:
    lines = exported(log)

    difference, last = check_lines(tamper(lines), acts.flaw)

    assert f"line {len(lines) - 1}" in (difference or "")
    assert last.position == len(lines) - 2


def test_a_log_that_was_cut_off_lacks_the_link_that_was_noted(log: Connected) -> None:
    with log.read() as session:
        noted = acts.head(session).digest

    assert check_lines(exported(log)[:-1], acts.flaw)[0] is None
    assert "noted" in (check_lines(exported(log)[:-1], acts.flaw, noted)[0] or "")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE acts SET reason = 'another' WHERE position = 1",
        "DELETE FROM acts WHERE position = 1",
        "TRUNCATE acts",
        (
            "INSERT INTO acts SELECT (jsonb_populate_record(acts, jsonb_build_object('position',"
            " position + 2))).* FROM acts ORDER BY position DESC LIMIT 1"
        ),
    ],
    ids=["update", "delete", "truncate", "a gap"],
)
def test_the_database_itself_refuses_to_change_the_log(log: Connected, statement: str) -> None:
    with log.rehearse() as session, pytest.raises(IntegrityError, match=r"append-only|follow"):
        session.execute(text(statement))


def test_a_row_that_its_owner_changed_after_all_breaks_the_chain(log: Connected) -> None:
    with log.rehearse() as session:
        session.execute(text("ALTER TABLE acts DISABLE TRIGGER append_only"))
        session.execute(
            text("UPDATE acts SET reason = 'another' WHERE position = (SELECT max(position) - 1"
                 " FROM acts)")
        )  # fmt: skip
        difference, last = check_lines(acts.lines(session), acts.flaw)
        end = acts.head(session).position

    assert difference == f"the chain breaks at line {end - 1}, position {end - 1}"
    assert last.position == end - 2


def test_what_is_done_at_once_stands_one_after_the_other(log: Connected) -> None:
    def act() -> int:
        with log.begin() as session:
            return record(session)

    positions: list[int] = []
    after = done_after(log, lambda session: positions.append(record(session)), act)

    assert after == positions[0] + 1
    assert check_lines(exported(log), acts.flaw)[0] is None


def test_an_act_that_is_undone_leaves_no_row(log: Connected) -> None:
    before = exported(log)
    with log.rehearse() as session:
        record(session)

    assert exported(log) == before


@pytest.mark.parametrize("typed", ["", "    ", "abcd", "x" * 201])
def test_a_reason_has_words(typed: str) -> None:
    with pytest.raises(ReasonMissing):
        acts.read_reason(typed)


def test_the_log_is_read_by_subject_actor_and_action(
    log: Connected, desk: Desk, people: list[User]
) -> None:
    with log.begin() as session:
        record(session, "tested.once", "this one")
        record(session, "testedmore", "another one")
        for number in range(60):
            record(session, "many.times", f"no {number}")
    operator = people[1].user_id
    desk.post("/admin/roles/grant", whom="c@example.com", role="support", reason=WHY)

    by_subject = desk.get("/admin/audit?subject=this+one").text
    by_action = desk.get("/admin/audit?action=tested").text
    by_actor = desk.get(f"/admin/audit?actor={operator}").text
    first = desk.get("/admin/audit?action=many").text
    older = first.split("before=")[1].split("&")[0].split('"')[0]
    rest = desk.get(f"/admin/audit?action=many&before={older}").text

    assert "tested.once" in by_subject
    assert "another one" not in by_subject
    assert "this one" in by_action
    assert "another one" not in by_action
    assert "c@example.com" in by_actor
    assert "many.times" not in by_actor
    assert "no 59" in first
    assert "no 9<" not in first
    assert "no 9<" in rest
    assert "no 59" not in rest


def test_a_long_log_is_several_files_which_together_are_all_of_it(
    log: Connected, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.pages.admin.audit.EXPORTED_MAX", 2)
    page = desk.get("/admin/audit").text
    links = re.findall(r'href="(/admin/audit/export[^"]+)"', page)
    files = [desk.get(link).text.splitlines() for link in links]

    assert len(links) > 1
    assert {len(lines) for lines in files[:-1]} == {2}
    assert [line for lines in files for line in lines] == exported(log)


def test_the_whole_log_is_a_file_that_the_command_checks(
    log: Connected, desk: Desk, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    answer = desk.get("/admin/audit/export")
    file = tmp_path / "acts.jsonl"
    file.write_bytes(answer.data)

    assert answer.text.splitlines() == exported(log)
    assert "attachment" in answer.headers["Content-Disposition"]
    assert audit_log.main(["check", str(file)]) == 0
    assert "The chain holds" in capsys.readouterr().out
    file.write_text(answer.text.replace("because a test", "because nobody", 1))
    assert audit_log.main(["check", str(file)]) == 1


def test_no_row_of_the_log_holds_an_address(log: Connected, desk: Desk, people: list[User]) -> None:
    desk.post("/admin/roles/grant", whom="c@example.com", role="support", reason=WHY)

    newest = json.loads(exported(log)[-1])["content"]
    assert UUID(newest["subject"]) == people[2].user_id
    assert "@" not in json.dumps({**newest, "origin": ""})
