"""Events: at least once on the wire, once in effect, and none lost."""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from kombu import Connection, Producer
from kombu.message import Message
from sqlalchemy import text

from chassis import bodies, dead_letters
from chassis.broker import ERROR_HEADER, ORIGIN_HEADER, retry_queue
from chassis.clock import utc_now
from chassis.consumer import MOVED_AGAIN_AFTER_S
from chassis.database import HAS_RELAY
from chassis.operated import _told
from chassis.outbox import publish
from contracts import errors
from contracts.errors import Conflict, NotFound
from contracts.messages import Event
from contracts.operating import (
    DeadLetter,
    DiscardDeadLetter,
    GetDeadLetters,
    GetState,
    ReplayDeadLetter,
    ServiceState,
    of,
)
from tests.chassis.conftest import Probe
from tests.chassis.probe.messages import Chanted, Tell, Told, Whispered
from tests.chassis.probe.service import (
    AFTER_COMMIT,
    CHANT,
    NAPPING,
    NOT_OURS,
    SLEEPER,
    WAKE,
    note,
)
from tests.patience import PATIENCE_S, eventually


@pytest.fixture
def command(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[object]:
    """Runs the operator's command in this process and returns what it printed."""
    monkeypatch.setenv("AMQP_URI", probe.vhost.admin_uri)

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["dead_letters", "probe", *arguments])
        dead_letters.main()
        return capsys.readouterr().out

    yield run
    run("discard", "--all")


def told(n: int) -> Told:
    return Told(event_id=uuid.uuid4(), occurred_at=utc_now(), n=n)


def chanted(*numbers: int) -> list[Chanted]:
    return [Chanted(event_id=uuid.uuid4(), occurred_at=utc_now(), n=n) for n in numbers]


def unsent(probe: Probe) -> int:
    query = "SELECT count(*) FROM outbox WHERE published_at IS NULL AND type <> 'unwanted'"
    with probe.database.read() as session:
        return session.scalar(text(query)) or 0


def send(probe: Probe, *events: Event, key: str = "told") -> None:
    with Connection(probe.vhost.admin_uri) as connection:
        producer = Producer(connection.default_channel)
        for event in events:
            body = event.model_dump(mode="json")
            producer.publish(body, exchange="probe.events", routing_key=key)


def test_an_event_reaches_its_handler_after_the_commit(probe: Probe) -> None:
    probe.rpc.call(Tell(idempotency_key="a", n=1))

    probe.comes_to_note(1)


def test_what_runs_after_the_commit_has_run_when_the_call_returns(probe: Probe) -> None:
    before = probe.noted(AFTER_COMMIT)

    probe.rpc.call(Tell(idempotency_key="b", n=2))

    assert probe.noted(AFTER_COMMIT) == before + 1


def test_a_rollback_takes_the_event_with_it(probe: Probe) -> None:
    before = probe.noted(AFTER_COMMIT)

    with pytest.raises(errors.InsufficientFunds):
        probe.rpc.call(Tell(idempotency_key="c", n=3, fails=True))

    with probe.database.read() as session:
        stored = session.scalar(text("SELECT count(*) FROM outbox WHERE payload->>'n' = '3'"))
    assert (stored, probe.noted(AFTER_COMMIT)) == (0, before)


def test_an_event_that_is_delivered_three_times_has_one_effect(probe: Probe) -> None:
    event = told(4)

    for _ in range(3):
        send(probe, event)
    send(probe, told(5))

    for n in (4, 5):
        probe.comes_to_note(n)
    assert probe.noted(4) == 1


def test_a_handler_that_failed_is_tried_again_later(probe: Probe) -> None:
    send(probe, told(77))

    probe.comes_to_note(77)


def test_an_event_with_what_looks_like_a_tagged_value_is_handled(probe: Probe) -> None:
    tagged = {"__type__": "invoice", "__value__": "42"}
    with probe.database.begin() as session:
        publish(session, told(9).model_copy(update={"metadata": tagged}))

    probe.comes_to_note(9)


def test_an_event_that_failed_and_cannot_be_moved_is_taken_up_again_after_a_moment(
    probe: Probe, command: object
) -> None:
    event = told(666)

    def tries() -> int:
        text = "a failed message could not be moved"
        logs = [child.log_path.read_text().splitlines() for child in probe.children]
        lines = [json.loads(line) for log in logs for line in log if text in line]
        return sum(line.get("repeated", 1) for line in lines)

    with Connection(probe.vhost.admin_uri) as connection:
        waiting = retry_queue("probe", 1)(connection.default_channel)
        waiting.delete()
        began = time.monotonic()
        send(probe, event)
        count = eventually(tries, lambda seen: seen > 1)
        took_s = time.monotonic() - began
        waiting.declare()

    assert count <= 1 + took_s / MOVED_AGAIN_AFTER_S
    assert callable(command)
    eventually(lambda: str(event.event_id) in command("list"))


