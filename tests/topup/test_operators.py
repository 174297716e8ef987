"""The operators' commands, as somebody with a terminal beside the service runs them."""

from datetime import timedelta
from subprocess import CompletedProcess
from uuid import UUID

import pytest

from chassis.clock import utc_now
from services.topup import problems
from services.topup.charging import reversals, webhooks
from services.topup.models import Notice, Topup
from tests.system import run_command
from tests.topup.conftest import NOON, Desk
from tests.topup.test_reversals import pay_again
from tests.topup.test_webhooks import break_notice, events_of, pay_by_hand


def command(desk: Desk, module: str, *arguments: str, **settings: str) -> CompletedProcess[str]:
    return run_command(
        desk.till.database,
        f"services.topup.{module}",
        *arguments,
        STRIPE_API_KEY="sk_test_of_the_tests",
        STRIPE_API_BASE=desk.sandbox.url,
        STRIPE_WEBHOOK_SECRET="whsec_of_the_tests",
        **settings,
    )


def test_the_switch_stops_all_charges_while_the_broker_is_away(desk: Desk) -> None:
    customer = desk.customer()

    stopped = command(desk, "switch", "stop", "--by", "tests", "--reason", "Drill")
    refused = customer.ask()
    released = command(desk, "switch", "release", "--by", "tests", "--reason", "Drill is over")
    shown = command(desk, "switch")

    assert "All automatic charges are stopped by tests" in stopped.stdout
    assert refused.code == "stopped_by_operator"
    assert "Automatic charges go out by tests" in released.stdout
    assert shown.stdout == released.stdout


def test_turning_the_switch_needs_a_name_and_a_reason(desk: Desk) -> None:
    ended = command(desk, "switch", "stop")

    assert ended.returncode == 2
    assert "--by" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("reconcile",),
        ("problems",),
        ("dead_notices", "list"),
        ("switch",),
        ("switch", "stop", "--by", "tests", "--reason", "Drill"),
    ],
)
def test_a_database_that_is_away_is_told_from_what_is_wrong(
    desk: Desk, arguments: tuple[str, ...]
) -> None:
    ended = command(desk, *arguments, DATABASE_URL="postgresql+psycopg2://a:b@127.0.0.1:9/away")

    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert "Connection refused" in ended.stderr


def test_a_wallet_that_is_away_makes_the_books_unreadable(desk: Desk) -> None:
    desk.clock.set(utc_now() - timedelta(hours=1))
    desk.customer().ask()

    ended = command(desk, "reconcile")

    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)


def test_a_problem_is_printed_and_sets_the_exit_status(desk: Desk) -> None:
    customer = desk.customer()
    topup = customer.ask()
    assert isinstance(topup, Topup)
    flag(desk, topup.topup_id)

    ended = command(desk, "problems")

    assert ended.returncode == 1
    assert str(topup.topup_id) in ended.stdout
    assert "paid twice" in ended.stdout


def listed(desk: Desk) -> list[str]:
    with desk.till.database.read() as session:
        return [problem.code for problem in problems.listed(session, desk.clock(), 9).problems]


def test_a_card_that_vanished_is_no_problem_for_ever(desk: Desk) -> None:
    customer = desk.customer()
    desk.till.processor.detach_payment_method(customer.cards()[0])
    customer.ask()
    soon = listed(desk)
    desk.clock.advance(days=8)

    assert (soon, listed(desk)) == (["topup_failed"], [])


def test_of_many_charges_that_failed_the_last_ones_are_listed(desk: Desk) -> None:
    users = []
    for _ in range(3):
        customer = desk.customer()
        desk.till.processor.detach_payment_method(customer.cards()[0])
        customer.ask()
        users.append(customer.user_id)
        desk.clock.advance(minutes=1)

    with desk.till.database.read() as session:
        found = problems.listed(session, desk.clock(), 2).problems

    assert [problem.user_id for problem in found] == users[1:]


def test_a_second_payment_is_a_problem_until_it_is_given_back(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask()
    customer.credited()
    second = pay_again(desk, customer)
    before = listed(desk)
    desk.till.processor.refund(second, None, idempotency_key="second")

    reversals.take_refunds(desk.till, second)

    assert (before, listed(desk)) == (["payment_flagged"], [])


def test_no_problem_is_said_so() -> None:
    assert problems.report([], NOON) == "There are no problems."


def flag(desk: Desk, topup_id: UUID) -> None:
    with desk.till.database.begin() as session:
        session.get_one(Topup, topup_id).problem = "paid twice: pi_1 and pi_2"


def test_notices_that_were_given_up_are_listed_replayed_and_discarded(desk: Desk) -> None:
    good, hopeless = pay_by_hand(desk), break_notice(desk)
    (event,) = events_of(desk, "checkout.session.completed")
    webhooks.store(desk.till, event)
    desk.queue.clear()
    with desk.till.database.begin() as session:
        for event_id in (event["id"], hopeless):
            notice = session.get_one(Notice, event_id)
            notice.given_up_at, notice.next_try_at, notice.tries = desk.clock(), None, 12

    shown = command(desk, "dead_notices", "list")
    replayed = command(desk, "dead_notices", "replay", event["id"])
    discarded = command(desk, "dead_notices", "discard", hopeless)
    left = command(desk, "dead_notices", "list")
    with desk.till.database.read() as session:
        tries = session.get_one(Notice, event["id"]).tries
    desk.clock.set(max(desk.clock(), utc_now() + timedelta(minutes=1)))
    desk.sweep()

    assert (event["id"] in shown.stdout, hopeless in shown.stdout) == (True, True)
    assert (replayed.stdout, discarded.stdout) == ("replay: 1 notices\n", "discard: 1 notices\n")
    assert (left.stdout, tries, good.statuses()) == ("", 0, ["paid"])
