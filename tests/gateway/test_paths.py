"""Paths: what is told of them, that nobody can say whose they are, and who has none."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.retention import forget
from contracts.billing import PurchaseWay
from contracts.catalog import GetProduct
from contracts.errors import Unavailable
from contracts.gateway import STEPS_MAX, PathStep, StepsTaken, StepTaken
from services.analytics.facts import told as counted
from services.gateway.backend import Backend, backend_of
from services.gateway.paths import EVENTS_KEPT, SECRETS_KEPT, Paths
from tests.contracts.golden import examples
from tests.gateway.conftest import add_user, answers_with, token_for
from tests.gateway.test_site import logged_in

NEVER_S = 3600.0
"""A test tells when it wants."""
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
DAY = timedelta(days=1)
BUY_NOW = PurchaseWay.BUY_NOW
ANN, BOB = new_id(), new_id()


@pytest.fixture
def outbox(database: Connected) -> Iterator[Connected]:
    with database.begin() as session:
        session.execute(text("TRUNCATE path_secrets, outbox"))
    yield database
    with database.begin() as session:
        session.execute(text("DELETE FROM outbox"))


def told(database: Connected) -> list[StepTaken]:
    with database.read() as session:
        rows = session.scalars(
            text("SELECT payload FROM outbox WHERE type = 'steps_taken' ORDER BY id")
        )
        return [step for row in rows for step in StepsTaken.model_validate(row).steps]


def tell(database: Connected, *taken: tuple[UUID, PathStep, datetime]) -> list[UUID]:
    """The paths of these, as one process tells them."""
    before = len(told(database))
    paths = Paths(database, NEVER_S)
    for session_id, step, at in taken:
        paths.take(session_id, BUY_NOW, step, at)
    paths.add()
    paths.stop()
    return [step.path_id for step in told(database)[before:]]


def test_two_processes_name_a_session_alike_for_a_day_and_no_two_alike(outbox: Connected) -> None:
    of_one = tell(outbox, (ANN, PathStep.DIALOG, NOON))
    of_one += tell(outbox, (BOB, PathStep.DIALOG, NOON))
    of_another = tell(outbox, (ANN, PathStep.CARD_PAGE, NOON))
    tomorrow = tell(outbox, (ANN, PathStep.DIALOG, NOON + DAY))

    assert of_another == of_one[:1]
    assert len({*of_one, *tomorrow}) == 3
    assert not {ANN, BOB} & {*of_one, *tomorrow}


def test_a_day_s_secret_is_gone_with_the_day_and_with_it_who_it_was(outbox: Connected) -> None:
    midnight = NOON.replace(hour=0) + DAY
    (path,) = tell(outbox, (ANN, PathStep.DIALOG, NOON))

    forget(outbox, midnight, [SECRETS_KEPT])
    assert tell(outbox, (ANN, PathStep.CARD_PAGE, NOON)) == [path]

    forget(outbox, midnight + timedelta(microseconds=1), [SECRETS_KEPT])
    with outbox.read() as session:
        assert session.scalar(text("SELECT count(*) FROM path_secrets")) == 0
    assert tell(outbox, (ANN, PathStep.CARD_PAGE, NOON)) != [path]


def test_another_day_s_secret_ends_those_before_it_and_none_is_made_for_them(
    outbox: Connected,
) -> None:
    tell(outbox, (ANN, PathStep.DIALOG, NOON))
    tell(outbox, (ANN, PathStep.DIALOG, NOON + DAY))

    assert tell(outbox, (ANN, PathStep.CARD_PAGE, NOON)) == []
    with outbox.read() as session:
        left = session.scalars(text("SELECT starts_at FROM path_secrets")).all()
    assert left == [NOON.replace(hour=0) + DAY]


def test_what_was_gathered_before_and_after_midnight_is_told_of_both_days(
    outbox: Connected,
) -> None:
    tell(outbox, (BOB, PathStep.DIALOG, NOON))

    assert len(tell(outbox, (ANN, PathStep.DIALOG, NOON + DAY), (ANN, PathStep.DIALOG, NOON))) == 2


def test_nothing_that_is_told_or_kept_of_it_is_finer_than_the_hour_or_in_its_order(
    outbox: Connected,
) -> None:
    many = [new_id() for _ in range(20)]
    fine = NOON + timedelta(minutes=34, seconds=56, microseconds=789)
    paths = tell(
        outbox,
        *((who, PathStep.CARD_PAGE, fine) for who in many),
        *((who, PathStep.DIALOG, fine) for who in many),
    )

    with outbox.read() as session:
        payload, event_id = session.execute(text("SELECT payload, event_id FROM outbox")).one()
    said = StepsTaken.model_validate(payload)
    facts, active = counted(said)
    moments = [payload["occurred_at"], *(step["taken_at"] for step in payload["steps"])]
    assert {moment[13:] for moment in moments} == {":00:00Z"}
    assert ({fact.at for fact in facts}, active) == ({NOON}, [])
    assert event_id.version == 4
    assert paths == sorted(paths)
    assert [step.step for step in said.steps] == [PathStep.CARD_PAGE, PathStep.DIALOG] * 20


def test_a_secret_is_written_into_no_log_that_a_backup_keeps(outbox: Connected) -> None:
    with outbox.read() as session:
        persistence = session.scalar(
            text("SELECT relpersistence FROM pg_class WHERE relname = 'path_secrets'")
        )

    assert persistence == "u"


def test_the_first_time_of_a_step_is_told_once(outbox: Connected) -> None:
    later = NOON + timedelta(seconds=1)
    step = PathStep.DIALOG
    tell(outbox, (ANN, step, later), (ANN, step, NOON), (ANN, step, later))

    (only,) = told(outbox)
    assert (only.step, only.way, only.taken_at) == (step, BUY_NOW, NOON)


def test_many_are_told_in_events_of_a_bounded_size(outbox: Connected) -> None:
    tell(outbox, *((new_id(), PathStep.DIALOG, NOON) for _ in range(STEPS_MAX + 1)))

    with outbox.read() as session:
        sizes = session.scalars(
            text("SELECT jsonb_array_length(payload -> 'steps') FROM outbox ORDER BY id")
        ).all()
    assert sizes == [STEPS_MAX, 1]


def test_what_is_gathered_while_the_database_is_away_is_told_later(outbox: Connected) -> None:
    away = connect("postgresql+psycopg2://nobody@127.0.0.1:1/none", pool_size=1)
    paths = Paths(away, NEVER_S)
    paths.take(ANN, BUY_NOW, PathStep.DIALOG, NOON + timedelta(seconds=1))
    paths.add()
    paths.take(ANN, BUY_NOW, PathStep.DIALOG, NOON)
    paths._database = outbox
    paths.stop()
    paths.add()

    assert [step.taken_at for step in told(outbox)] == [NOON]


def test_where_it_stays_away_a_bounded_number_is_kept(
    outbox: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.gathering.GATHERED_MAX", 2)
    paths = tell(outbox, *((new_id(), PathStep.DIALOG, NOON) for _ in range(3)))

    assert len(paths) == 2


def test_what_was_told_is_kept_for_an_hour_and_other_events_as_ever(outbox: Connected) -> None:
    tell(outbox, (ANN, PathStep.DIALOG, NOON))
    add_user(outbox, has_wallet=True)
    with outbox.begin() as session:
        session.execute(text("UPDATE outbox SET published_at = :at"), {"at": NOON})

    hour = timedelta(hours=1)
    assert forget(outbox, NOON + hour, [EVENTS_KEPT]) == {"outbox": 0}
    assert forget(outbox, NOON + hour + timedelta(seconds=1), [EVENTS_KEPT]) == {"outbox": 1}
    with outbox.read() as session:
        assert session.scalars(text("SELECT type FROM outbox")).all() == ["user_registered"]


class Catalog:
    """Knows one product; everything else is away."""

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if not isinstance(request, GetProduct):
            raise Unavailable("It is away.")
        return lambda: GetProduct.reply.model_validate(examples("catalog")["Product"])


@pytest.fixture
def shop(alone: Flask, outbox: Connected, monkeypatch: pytest.MonkeyPatch) -> Flask:
    answers_with(monkeypatch, Catalog())
    return alone


@pytest.fixture
def browser(shop: Flask, database: Connected) -> FlaskClient:
    return logged_in(shop, add_user(database, has_wallet=True))


def walked(shop: Flask, database: Connected) -> list[tuple[str, str]]:
    backend_of(shop).paths.add()
    return [(step.way.value, step.step.value) for step in told(database)]


def test_a_dialog_that_could_not_be_shown_is_no_step(
    shop: Flask, database: Connected, browser: FlaskClient
) -> None:
    assert browser.get("/marketplace/vm").status_code == 200
    assert browser.get("/marketplace/vm/buy").status_code == 303
    assert browser.get("/marketplace/vm/buy", headers={"HX-Request": "true"}).status_code == 503

    assert walked(shop, database) == [("buy_now", "product_page")]


@pytest.mark.parametrize("name", ["DNT", "Sec-GPC"])
def test_who_asks_not_to_be_followed_is_not(
    shop: Flask, database: Connected, browser: FlaskClient, name: str
) -> None:
    assert browser.get("/marketplace/vm", headers={name: "1"}).status_code == 200
    assert walked(shop, database) == []

    assert browser.get("/marketplace/vm", headers={name: "0"}).status_code == 200
    assert walked(shop, database) == [("buy_now", "product_page")]


def test_visitors_and_programs_have_no_path(shop: Flask, database: Connected) -> None:
    token = token_for(database, add_user(database, has_wallet=True))
    program = {"Authorization": f"Bearer {token}"}
    for headers in ({}, program):
        assert shop.test_client().get("/marketplace/vm", headers=headers).status_code == 200

    assert walked(shop, database) == []


def test_nothing_that_is_told_holds_a_session_or_a_user(
    shop: Flask, database: Connected, browser: FlaskClient
) -> None:
    browser.get("/marketplace/vm")
    backend_of(shop).paths.add()

    with database.read() as session:
        said = session.scalar(
            text("SELECT payload::text || headers::text FROM outbox WHERE type = 'steps_taken'")
        )
        ids = session.scalars(
            text("SELECT user_id::text FROM users UNION SELECT session_id::text FROM user_sessions")
        ).all()
    assert said
    assert len(ids) >= 2
    assert not [each for each in ids if each in said or each.replace("-", "") in said]
