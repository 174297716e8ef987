"""A service as a process: its health, its replicas, and a broker that goes away."""

import json
from collections.abc import Callable

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from contracts.errors import InsufficientFunds, ServiceError
from deploy.local.broker import Node
from deploy.local.startup import free_port, is_port_free, wait_for
from tests.chassis.conftest import Probe
from tests.chassis.probe.messages import Echo, Tell
from tests.chassis.probe.service import TICK
from tests.patience import PATIENCE_S, answer_of, eventually


def test_a_timer_runs_in_one_replica_at_a_time(probe: Probe) -> None:
    second = probe.start()
    ticks = probe.noted(TICK)

    probe.comes_to_note(TICK, ticks + 5)
    second.stop(PATIENCE_S)

    with probe.database.read() as session:
        assert session.scalar(text("SELECT overlapped FROM ticking")) is False


def test_a_timer_goes_on_when_the_replica_that_ran_it_is_killed(probe: Probe) -> None:
    second = probe.start()
    probe.children[0].kill()
    eventually(probe.answers)  # the second one, by itself
    with probe.database.begin() as session:
        session.execute(text("UPDATE ticking SET running = 0"))
    ticks = probe.noted(TICK)

    probe.comes_to_note(TICK, ticks + 2)
    assert second.is_running


def test_health_says_ready_when_the_database_and_the_broker_are(probe: Probe) -> None:
    port = free_port()
    probe.start(health_port=port)

    def readiness() -> tuple[int, object]:
        answer = answer_of(f"http://127.0.0.1:{port}/readyz")
        return (0, None) if answer is None else (answer.status_code, answer.json())

    eventually(readiness, lambda found: found == (200, {"status": "ok"}))


def test_a_second_process_at_a_port_for_health_says_that_it_is_taken(probe: Probe) -> None:
    port = free_port()
    probe.launch(health_port=port)
    eventually(lambda: not is_port_free(port))

    second = probe.launch(health_port=port)

    assert wait_for(lambda: not second.is_running, PATIENCE_S), second.tail()
    assert second.exit_code == 78
    assert f"Setting HEALTH_PORT: {port}: Address already in use." in second.tail()


def test_metrics_show_what_waits_in_the_outbox(probe: Probe) -> None:
    port = free_port()
    probe.start(health_port=port)

    def metrics() -> str:
        answer = answer_of(f"http://127.0.0.1:{port}/metrics")
        return "" if answer is None else answer.text

    eventually(metrics, lambda text: "mycelium_outbox_unsent_events 0.0" in text)


def test_a_process_counts_its_calls_their_errors_events_and_periodic_work(
    make_probe: Callable[..., Probe],
) -> None:
    counting = make_probe()
    port = free_port()
    counting.children[0].stop(PATIENCE_S)
    counting.start(health_port=port)

    def counted() -> dict[str, float]:
        shown = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).text
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(shown)
            for sample in family.samples
        }

    counting.rpc.call(Echo(n=1))
    for n, error in ((13, InsufficientFunds), (14, ServiceError)):
        with pytest.raises(error):
            counting.rpc.call(Echo(n=n))
    counting.rpc.call(Tell(idempotency_key="t", n=5))
    counting.comes_to_note(5)
    counting.rpc.call(Tell(idempotency_key="t", n=666))

    exactly = {
        "mycelium_dead_letters_total evt-probe-told--probe.note_told": 1,
        "mycelium_call_errors_total insufficient_funds echo": 1,
        "mycelium_call_errors_total service_error echo": 1,
        "mycelium_call_errors_total service_error nap": 0,
        "mycelium_events_committed_total probe.told": 2,
        "mycelium_event_delay_seconds_count probe.told": 1,
        "mycelium_event_failures_total probe.told": 3,
        "mycelium_calls_in_hand": 0,
        "mycelium_consuming": 1,
        "mycelium_database_answers": 1,
    }
    found = eventually(
        counted,
        lambda shown: (
            {name: shown[name] for name in exactly} == exactly
            and shown["mycelium_timer_last_success_timestamp_seconds tick"] > 0
        ),
    )
    assert found["mycelium_call_duration_seconds_count echo"] >= 3
    assert found["mycelium_database_write_connections_limit"] > 0
    assert found["process_resident_memory_bytes"] > 0


def test_every_line_of_the_log_is_json_with_the_calls_that_led_to_it(probe: Probe) -> None:
    lines = [line for line in probe.log().splitlines() if line.startswith("{")]

    assert all({"time", "level", "logger", "message"} <= json.loads(line).keys() for line in lines)


def test_a_service_and_its_callers_outlive_a_restart_of_the_broker(
    probe: Probe, broker: Node
) -> None:
    broker.restart()

    eventually(probe.answers)
    probe.rpc.call(Tell(idempotency_key="r", n=99))
    probe.comes_to_note(99)
