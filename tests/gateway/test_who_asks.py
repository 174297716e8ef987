"""Who asks is known for a second, and what ends it in this process ends it at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from chassis.clock import utc_now
from chassis.database import Connected
from services.gateway.app import create_app
from services.gateway.backend import IDENTITY_AGE_S
from services.gateway.people import tokens
from services.gateway.recent import Recent
from services.gateway.security import CookieSessions
from tests.gateway.conftest import (
    Api,
    Site,
    add_user,
    error_of,
    gateway_settings,
    read,
)
from tests.gateway.test_site import log_in
from tests.patience import PATIENCE_S, eventually

LONG_S = 3_600.0
"""Where no time is to pass: a second does, on a machine that stalls."""


class Looks:
    """Finds a number, another one each time, as the clock of a test stands."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


def test_what_was_found_is_known_until_it_is_time_to_look_anew() -> None:
    look = Looks()
    recent = Recent[int](1.0, 10, clock=lambda: look.now_s)

    found = []
    for at_s in (100.0, 100.749, 100.75, 101.499, 102.5):
        look.now_s = at_s
        found.append(recent.find("key", look))

    assert found == [1, 1, 2, 2, 3]


def test_while_one_looks_anew_the_others_take_what_is_known_and_not_an_instant_longer() -> None:
    look, begun, goes_on = Looks(), Event(), Event()
    recent = Recent[int](1.0, 10, clock=lambda: look.now_s)
    recent.find("key", look)

    def look_anew() -> int:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        return look()

    with ThreadPoolExecutor(2) as threads:
        look.now_s = 100.75
        first = threads.submit(recent.find, "key", look_anew)
        assert begun.wait(PATIENCE_S)
        look.now_s = 100.999
        in_time = recent.find("key", look)
        look.now_s = 101.0
        too_late = threads.submit(recent.find, "key", look)
        goes_on.set()

    assert (in_time, first.result(), too_late.result()) == (1, 2, 2)


def test_what_is_found_again_as_it_was_stays_the_same_and_what_is_gone_is_forgotten() -> None:
    look = Looks()
    recent = Recent[list[str]](1.0, 10, clock=lambda: look.now_s)
    first = recent.find("key", lambda: ["cards"])

    look.now_s = 100.75
    again = recent.find("key", lambda: ["cards"])
    kept = recent.known("key")
    look.now_s = 101.5
    gone = recent.find("key", lambda: None)

    assert (first, again, gone) == (["cards"], ["cards"], None)
    assert kept is first
    assert recent.known("key") is None


def test_the_time_counts_from_before_the_look() -> None:
    look = Looks()
    recent = Recent[int](1.0, 10, clock=lambda: look.now_s)

    def look_slowly() -> int:
        look.now_s += 0.9
        return look()

    recent.find("key", look_slowly)
    look.now_s += 0.2

    assert recent.find("key", look) == 2


def test_who_was_looking_while_something_was_forgotten_keeps_nothing() -> None:
    look = Looks()
    recent = Recent[int](1.0, 10, clock=lambda: look.now_s)

    def look_while_it_ends() -> int:
        found = look()
        recent.forget("key")
        return found

    recent.find("key", look_while_it_ends)

    assert recent.known("key") is None


def test_one_looks_and_the_others_wait_for_what_it_finds() -> None:
    recent, look, begun, goes_on = Recent[int](LONG_S, 10), Looks(), Event(), Event()

    def look_slowly() -> int:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        return look()

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(recent.find, "key", look_slowly)
        assert begun.wait(PATIENCE_S)
        others = [threads.submit(recent.find, "key", look) for _ in range(3)]
        goes_on.set()

    assert [found.result() for found in (first, *others)] == [1, 1, 1, 1]


