"""How many events are handled at a time, and that every place that was taken is left again."""

import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import eventlet
import pytest
from eventlet.semaphore import Semaphore
from nameko.events import EventHandler as NamekoEventHandler
from nameko.exceptions import ContainerBeingKilled
from nameko.rpc import Rpc as NamekoRpc

from chassis.events import ENOUGH, EventHandler, EventPlaces, EventsHandler


class Queue:
    """What the queue's consumer hears of messages."""

    def __init__(self) -> None:
        self.acknowledged: list[Any] = []
        self.requeued: list[Any] = []

    def ack_message(self, message: Any) -> None:
        self.acknowledged.append(message)

    def requeue_message(self, message: Any) -> None:
        self.requeued.append(message)


def places(workers: int, *entrypoints: object) -> EventPlaces:
    places = EventPlaces()
    places.container = SimpleNamespace(max_workers=workers, entrypoints=set(entrypoints))
    return places


@pytest.mark.parametrize(("workers", "for_events"), [(10, 5), (3, 1), (1, 1)])
def test_where_calls_are_answered_half_of_the_workers_handle_events(
    workers: int, for_events: int
) -> None:
    assert places(workers, NamekoRpc(), object()).count == for_events


def test_where_no_calls_come_all_workers_handle_events() -> None:
    assert places(10, object()).count == 10


def handler_of(kind: type[EventHandler], monkeypatch: pytest.MonkeyPatch) -> Any:
    handler: Any = kind("probe", "told")
    handler.shared = places(10)
    handler._places = Semaphore(9)
    handler.queue_consumer = Queue()
    handler.queue = SimpleNamespace(name="evt-probe-told")
    monkeypatch.setattr(handler, "unpack_message_headers", lambda _message: {})
    return handler


def free(handler: Any) -> tuple[int, int]:
    return handler.shared.places.balance, handler._places.balance


MESSAGE = SimpleNamespace(headers={})


def test_an_event_keeps_its_place_until_it_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = handler_of(EventHandler, monkeypatch)
    handled: list[Any] = []
    handler.container = SimpleNamespace(
        spawn_worker=lambda *_args, handle_result, **_kwargs: handled.append(handle_result)
    )

    handler.handle_message({}, MESSAGE)
    meanwhile = free(handler)
    handled[0](None, None)

    assert (meanwhile, free(handler)) == ((9, 8), (10, 9))
    assert handler.queue_consumer.acknowledged == [MESSAGE]


def test_an_event_that_could_not_be_begun_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = handler_of(EventHandler, monkeypatch)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("no worker")

    handler.container = SimpleNamespace(spawn_worker=fail)

    with pytest.raises(RuntimeError, match="no worker"):
        handler.handle_message({}, MESSAGE)

    assert free(handler) == (10, 9)


@pytest.mark.parametrize("fails", [False, True])
def test_events_that_are_handled_together_take_one_place(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    handler = handler_of(EventsHandler, monkeypatch)
    seen: list[tuple[int, int]] = []

    def handle(*_: object) -> None:
        seen.append(free(handler))
        if fails:
            raise RuntimeError("not together")

    handler.container = SimpleNamespace(run_at_once=handle)

    is_handled = handler._is_handled([({}, MESSAGE), ({}, MESSAGE)])

    assert (seen, free(handler), is_handled) == ([(9, 8)], (10, 9), not fails)
    assert len(handler.queue_consumer.acknowledged) == (0 if fails else 2)


def test_events_whose_span_cannot_be_begun_leave_their_place_and_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = handler_of(EventsHandler, monkeypatch)
    failed: list[Any] = []
    monkeypatch.setattr(
        handler, "handle_message_processed", lambda message, **_failure: failed.append(message)
    )

    def fail(*_: object) -> None:
        raise RuntimeError("no span")

    monkeypatch.setattr("chassis.traces.handling", fail)

    together = handler._is_handled([({}, MESSAGE), ({}, MESSAGE)])
    by_itself = handler._is_handled([({}, MESSAGE)])

    assert (together, by_itself, failed) == (False, True, [MESSAGE])
    assert (free(handler), handler.queue_consumer.acknowledged) == ((10, 9), [])


def test_what_arrives_after_a_group_is_handled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = handler_of(EventsHandler, monkeypatch)
    handler._arrived, handler._is_working = deque(), False
    groups: list[int] = []
    works: list[Callable[[], None]] = []
    handler.container = SimpleNamespace(
        spawn_managed_thread=works.append,
        run_at_once=lambda _handler, arguments, _context: groups.append(len(arguments[0])),
    )

    handler.handle_message({}, MESSAGE)
    handler.handle_message({}, MESSAGE)
    works.pop()()
    handler.handle_message({}, MESSAGE)
    works.pop()()

    assert (groups, works) == ([2, 1], [])


def test_what_arrives_while_more_is_awaited_is_in_the_same_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = handler_of(EventsHandler, monkeypatch)
    handler._arrived, handler._is_working, handler._gather_s = deque(), False, 60
    waited: list[float] = []
    groups: list[int] = []
    works: list[Callable[[], None]] = []
    handler.container = SimpleNamespace(
        spawn_managed_thread=works.append,
        run_at_once=lambda _handler, arguments, _context: groups.append(len(arguments[0])),
    )

    def one_more_arrives(seconds: float) -> None:
        waited.append(seconds)
        handler.handle_message({}, MESSAGE)

    monkeypatch.setattr(eventlet, "sleep", one_more_arrives)
    handler.handle_message({}, MESSAGE)
    works.pop()()
    for _ in range(ENOUGH):
        handler.handle_message({}, MESSAGE)
    works.pop()()

    assert (groups, len(waited), works) == ([ENOUGH, ENOUGH], ENOUGH - 1, [])


def test_no_more_is_awaited_than_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = handler_of(EventsHandler, monkeypatch)
    handler._arrived, handler._gather_s = deque([({}, MESSAGE)]), 0.5
    clock = iter([100.0, 100.4, 100.5])
    waited: list[float] = []
    monkeypatch.setattr(eventlet, "sleep", waited.append)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))

    handler._gather()

    assert len(waited) == 1


def test_one_place_is_left_to_the_other_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = handler_of(EventHandler, monkeypatch)
    monkeypatch.setattr(NamekoEventHandler, "setup", lambda _self: None)
    settings = SimpleNamespace(retry_delays_s=())
    monkeypatch.setattr("chassis.events.service_settings", lambda: settings)
    for workers, own in ((10, 9), (2, 1), (1, 1)):
        handler.shared = places(workers)
        handler.setup()
        assert handler._places.balance == own


def test_events_of_a_service_that_is_killed_go_back_to_their_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = handler_of(EventsHandler, monkeypatch)

    def end(*_: object) -> None:
        raise ContainerBeingKilled

    handler.container = SimpleNamespace(run_at_once=end)

    assert handler._is_handled([({}, MESSAGE), ({}, MESSAGE)])

    assert len(handler.queue_consumer.requeued) == 2
    assert free(handler) == (10, 9)
