"""Lanes: whoever has much to do, or is stuck, keeps nobody else waiting."""

from collections.abc import Callable
from typing import Any

import eventlet
from eventlet.event import Event as Signal

from chassis.identifiers import new_id
from services.topup.charging.background import OWNERS_WAITING_MAX, WAITING_MAX, Lane, Work

PATIENCE_S = 10


def within_patience(wait: Callable[[], Any]) -> Any:
    with eventlet.Timeout(PATIENCE_S, TimeoutError("it is still waiting")):
        return wait()


def stuck() -> tuple[Signal, Work]:
    """Work that lasts until the signal is sent."""
    signal = Signal()
    return signal, (signal.wait, ())


def test_the_volume_of_one_owner_leaves_room_for_the_next() -> None:
    lane, busy, other = Lane(workers=2), new_id(), new_id()
    release, waiting = stuck()
    for _ in range(40):
        lane.add(busy, waiting)
    done = Signal()

    lane.add(other, (done.send, ()))

    within_patience(done.wait)
    release.send()
    within_patience(lane.wait)


def test_owners_take_turns() -> None:
    lane, many, few = Lane(workers=1), new_id(), new_id()
    order: list[str] = []
    for number in range(3):
        lane.add(many, (order.append, (f"many {number}",)))
    lane.add(few, (order.append, ("few",)))

    within_patience(lane.wait)

    assert order == ["many 0", "few", "many 1", "many 2"]


def test_of_one_owner_one_thing_is_done_at_a_time_and_in_order() -> None:
    lane, owner = Lane(workers=4), new_id()
    under_way: list[int] = []
    seen: list[tuple[int, int]] = []

    def work(number: int) -> None:
        under_way.append(number)
        eventlet.sleep(0)
        seen.append((number, len(under_way)))
        under_way.remove(number)

    for number in range(5):
        lane.add(owner, (work, (number,)))

    within_patience(lane.wait)

    assert seen == [(number, 1) for number in range(5)]


def test_what_fails_keeps_nothing_behind_it() -> None:
    lane, owner, done = Lane(workers=1), new_id(), Signal()

    def fail() -> None:
        raise ValueError("for the test")

    lane.add(owner, (fail, ()))
    lane.add(owner, (done.send, ()))

    within_patience(done.wait)


def test_a_full_lane_leaves_work_to_the_timers_and_one_owner_cannot_fill_it() -> None:
    lane, busy = Lane(workers=1), new_id()
    _, waiting = stuck()

    taken = [lane.add(busy, waiting) for _ in range(OWNERS_WAITING_MAX + 5)].count(True)
    others = [lane.add(new_id(), waiting) for _ in range(WAITING_MAX)].count(True)

    assert (taken, taken + others) == (OWNERS_WAITING_MAX, WAITING_MAX)