def test_who_asks_after_something_was_forgotten_waits_for_nobody() -> None:
    recent, look = Recent[int](LONG_S, 10), Looks()

    def look_while_it_ends() -> list[int]:
        recent.forget("key")
        return [recent.find("key", look)]

    assert recent.find("key", look_while_it_ends) == [1]
    assert recent.known("key") == 1


def test_a_look_that_takes_longer_than_what_it_finds_is_good_for_is_not_waited_for() -> None:
    look = Looks()
    recent = Recent[int](1.0, 10, clock=lambda: look.now_s)

    def look_for_long() -> list[int]:
        look.now_s += 1.0
        return [recent.find("key", look)]

    assert recent.find("key", look_for_long) == [1]


def test_a_look_that_fails_fails_for_itself_and_is_over() -> None:
    recent = Recent[int](LONG_S, 10)

    def fail() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        recent.find("key", fail)

    assert recent.find("key", Looks()) == 1


def test_a_look_anew_that_fails_leaves_what_is_known_for_as_long_as_it_holds() -> None:
    look = Looks()
    recent = Recent[int](1.0, 10, clock=lambda: look.now_s)
    recent.find("key", look)

    def fail() -> int:
        raise LookupError

    look.now_s = 100.75
    renewing, other = recent.find("key", fail), recent.known("key")
    look.now_s = 100.8
    failed_again = recent.find("key", fail)
    look.now_s = 101.0

    assert (renewing, other, failed_again) == (1, 1, 1)
    with pytest.raises(LookupError):
        recent.find("key", fail)


def test_a_look_anew_that_fails_after_something_was_forgotten_fails() -> None:
    look = Looks()
    recent = Recent[int](1.0, 10, clock=lambda: look.now_s)
    recent.find("key", look)

    def fail_while_it_ends() -> int:
        recent.forget("key")
        raise LookupError

    look.now_s = 100.75
    with pytest.raises(LookupError):
        recent.find("key", fail_while_it_ends)


def test_what_is_compared_takes_no_time_of_others() -> None:
    look = Looks()
    recent = Recent[object](1.0, 10, clock=lambda: look.now_s)
    free = []

    class Compared:
        def __eq__(self, _other: object) -> bool:
            free.append(not recent._lock.locked())
            return True

        __hash__ = None

    recent.find("key", Compared)
    look.now_s = 100.75
    recent.find("key", Compared)

    assert free == [True, True]


def test_what_is_not_there_is_looked_for_again() -> None:
    recent = Recent[int](LONG_S, 10)
    assert recent.find("key", lambda: None) is None

    assert recent.find("key", Looks()) == 1


def test_no_more_is_kept_than_there_is_room_for() -> None:
    recent = Recent[int](LONG_S, 2)
    for key in range(3):
        recent.find(key, Looks())

    assert [recent.known(key) for key in range(3)] == [None, None, 1]


def test_a_token_that_another_process_ended_is_refused_within_a_second(
    member: Api, database: Connected
) -> None:
    assert read(member.get("/api/auth/me"))["email"] == member.email
    with database.begin() as session:
        found = tokens.find(session, utc_now(), member.token or "")
        assert found is not None
        tokens.revoke(session, utc_now(), found.token_id)
    ended_s = time.monotonic()

    eventually(lambda: time.monotonic() - ended_s > IDENTITY_AGE_S)

    assert error_of(member.get("/api/auth/me")) == (401, "authentication_required")


def test_a_session_s_secret_is_no_token_although_its_user_is_known(
    site: Site, database: Connected
) -> None:
    browser, _ = log_in(site, add_user(database, has_wallet=True))
    app = create_app(gateway_settings("postgresql+psycopg2://nobody@127.0.0.1:1/none"))
    signer = CookieSessions().get_signing_serializer(app)
    assert signer is not None
    secret = signer.loads(browser.cookies["mycelium_session"])["sid"]
    assert browser.get(f"{site.base_url}/api/auth/me").ok

    answer = Api(site.base_url, secret).get("/api/auth/me")

    assert error_of(answer) == (401, "authentication_required")
