"""People who come from the old system: invited once, and never in somebody else's place."""

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.errors import Conflict, Unavailable
from contracts.legacy import GetOldHistory, OldEntry, OldHistory, PersonMoved, PersonMovedBack
from services.gateway.app import create_app
from services.gateway.backend import Backend
from services.gateway.models import Mail, MailLink, User
from services.gateway.notifications import links
from services.gateway.notifications.links import Purpose
from services.gateway.people import moved, passwords, users
from tests.gateway.conftest import add_user, gateway_settings, token_for

SECRET = "of the tests only"


def person(email: str, user_id: UUID | None = None) -> PersonMoved:
    return PersonMoved(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=user_id or uuid4(),
        email=email,
        balance_micros=15_050_000,
        services=[],
    )


def back(event: PersonMoved, *, was_refused: bool = False) -> PersonMovedBack:
    return PersonMovedBack(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=event.user_id,
        email=event.email,
        deployment_ids=[],
        was_refused=was_refused,
    )


@pytest.fixture
def welcome(database: Connected) -> Callable[[PersonMoved], None]:
    def welcome(event: PersonMoved) -> None:
        with database.begin() as session:
            moved.welcome(session, utc_now(), event)

    return welcome


def an_address() -> str:
    return f"Ann.{uuid4().hex}@Example.org"


def answers(database: Connected, user_id: UUID) -> list[str]:
    with database.read() as session:
        query = text(
            "SELECT payload ->> 'refusal' FROM outbox WHERE type = 'moved_person_answered'"
            " AND payload ->> 'user_id' = :user_id ORDER BY id"
        )
        return list(session.scalars(query, {"user_id": str(user_id)}))


def invitations(database: Connected, user_id: UUID) -> list[MailLink]:
    with database.read() as session:
        return list(
            session.scalars(
                select(MailLink).where(
                    MailLink.user_id == user_id, MailLink.purpose == Purpose.INVITATION
                )
            )
        )


def test_a_moved_person_sets_a_password_by_the_invitation(
    database: Connected, welcome: Callable[[PersonMoved], None]
) -> None:
    event = person(an_address())
    welcome(event)

    [link] = invitations(database, event.user_id)
    written = links.address_of(link, SECRET).partition("=")[2]
    with database.begin() as session:
        opened = links.opened(session, utc_now(), SECRET, written, Purpose.INVITATION, to_use=True)
        new_hash = users.new_password_hash(link.email, "correct horse battery")
        passwords.reset(session, utc_now(), opened, new_hash)

    user = users.log_in(database, event.email, "correct horse battery")
    assert (user.user_id, user.wallet_opened_at is None) == (event.user_id, False)
    assert answers(database, event.user_id) == [""]
    with database.read() as session:
        mail = session.scalars(select(Mail).where(Mail.link_id == link.link_id)).one()
    assert mail.title == "Your account has moved: choose a password"


def test_before_that_no_password_opens_the_account(
    database: Connected, welcome: Callable[[PersonMoved], None]
) -> None:
    event = person(an_address())
    welcome(event)

    for password in (moved.NO_PASSWORD, ""):
        with pytest.raises(users.WrongCredentials):
            users.log_in(database, event.email, password)


def test_whose_address_has_an_account_is_not_made_another_one(
    database: Connected, welcome: Callable[[PersonMoved], None]
) -> None:
    email = an_address()
    add_user(database, email, has_wallet=True)
    event = person(email.upper())

    welcome(event)

    assert answers(database, event.user_id) == [moved.ADDRESS_TAKEN]
    assert invitations(database, event.user_id) == []


def test_what_is_no_address_is_said_to_be_none(
    database: Connected, welcome: Callable[[PersonMoved], None]
) -> None:
    event = person("nobody@nowhere@twice")

    welcome(event)

    assert answers(database, event.user_id) == [moved.ADDRESS_UNUSABLE]


def test_who_is_moved_once_more_gets_the_same_account_and_a_new_invitation(
    database: Connected, welcome: Callable[[PersonMoved], None]
) -> None:
    event = person(an_address())
    welcome(event)
    with database.begin() as session:
        moved.withdraw(session, utc_now(), back(event))

    welcome(person(event.email, event.user_id))

    assert answers(database, event.user_id) == ["", ""]
    assert [link.used_at is None for link in invitations(database, event.user_id)] == [False, True]


def test_an_end_that_overtakes_its_beginning_comes_again(database: Connected) -> None:
    with database.begin() as session, pytest.raises(Conflict):
        moved.withdraw(session, utc_now(), back(person(an_address())))


def test_who_was_refused_has_nothing_to_withdraw(database: Connected) -> None:
    event = person(an_address())

    with database.begin() as session:
        moved.withdraw(session, utc_now(), back(event, was_refused=True))
        assert session.get(User, event.user_id) is None


@pytest.mark.parametrize("is_address", [True, False])
def test_who_was_refused_before_the_old_system_knew_has_nothing_to_withdraw(
    database: Connected, welcome: Callable[[PersonMoved], None], is_address: bool
) -> None:
    event = person(an_address() if is_address else "nobody@nowhere@twice")
    if is_address:
        add_user(database, event.email, has_wallet=True)
    welcome(event)

    with database.begin() as session:
        moved.withdraw(session, utc_now(), back(event))
        assert session.get(User, event.user_id) is None


def test_the_old_history_is_read_with_its_dollars(
    database: Connected, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = add_user(database, has_wallet=True)
    entry = OldEntry(
        kind="TopUp",
        status="Completed",
        at="2025-02-03T10:00:00.000000000Z",
        amount="202.91",
        unit="TFP",
        amount_micros=20_291_000,
        note="<b>by card</b>",
    )
    asked: list[GetOldHistory] = []

    def begin(_: Backend, request: object, _timeout_s: float) -> Callable[[], OldHistory]:
        if not isinstance(request, GetOldHistory):
            raise Unavailable("It is away.")
        asked.append(request)
        return lambda: OldHistory(
            user_id=request.user_id,
            moved_at=utc_now(),
            rate="0.1",
            balance="150.5",
            unit="TFP",
            balance_micros=15_050_000,
            services=[],
            entries=[entry],
            entries_total=70,
        )

    monkeypatch.setattr(Backend, "begin", begin)
    app = create_app(gateway_settings(databases["gateway"]))
    headers = {"Authorization": f"Bearer {token_for(database, user)}"}

    page = app.test_client().get("/dashboard/old-history?skip=50", headers=headers).text
    refused = app.test_client().get("/dashboard/old-history?skip=x", headers=headers)

    app.extensions["mycelium"].close()
    assert (asked[0].user_id, asked[0].skip) == (user.user_id, 50)
    assert "202.91 TFP" in page
    assert "$20.29" in page
    assert "$15.05" in page
    assert "&lt;b&gt;by card" in page
    assert "skip=0" in page
    assert "skip=51" in page
    assert refused.status_code == 422