def test_a_compressed_event_that_failed_is_read_again(probe: Probe) -> None:
    with Connection(probe.vhost.admin_uri) as connection:
        Producer(connection.default_channel).publish(
            told(88).model_dump(mode="json"),
            exchange="probe.events", routing_key="told", compression="zlib",
        )  # fmt: skip

    probe.comes_to_note(88)


def test_an_event_stored_before_a_crash_is_sent_by_the_next_start(probe: Probe) -> None:
    probe.children[-1].kill()
    with probe.database.begin() as session:
        publish(session, told(6))

    probe.start()

    probe.comes_to_note(6)


def test_an_event_that_another_relay_is_sending_is_passed_over(probe: Probe) -> None:
    """It becomes due while it is locked: nobody sends it, and those behind it do not wait."""
    held, behind = told(21), [told(n) for n in (22, 23, 24)]
    due_at = text("UPDATE outbox SET next_attempt_at = :at WHERE event_id = :id")
    # Keeps out whoever locks a row to send it, and not who sets its time.
    lock = text("SELECT FROM outbox WHERE event_id = :id FOR KEY SHARE")
    held_id = {"id": held.event_id}
    with probe.database.begin() as session:
        publish(session, held)
        session.execute(due_at, {"at": utc_now() + timedelta(hours=1), **held_id})

    with probe.database.begin() as other:
        other.execute(lock, held_id)
        with probe.database.begin() as session:
            session.execute(due_at, {"at": utc_now(), **held_id})
        for event in behind:
            with probe.database.begin() as session:
                publish(session, event)
            probe.comes_to_note(event.n)
        assert probe.noted(held.n) == 0

    probe.comes_to_note(held.n)


def test_slow_events_delay_neither_calls_nor_the_events_of_another_handler(probe: Probe) -> None:
    before = probe.noted(NAPPING)
    with probe.database.begin() as session:
        for _ in range(12):
            publish(session, told(SLEEPER))
    eventually(lambda: probe.noted(NAPPING) >= before + 3)

    with probe.database.begin() as session:
        publish(session, Whispered(event_id=uuid.uuid4(), occurred_at=utc_now(), n=56))
    probe.comes_to_note(56)

    assert probe.noted(SLEEPER) == 0
    with probe.database.begin() as session:
        note(session, WAKE)
    eventually(lambda: probe.noted(SLEEPER) == 12)


def test_an_event_that_does_not_concern_its_handler_leaves_no_trace(probe: Probe) -> None:
    events = [Whispered(event_id=uuid.uuid4(), occurred_at=utc_now(), n=n) for n in (57, 58)]
    with probe.database.begin() as session:
        publish(session, *events)

    probe.comes_to_note(58)
    with probe.database.read() as session:
        known = session.scalars(text("SELECT event_id FROM inbox WHERE handler = 'note_whispered'"))
        assert {each.event_id for each in events}.intersection(known) == {events[1].event_id}
    assert probe.noted(57) == 0


def test_events_that_have_arrived_are_handled_in_one_transaction(probe: Probe) -> None:
    turns_before = probe.noted(CHANT)
    events = chanted(*range(101, 121))

    with probe.held_up():
        send(probe, *events, *events, key="chanted")

    for event in events:
        probe.comes_to_note(event.n)
    assert probe.noted(CHANT) - turns_before < len(events)
    assert [probe.noted(event.n) for event in events] == [1] * len(events)


def test_of_several_events_those_that_do_not_concern_their_handler_leave_no_trace(
    probe: Probe,
) -> None:
    events = chanted(NOT_OURS, 130, NOT_OURS)

    send(probe, *events, key="chanted")

    probe.comes_to_note(130)
    with probe.database.read() as session:
        known = session.scalars(text("SELECT event_id FROM inbox WHERE handler = 'note_chanted'"))
        assert {each.event_id for each in events}.intersection(known) == {events[1].event_id}
    assert probe.noted(NOT_OURS) == 0


