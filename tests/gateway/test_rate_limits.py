"""Rate limits: exact waits, one count for all processes, and an owner who is not locked out."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import requests
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from chassis.database import Connected, connect
from chassis.retention import forget
from chassis.together import ALONE
from services.gateway import rate_limits
from services.gateway.models import User
from services.gateway.rate_limits import TakenAhead, _Count, _count_all, _Pace, parse, take
from tests.gateway.conftest import PASSWORD, Front, Site, add_user
from tests.gateway.test_site import csrf_token
from tests.patience import PATIENCE_S

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("limits", ["3 per minute", "7 per hour", "2 per second; 3 per minute"])
def test_who_waits_as_long_as_is_said_passes_and_not_a_second_earlier(
    database: Connected, limits: str
) -> None:
    rates = parse(limits)
    now = NOW
    while (wait := take(database, now, "somebody", rates)) is None:
        now += timedelta(milliseconds=100)
    retry_after_s = max(1, math.ceil(wait.total_seconds()))

    early = take(database, now + (retry_after_s - 1) * SECOND, "somebody", rates)
    in_time = take(database, now + retry_after_s * SECOND, "somebody", rates)

    assert (early is None, in_time) == (False, None)


def test_a_limit_lets_its_number_through_and_then_one_for_each_part_of_its_time(
    database: Connected,
) -> None:
    rates = parse("6 per minute")

    passed = [
        second
        for second in range(61)
        if take(database, NOW + second * SECOND, "somebody", rates) is None
    ]

    assert passed == [0, 1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("tries", [3, 7, 13])
def test_a_limit_lets_its_number_through_at_once_though_no_part_of_its_time_is_even(
    database: Connected, tries: int
) -> None:
    rates = parse(f"{tries} per minute")

    passed = [take(database, NOW, "somebody", rates) is None for _ in range(tries + 1)]

    assert passed == [True] * tries + [False]


def test_what_is_refused_uses_nothing_up(database: Connected) -> None:
    rates = parse("1 per minute; 2 per hour")
    for _ in range(5):
        take(database, NOW, "somebody", rates)

    assert take(database, NOW + timedelta(minutes=1), "somebody", rates) is None


def test_one_subject_leaves_the_other_s_limit_alone(database: Connected) -> None:
    rates = parse("1 per hour")

    assert [take(database, NOW, who, rates) for who in ("ann", "ben")] == [None, None]


def test_what_was_typed_is_stored_as_a_hash_of_one_length(database: Connected) -> None:
    for typed in ("a", "x" * 100_000, "\ud800"):
        take(database, NOW, typed, parse("1 per hour"))

    with database.read() as session:
        lengths = session.scalars(text("SELECT length(key) FROM rate_limits")).all()
    assert lengths == [32, 32, 32]


def test_rows_that_say_nothing_any_more_are_removed(database: Connected) -> None:
    for number in range(5):
        take(database, NOW, f"passed {number}", parse("1 per minute"))
    take(database, NOW, "still counted", parse("1 per hour"))
    later = NOW + timedelta(minutes=2)

    removed = forget(database, later, [rate_limits.KEPT])

    assert removed == {"rate_limits": 5}
    assert take(database, later, "still counted", parse("1 per hour")) is not None


@pytest.mark.parametrize("limits", ["", "many", "0 per minute", "5 per week", "5 per minute;"])
def test_a_limit_that_cannot_be_read_is_refused(limits: str) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        parse(limits)


def test_all_processes_count_together(
    start_front: Callable[..., Front], database: Connected
) -> None:
    fronts = [start_front(RATE_LIMIT_LOGIN="6 per day") for _ in range(2)]
    credentials = {"email": "nobody@example.com", "password": "wrong password"}

    statuses = [
        requests.post(
            f"{front.base_url}/api/auth/login", json=credentials, timeout=PATIENCE_S
        ).status_code
        for front in fronts * 5
    ]

    assert (statuses.count(401), statuses.count(429)) == (6, 4)


@pytest.fixture
def user(database: Connected) -> User:
    return add_user(database, "owner@example.com", has_wallet=True)


def try_login(site: Site, user: User, password: str, address: str) -> requests.Response:
    return requests.post(
        f"{site.base_url}/api/auth/login",
        json={"email": user.email, "password": password},
        headers={"X-Forwarded-For": address},
        timeout=PATIENCE_S,
    )


def submit_login(site: Site, browser: requests.Session, user: User) -> int:
    page = browser.get(f"{site.base_url}/login")
    form = {"email": user.email, "password": PASSWORD, "csrf_token": csrf_token(page.text)}
    return browser.post(f"{site.base_url}/login", data=form, allow_redirects=False).status_code


def test_wrong_passwords_by_a_stranger_do_not_lock_the_owner_out(
    serve: Callable[..., Site], user: User
) -> None:
    site = serve(trusted_proxies=1, rate_limit_login_email="10 per day")
    stranger = [try_login(site, user, "wrong password", "203.0.113.9") for _ in range(20)]

    owner = try_login(site, user, PASSWORD, "198.51.100.7")

    assert [answer.status_code for answer in stranger] == [401] * 10 + [429] * 10
    assert owner.status_code == 200


def test_strangers_everywhere_are_slowed_and_a_browser_that_is_known_gets_in(
    serve: Callable[..., Site], user: User
) -> None:
    site = serve(trusted_proxies=1, rate_limit_login_account="5 per day")
    known = site.browser()
    assert submit_login(site, known, user) == 303
    known.cookies.pop("mycelium_session")
    for number in range(10):
        last = try_login(site, user, "wrong password", f"203.0.113.{number}")

    assert last.status_code == 429
    assert submit_login(site, site.browser(), user) == 429
    assert submit_login(site, known, user) == 303


def test_a_known_browser_s_own_tries_are_limited(serve: Callable[..., Site], user: User) -> None:
    site = serve(rate_limit_login_email="2 per day")
    known = site.browser()

    assert [submit_login(site, known, user) for _ in range(1)] == [303]
    known.cookies.pop("mycelium_session")
    wrong = [submit_wrong(site, known, user) for _ in range(3)]

    assert wrong == [401, 401, 429]


def submit_wrong(site: Site, browser: requests.Session, user: User) -> int:
    page = browser.get(f"{site.base_url}/login")
    form = {"email": user.email, "password": "wrong one", "csrf_token": csrf_token(page.text)}
    return browser.post(f"{site.base_url}/login", data=form, allow_redirects=False).status_code


def test_the_cookie_of_a_known_browser_is_good_for_its_account_only(
    serve: Callable[..., Site], database: Connected, user: User
) -> None:
    site = serve(rate_limit_login="2 per day")
    browser = site.browser()
    other = add_user(database, "other@example.com", has_wallet=True)
    assert submit_login(site, browser, user) == 303
    browser.cookies.pop("mycelium_session")

    tries = [submit_wrong(site, browser, other) for _ in range(2)]

    assert tries == [401, 429]


def test_the_addresses_of_one_ipv6_network_count_as_one(
    serve: Callable[..., Site], user: User
) -> None:
    site = serve(trusted_proxies=1, rate_limit_login="1 per day")

    statuses = [
        try_login(site, user, "wrong password", address).status_code
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    ]

    assert statuses == [401, 429, 401]


def used_up(database: Connected) -> timedelta:
    """How much time of the only limit there is its tries have used up."""
    with database.read() as session:
        used_until = session.scalar(text("SELECT used_until FROM rate_limits"))
    assert used_until is not None
    return used_until - NOW


def test_what_processes_take_ahead_lets_no_more_through_than_the_limit(
    database: Connected,
) -> None:
    rates = parse("180 per minute")
    processes = [TakenAhead(database) for _ in range(2)]

    passed = sum(
        processes[number % 2].take(NOW, "somebody", rates) is None for number in range(400)
    )

    assert passed == 180


def test_who_asks_often_costs_few_statements(database: Connected) -> None:
    rates, process = parse("6000 per minute"), TakenAhead(database)
    taken = []

    for _ in range(100):
        process.take(NOW, "somebody", rates)
        taken.append(used_up(database))

    assert len(set(taken)) < 30
    assert taken[-1] < timedelta(seconds=100 * 0.01 * 1.25)


def test_who_asks_now_and_then_is_counted_once_for_each(database: Connected) -> None:
    rates, process = parse("60 per minute"), TakenAhead(database)

    for number in range(20):
        process.take(NOW + number * SECOND / 3, "somebody", rates)

    assert used_up(database) == 20 * SECOND


def test_what_was_taken_ahead_is_gone_after_its_second(database: Connected) -> None:
    rates, process = parse("60 per minute"), TakenAhead(database)
    for _ in range(4):
        process.take(NOW, "somebody", rates)
    assert used_up(database) == 5 * SECOND

    process.take(NOW + 2 * SECOND, "somebody", rates)

    assert used_up(database) == 6 * SECOND


def test_what_one_subject_took_ahead_is_not_another_s(database: Connected) -> None:
    rates, process = parse("60 per minute"), TakenAhead(database)
    for _ in range(4):
        process.take(NOW, "ann", rates)

    process.take(NOW, "ben", rates)

    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM rate_limits")) == 2


def test_of_several_rates_nothing_is_taken_ahead(database: Connected) -> None:
    rates, process = parse("60 per minute; 600 per hour"), TakenAhead(database)
    for _ in range(20):
        process.take(NOW, "somebody", rates)

    with database.read() as session:
        used = session.scalars(text("SELECT used_until FROM rate_limits ORDER BY 1")).all()
    assert used == [NOW + 20 * SECOND, NOW + 120 * SECOND]


def test_what_is_counted_at_the_same_moment_is_one_statement(database: Connected) -> None:
    rates, taken = parse("60 per minute"), TakenAhead(database)
    asked = [_Count(NOW + number * SECOND, who, rates, 1) for number, who in enumerate("aba")]

    counted = _count_all(database, asked)

    # As of the last of these moments.
    assert counted == [(None, 58), (None, 59), (None, 58)]
    for _ in range(58):
        assert take(database, NOW + 2 * SECOND, "a", rates) is None
    assert _count_all(database, asked) == [ALONE, (None, 58), ALONE]
    assert taken.take(NOW + 2 * SECOND, "a", rates) == SECOND


def nothing_used_up(_database: Connected) -> None:
    """As before anybody asked."""


def used_up_long_ago(database: Connected) -> None:
    assert take(database, NOW - 100 * SECOND, "somebody", parse("10 per second")) is None


@pytest.mark.parametrize("before", [nothing_used_up, used_up_long_ago])
def test_no_group_is_let_through_that_is_more_than_the_limit(
    database: Connected, before: Callable[[Connected], None]
) -> None:
    before(database)
    rates = parse("10 per second")
    asked = [_Count(NOW, "somebody", rates, 1)] * 11

    assert _count_all(database, asked) == [ALONE] * 11
    passed = [take(database, NOW, "somebody", rates) for _ in asked]
    assert passed == [None] * 10 + [SECOND / 10]


@pytest.mark.parametrize("before", [nothing_used_up, used_up_long_ago])
def test_who_is_refused_for_long_takes_no_more_ahead_than_the_limit(
    database: Connected, before: Callable[[Connected], None]
) -> None:
    before(database)
    rates, process = parse("10 per second"), TakenAhead(database)
    process._paces["somebody"] = _Pace(NOW - SECOND, passed=400)

    passed = [process.take(NOW, "somebody", rates) for _ in range(200)]

    assert passed.count(None) == 10


def test_what_has_another_rate_is_counted_by_itself(database: Connected) -> None:
    one, other, both = (
        parse(limits) for limits in ("60 per minute", "5 per hour", "1 per second; 9 per hour")
    )

    assert _count_all(
        database, [_Count(NOW, "a", one, 1), _Count(NOW, "a", other, 1), _Count(NOW, "a", both, 1)]
    ) == [(None, 59), ALONE, ALONE]
    assert _count_all(database, [_Count(NOW, "b", both, 1)]) == [ALONE]
    assert used_up(database) == SECOND


def test_a_database_that_is_away_is_asked_once_for_all(database: Connected) -> None:
    away = connect("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    asked = [_Count(NOW, who, parse("60 per minute"), 1) for who in "ab"]

    counted = _count_all(away, asked)

    assert [type(each) for each in counted] == [OperationalError] * 2
    assert counted[0] is counted[1]
