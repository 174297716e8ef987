"""Periodic work: who does it, and how seldom while nothing happens."""

import time
from collections.abc import Callable

import eventlet
import pytest
from eventlet.event import Event as Signal
from sqlalchemy import text

from chassis.identifiers import new_id
from chassis.instruments import REGISTRY
from chassis.timer import Timer
from chassis.timer import timer as periodic
from tests.chassis.conftest import Probe
from tests.chassis.probe.messages import Tell
from tests.chassis.probe.service import LOOKS, TICK
from tests.patience import PATIENCE_S, eventually

LEADERS = text(
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def fresh(make_probe: Callable[..., Probe]) -> Probe:
    return make_probe()


def leaders(probe: Probe) -> list[int]:
    with probe.database.read() as session:
        return list(session.scalars(LEADERS))


def ticks(probe: Probe, times: int) -> None:
    probe.comes_to_note(TICK, probe.noted(TICK) + times)


def test_a_timer_sleeps_until_something_is_due_or_was_written(fresh: Probe) -> None:
    eventually(lambda: fresh.noted(LOOKS), lambda looks: looks == 3)
    ticks(fresh, 5)
    while_nothing_happened = fresh.noted(LOOKS)
    fresh.rpc.call(Tell(idempotency_key=str(new_id()), n=1))

    assert while_nothing_happened == 3
    eventually(lambda: fresh.noted(LOOKS), lambda looks: looks > 3)


def test_a_timer_lets_who_writes_go_on_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chassis.timer.WRITES_WITHIN_S", PATIENCE_S)
    timer, order = Timer(1, 5), []

    def write() -> None:
        for _ in range(3):
            order.append("written")
            timer.wake()
            eventlet.sleep(0.02)

    writer = eventlet.spawn(write)
    timer.wake()
    timer._let_others_write()
    order.append("looked")
    writer.wait()

    assert order == ["written"] * 3 + ["looked"]


def test_a_timer_looks_in_time_though_something_is_written_all_the_time() -> None:
    timer, stop = Timer(1, 5), Signal()

    def write() -> None:
        while not stop.ready():
            timer.wake()
            eventlet.sleep(0.02)

    writer = eventlet.spawn(write)
    timer.wake()
    with eventlet.Timeout(PATIENCE_S):
        timer._let_others_write()
    stop.send()
    writer.wait()

    assert not timer.should_stop.ready()


def test_a_timer_that_is_stopped_while_it_lets_others_write_ends_at_once() -> None:
    timer = Timer(0, 3_600)
    timer.gt = eventlet.spawn(timer._run)
    timer.wake()
    eventlet.sleep(0.05)

    with eventlet.Timeout(PATIENCE_S):
        timer.stop()


def test_what_a_timer_never_did_is_0_and_what_it_did_is_when() -> None:
    failures = [ValueError("It fails once.")]

    def fail_once(_service: object) -> None:
        if failures:
            raise failures.pop()

    def last_done_s() -> float | None:
        name = "mycelium_timer_last_success_timestamp_seconds"
        return REGISTRY.get_sample_value(name, {"timer": "fail_once"})

    began_s = time.time()
    tick = periodic(1)(fail_once)
    seen = [last_done_s()]
    tick(None)
    seen.append(last_done_s())
    tick(None)
    done_s = last_done_s()

    assert seen == [0, 0]
    assert done_s is not None
    assert began_s <= done_s <= time.time()


def test_a_leader_leads_for_as_long_as_it_lives(fresh: Probe) -> None:
    eventually(lambda: leaders(fresh), lambda found: len(found) == 1)
    (first,) = leaders(fresh)
    fresh.start()

    found = set()
    for _ in range(5):
        ticks(fresh, 1)
        found |= set(leaders(fresh))

    assert found == {first}


@pytest.mark.soak
def test_a_leader_that_was_cut_off_from_the_database_leads_again(fresh: Probe) -> None:
    eventually(lambda: leaders(fresh), lambda found: len(found) == 1)
    (first,) = leaders(fresh)
    with fresh.database.begin() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": first})

    eventually(lambda: leaders(fresh), lambda found: len(found) == 1 and found != [first])
    ticks(fresh, 2)


def test_another_replica_leads_when_the_leader_is_stopped(fresh: Probe) -> None:
    eventually(lambda: leaders(fresh), lambda found: len(found) == 1)
    (first,) = leaders(fresh)
    fresh.start()
    fresh.children[0].stop(PATIENCE_S)
    eventually(fresh.answers)

    eventually(lambda: leaders(fresh), lambda found: len(found) == 1 and found != [first])
    ticks(fresh, 2)