def test_one_event_that_fails_keeps_none_from_being_handled_that_came_with_it(
    probe: Probe, command: object
) -> None:
    assert callable(command)
    events = chanted(201, 666, 202)

    with probe.database.begin() as session:
        publish(session, *events)

    probe.comes_to_note(201)
    probe.comes_to_note(202)
    eventually(lambda: str(events[1].event_id) in command("list"))
    assert [probe.noted(n) for n in (201, 666, 202)] == [1, 0, 1]


def test_an_event_that_was_handled_before_is_not_handled_again_with_others(probe: Probe) -> None:
    events = chanted(301, 302)
    with probe.database.begin() as session:
        publish(session, events[0])
    probe.comes_to_note(301)

    with probe.database.begin() as session:
        session.execute(
            text("UPDATE outbox SET published_at = NULL WHERE event_id = :id"),
            {"id": events[0].event_id},
        )
        publish(session, events[1])

    probe.comes_to_note(302)
    eventually(lambda: unsent(probe) == 0)
    assert (probe.noted(301), probe.noted(302)) == (1, 1)


def test_what_is_sent_right_after_its_commit_is_marked_as_sent(probe: Probe) -> None:
    probe.rpc.call(Tell(idempotency_key="d", n=401))

    probe.comes_to_note(401)
    eventually(lambda: unsent(probe) == 0)
    assert probe.noted(401) == 1


def test_what_a_process_left_unsent_is_sent_by_another_after_a_moment(probe: Probe) -> None:
    """As if it had ended between its commit and the sending."""
    event = told(402)
    with probe.database.begin() as session:
        session.info[HAS_RELAY] = True
        publish(session, event)
        waits = session.scalar(
            text("SELECT next_attempt_at > now() FROM outbox WHERE event_id = :id"),
            {"id": event.event_id},
        )

    assert waits
    probe.comes_to_note(402)


def test_an_event_that_no_queue_wants_yet_is_kept(probe: Probe) -> None:
    class Unwanted(Told, source="probe", type="unwanted"):
        pass

    event = Unwanted(event_id=uuid.uuid4(), occurred_at=utc_now(), n=8)
    with probe.database.begin() as session:
        publish(session, event)

    def attempts_and_published() -> tuple[int, bool]:
        with probe.database.read() as session:
            row = session.execute(
                text("SELECT attempts, published_at IS NOT NULL FROM outbox WHERE event_id = :id"),
                {"id": event.event_id},
            ).one()
        return row[0], row[1]

    eventually(lambda: attempts_and_published()[0] >= 2)
    assert not attempts_and_published()[1]


def test_a_handler_that_never_succeeds_makes_a_dead_letter_that_can_be_replayed(
    probe: Probe, command: object
) -> None:
    event = told(666)
    send(probe, event)
    assert callable(command)

    def letter() -> dict[str, object] | None:
        lines = [json.loads(line) for line in command("list").splitlines()]
        return next((line for line in lines if str(event.event_id) in line["body"]), None)

    dead = eventually(letter)
    assert dead is not None
    assert (dead["queue"], dead["attempts"]) == ("evt-probe-told--probe.note_told", 3)
    with probe.held_up():
        assert "replay: 1" in command("replay", str(dead["message"]))
        assert letter() is None
    eventually(letter)  # its tries are counted anew
    assert "discard: 1" in command("discard", str(dead["message"]))
    assert letter() is None
    assert probe.noted(666) == 0


