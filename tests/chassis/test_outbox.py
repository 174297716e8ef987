"""The relay of the outbox: what it sends, what it marks, and when it looks again."""

import json
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import eventlet
import pytest
from sqlalchemy import text

from chassis import outbox
from chassis.broker import Outgoing
from chassis.clock import utc_now
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from chassis.outbox import OutboxRelay, publish
from deploy.local.postgres import Postgres
from tests.chassis.probe.messages import Told
from tests.patience import PATIENCE_S


class Broker:
    """Takes what the relay publishes, unless it is ``away`` or wants no such event."""

    def __init__(self) -> None:
        self.took: list[int] = []
        self.is_away = False
        self.unwanted: set[int] = set()

    def publish_all(self, messages: Sequence[Outgoing]) -> set[int]:
        if self.is_away:
            raise ConnectionError("the broker went away")
        numbers = [json.loads(message.body)["n"] for message in messages]
        self.took += [n for n in numbers if n not in self.unwanted]
        return {place for place, n in enumerate(numbers) if n in self.unwanted}


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[Connected]:
    name = f"outbox_{new_id().hex[-12:]}"
    url = postgres.create_database(name)
    migrate("tests.chassis.probe", url)
    database = connect(url)
    yield database
    database.engine.dispose()
    postgres.drop_database(name)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def relay(database: Connected, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> OutboxRelay:
    with database.begin() as session:
        session.execute(text("TRUNCATE outbox"))
    relay = OutboxRelay()
    monkeypatch.setattr(relay, "connection", SimpleNamespace(connected=database), raising=False)
    monkeypatch.setattr(relay, "confirmed", SimpleNamespace(publisher=broker), raising=False)
    monkeypatch.setattr(relay, "_declare", lambda: None)
    relay.setup()
    return relay


@pytest.fixture
def beside(database: Connected, relay: OutboxRelay) -> Iterator[None]:
    """The relay runs in the process that commits."""
    database.on_publish.append(relay.take)
    yield
    database.on_publish.clear()


def store(database: Connected, *numbers: int) -> None:
    with database.begin() as session:
        publish(session, *(Told(event_id=new_id(), occurred_at=utc_now(), n=n) for n in numbers))


def unsent(database: Connected) -> list[int]:
    query = "SELECT payload -> 'n' FROM outbox WHERE published_at IS NULL ORDER BY id"
    with database.read() as session:
        return list(session.scalars(text(query)))


def time_passes(database: Connected) -> None:
    with database.begin() as session:
        session.execute(text("UPDATE outbox SET next_attempt_at = now()"))


@pytest.mark.usefixtures("beside")
def test_what_is_committed_beside_it_is_sent_once_and_marked(
    relay: OutboxRelay, broker: Broker, database: Connected
) -> None:
    store(database, 1, 2)
    store(database, 3)
    looked_at_once = relay.relay_batch()

    relay._send_committed()
    sent = list(broker.took)
    before = unsent(database)
    relay._mark()
    time_passes(database)

    assert (looked_at_once, sent, before, unsent(database)) == (0, [1, 2, 3], [1, 2, 3], [])
    assert relay.relay_batch() == 0


@pytest.mark.usefixtures("beside")
def test_what_could_not_be_sent_from_memory_is_found_in_the_table(
    relay: OutboxRelay, broker: Broker, database: Connected
) -> None:
    store(database, 1)
    broker.is_away = True
    with pytest.raises(ConnectionError):
        relay._send_committed()
    broker.is_away = False

    relay._send_committed()
    assert broker.took == []
    time_passes(database)
    relay.relay_batch()

    assert (broker.took, unsent(database)) == ([1], [])


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("all_of_it", [True, False])
def test_what_is_rolled_back_is_not_sent(
    relay: OutboxRelay, broker: Broker, database: Connected, all_of_it: bool
) -> None:
    with database.begin() as session:
        undone = session if all_of_it else session.begin_nested()
        publish(session, Told(event_id=new_id(), occurred_at=utc_now(), n=1))
        undone.rollback()

    relay._send_committed()

    assert (broker.took, unsent(database)) == ([], [])


@pytest.mark.usefixtures("beside")
def test_what_nobody_wants_from_memory_is_kept_and_holds_up_nothing(
    relay: OutboxRelay, broker: Broker, database: Connected
) -> None:
    broker.unwanted = {1}
    store(database, 1, 2)

    relay._send_committed()
    relay._mark()

    assert (broker.took, unsent(database)) == ([2], [1])
    with database.read() as session:
        query = "SELECT attempts FROM outbox ORDER BY id"
        assert list(session.scalars(text(query))) == [1, 0]


def test_an_event_that_nobody_wants_is_tried_less_and_less_often(
    relay: OutboxRelay, broker: Broker, database: Connected
) -> None:
    store(database, 1, 2)
    broker.unwanted = {1}
    pause = text(
        "SELECT extract(epoch FROM next_attempt_at - now()) FROM outbox WHERE attempts > 0"
    )
    pauses_s = []
    for _ in range(8):
        relay.relay_batch()
        with database.begin() as session:
            pauses_s.append(round(session.scalar(pause)))
        time_passes(database)

    assert (broker.took, pauses_s) == ([2], [1, 2, 4, 8, 16, 32, 60, 60])


def test_the_relay_looks_again_at_once_soon_or_later(
    relay: OutboxRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([outbox.BATCH_SIZE, outbox.BATCH_SIZE, 1, 0, ConnectionError(), 0])
    seen: list[object] = []
    now_s = 0.0

    def relay_batch() -> int:
        count = next(found)
        if isinstance(count, Exception):
            raise count
        return count

    def wait(pause_s: float) -> None:
        nonlocal now_s
        now_s += pause_s
        seen.append(pause_s)
        relay._stopping = len(seen) == 5

    monkeypatch.setattr(outbox, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(relay, "relay_batch", relay_batch)
    monkeypatch.setattr(relay, "_declare", lambda: seen.append("declared"))
    monkeypatch.setattr(relay, "_wait", wait)
    relay._run()

    soon, later = outbox.POLL_INTERVAL_S, outbox.IDLE_INTERVAL_S
    assert seen == [soon, later, "declared", soon, later]
    assert next(found, None) is None


@pytest.mark.usefixtures("beside")
def test_what_was_sent_is_marked_a_moment_later(
    relay: OutboxRelay, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses_s: list[float] = []
    now_s = 0.0

    def wait(pause_s: float) -> None:
        nonlocal now_s
        pauses_s.append(pause_s)
        if len(pauses_s) == 1:
            store(database, 1)
        else:
            now_s += pause_s
        relay._stopping = len(pauses_s) == 3

    monkeypatch.setattr(outbox, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(outbox, "IDLE_INTERVAL_S", 10 * outbox.MARK_AFTER_S)
    monkeypatch.setattr(relay, "relay_batch", lambda: 0)
    monkeypatch.setattr(relay, "_wait", wait)
    monkeypatch.setattr(relay, "_finish", lambda: None)
    relay._run()

    assert pauses_s[1] == pytest.approx(outbox.MARK_AFTER_S)
    assert unsent(database) == []


def test_a_relay_that_was_woken_waits_the_next_time(relay: OutboxRelay) -> None:
    relay.wake()
    relay.wake()

    relay._wait(60)

    assert not relay._wake.ready()


@pytest.mark.parametrize(
    ("source", "exchange"), [(None, "probe.events"), ("website", "website.events")]
)
def test_events_go_out_under_the_name_of_their_source(source: str | None, exchange: str) -> None:
    relay = OutboxRelay(source)
    relay.container = SimpleNamespace(service_name="probe")

    assert relay.exchange.name == exchange


def test_a_relay_that_is_stopped_sends_what_it_has_and_ends(
    relay: OutboxRelay, broker: Broker, database: Connected
) -> None:
    relay.container = SimpleNamespace(
        spawn_managed_thread=lambda work, identifier: eventlet.spawn(work)  # noqa: ARG005
    )
    relay.start()
    eventlet.sleep(0.1)
    store(database, 1)

    with eventlet.Timeout(PATIENCE_S):
        relay.stop()
    database.on_publish.clear()

    assert (broker.took, unsent(database)) == ([1], [])


@pytest.mark.usefixtures("beside")
def test_what_cannot_be_sent_at_the_end_is_left_to_the_next_start(
    relay: OutboxRelay, broker: Broker, database: Connected
) -> None:
    store(database, 1)
    broker.is_away = True

    relay._finish()

    assert (broker.took, unsent(database)) == ([], [1])
