"""Everybody's top-ups and settings as they are recorded: the same as their events said."""

from collections.abc import Iterator

import pytest

from chassis.database import Connected, connect
from contracts.topup import AutoTopupRecord, ExportAutoTopup, ExportTopups, TopupRecord
from services.analytics.facts import of_auto_topup, of_topup
from services.topup import export
from services.topup.charging import checkout, reversals
from tests.counted import assert_records_tell_the_same
from tests.topup.conftest import USD, Card, Customer, Desk


@pytest.fixture(scope="module")
def analytics(databases: dict[str, str]) -> Iterator[Connected]:
    connected = connect(databases["analytics"])
    yield connected
    connected.engine.dispose()


def topups(desk: Desk, limit: int = 1) -> list[TopupRecord]:
    found: list[TopupRecord] = []
    cursor = None
    while True:
        with desk.till.database.read() as session:
            page = export.export_topups(session, ExportTopups(cursor=cursor, limit=limit))
        assert len(page.records) <= limit
        found += page.records
        if (cursor := page.next_cursor) is None:
            return found


def auto_topups(desk: Desk, limit: int = 1) -> list[AutoTopupRecord]:
    found: list[AutoTopupRecord] = []
    cursor = None
    while True:
        with desk.till.database.read() as session:
            page = export.export_auto_topup(session, ExportAutoTopup(cursor=cursor, limit=limit))
        assert len(page.records) <= limit
        found += page.records
        if (cursor := page.next_cursor) is None:
            return found


def charged(desk: Desk) -> Customer:
    customer = desk.customer()
    customer.ask()
    desk.clock.advance(hours=1)
    return customer


def buys_by_hand(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.start_topup()
    (topup,) = customer.topups()
    desk.sandbox.pay(str(topup.session_id))
    checkout.settle_session(desk.till, str(topup.session_id))
    desk.clock.advance(hours=1)


def test_what_is_recorded_comes_to_what_was_heard(desk: Desk, analytics: Connected) -> None:
    customer = charged(desk)
    (topup,) = customer.topups()
    dispute = desk.sandbox.post(f"charges/{topup.payment_id}/dispute")
    reversals.take_dispute(desk.till, dispute["id"])
    desk.clock.advance(hours=1)
    desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome="won")
    reversals.take_dispute(desk.till, dispute["id"])
    # The wallet does not say that it has credited it: it is published once more.
    desk.sweep()
    buys_by_hand(desk)
    declined = desk.customer(Card.DECLINED_WHEN_CHARGED)
    declined.ask()

    found = [*map(of_topup, topups(desk)), *map(of_auto_topup, auto_topups(desk))]

    assert len(customer.events("topup_paid")) > 1
    assert len(customer.events("topup_restored")) == 1
    assert_records_tell_the_same(analytics, desk.till.database, "topup", found)


def test_settings_are_those_of_now_of_everybody_who_saved_some(desk: Desk) -> None:
    first, second = desk.customer(), desk.customer()
    desk.customer(enabled=False)
    second.configure(enabled=False)

    found = {record.user_id: record for record in auto_topups(desk)}

    assert {user_id: record.is_on for user_id, record in found.items()} == {
        first.user_id: True,
        second.user_id: False,
    }
    assert found[second.user_id].settings_version > found[first.user_id].settings_version


def test_a_page_that_nobody_paid_is_no_top_up_yet(desk: Desk) -> None:
    desk.customer(enabled=False).start_topup(5 * USD)

    assert topups(desk) == []