def test_a_dead_letter_that_the_inbox_may_have_forgotten_is_not_replayed(
    probe: Probe, command: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = told(666).model_copy(update={"occurred_at": utc_now() - timedelta(days=31)})
    send(probe, event)
    assert callable(command)
    eventually(lambda: str(event.event_id) in command("list"))

    refused = command("replay", "--all")
    stays = str(event.event_id) in command("list")
    monkeypatch.setenv("INBOX_KEPT_DAYS", "32")
    replayed = command("replay", "--all")

    assert "INBOX_KEPT_DAYS" in refused
    assert "replay: 0" in refused
    assert stays
    assert "replay: 1" in replayed
    eventually(lambda: str(event.event_id) in command("list"))


def letter_of(probe: Probe, event: Event) -> DeadLetter:
    """As the service itself tells it."""

    def find() -> DeadLetter | None:
        found = probe.rpc.call(of("probe", GetDeadLetters)())
        assert found.total >= len(found.letters)
        return next((it for it in found.letters if str(event.event_id) in it.body), None)

    letter = eventually(find)
    assert letter is not None
    return letter


def test_a_service_tells_its_dead_letters_replays_and_discards_them_when_it_is_asked(
    probe: Probe, command: object
) -> None:
    event = told(666)
    send(probe, event)
    dead = letter_of(probe, event)
    replayed = probe.rpc.call(of("probe", ReplayDeadLetter)(message=dead.message))
    again = letter_of(probe, event)
    discarded = probe.rpc.call(of("probe", DiscardDeadLetter)(message=dead.message))

    assert (dead.queue, dead.attempts) == ("evt-probe-told--probe.note_told", 3)
    assert again == dead
    assert (replayed.count, discarded.count) == (1, 1)
    for request in (ReplayDeadLetter, DiscardDeadLetter):
        # As for who asks again because the answer was lost.
        with pytest.raises(NotFound):
            probe.rpc.call(of("probe", request)(message=dead.message))


def test_what_was_handled_already_is_replayed_without_an_effect(
    probe: Probe, command: object
) -> None:
    event = told(4711)
    send(probe, event)
    probe.comes_to_note(4711)
    queue = "evt-probe-told--probe.note_told"
    with Connection(probe.vhost.admin_uri) as connection:
        for _ in range(2):
            Producer(connection.default_channel).publish(
                event.model_dump(mode="json"),
                exchange="probe.queues", routing_key="probe.dead-letters",
                headers={ORIGIN_HEADER: queue},
            )  # fmt: skip
    dead = letter_of(probe, event)
    replayed = probe.rpc.call(of("probe", ReplayDeadLetter)(message=dead.message))
    after = told(4712)
    send(probe, after)
    probe.comes_to_note(4712)

    assert replayed.count == 2
    assert probe.noted(4711) == 1


def test_a_service_does_not_replay_what_its_inbox_may_have_forgotten(
    probe: Probe, command: object
) -> None:
    event = told(666).model_copy(update={"occurred_at": utc_now() - timedelta(days=31)})
    send(probe, event)
    dead = letter_of(probe, event)

    with pytest.raises(Conflict, match="INBOX_KEPT_DAYS"):
        probe.rpc.call(of("probe", ReplayDeadLetter)(message=dead.message))
    assert letter_of(probe, event) == dead


def test_a_service_tells_how_many_processes_it_has_and_what_waits(
    probe: Probe, command: object
) -> None:
    def state() -> ServiceState:
        return probe.rpc.call(of("probe", GetState)())

    alone = state()
    second = probe.launch()
    eventually(state, lambda told: told.processes == 2)
    second.stop(PATIENCE_S)

    def queues(told: ServiceState) -> dict[str, int]:
        return {queue.name: queue.waiting for queue in told.queues}

    left = eventually(
        state,
        lambda told: told.processes == 1 and not queues(told)["evt-probe-told--probe.note_told"],
    )

    assert alone.processes == 1
    assert {"rpc-probe", "probe.retry.1s"} <= queues(left).keys()


@pytest.mark.parametrize(
    ("body", "is_forgotten"),
    [
        ({"occurred_at": "2026-03-02T11:59:59.999999Z"}, True),
        ({"occurred_at": "2026-03-02T12:00:00Z"}, False),
        ({"occurred_at": "long ago"}, False),
        ({"args": [], "kwargs": {}}, False),
        (["no event"], False),
    ],
)
def test_only_an_event_from_before_what_the_inbox_knows_is_forgotten(
    body: object, is_forgotten: bool
) -> None:
    message = Message(body=bodies.encode(body), **bodies.PROPERTIES)

    occurred_at = dead_letters.forgotten(message, datetime(2026, 3, 2, 12, 0, tzinfo=UTC))

    assert (occurred_at is not None) is is_forgotten


def test_an_event_without_its_fields_is_a_dead_letter_at_once(
    probe: Probe, command: object
) -> None:
    assert callable(command)
    with Connection(probe.vhost.admin_uri) as connection:
        Producer(connection.default_channel).publish(
            {"n": "no event"}, exchange="probe.events", routing_key="told"
        )

    eventually(lambda: "no event" in command("list"))
    assert json.loads(command("list").splitlines()[-1])["attempts"] == 1


def test_a_dead_letter_is_told_without_the_addresses_that_stand_in_it() -> None:
    letter = _told(
        Message(
            json.dumps(
                {"amount_micros": 5, "email": "ann.o@mail.example.com", "n": '"b@b.example"'}
            ),
            headers={ERROR_HEADER: "ValidationError: [input_value='c@c.example', input_type=str]"},
        )
    )

    assert json.loads(letter.body) == {
        "amount_micros": 5, "email": "(address)", "n": '"(address)"',
    }  # fmt: skip
    assert letter.error == "ValidationError: [input_value='(address)', input_type=str]"
