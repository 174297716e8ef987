"""A service as a process: its health, its replicas, and a broker that goes away."""

import json

import requests
from sqlalchemy import text

from deploy.local.broker import Node
from deploy.local.startup import free_port
from tests.chassis.conftest import Probe
from tests.chassis.probe.messages import Tell
from tests.chassis.probe.service import TICK
from tests.patience import eventually


def test_a_timer_runs_in_one_replica_at_a_time(probe: Probe) -> None:
    second = probe.start()
    ticks = probe.noted(TICK)

    probe.comes_to_note(TICK, ticks + 5)
    second.stop()

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
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5)
        except requests.ConnectionError:
            return 0, None
        return answer.status_code, answer.json()

    eventually(readiness, lambda found: found == (200, {"status": "ok"}))


def test_metrics_show_what_waits_in_the_outbox(probe: Probe) -> None:
    port = free_port()
    probe.start(health_port=port)

    def metrics() -> str:
        try:
            return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        except requests.ConnectionError:
            return ""

    eventually(metrics, lambda text: "mycelium_probe_outbox_unsent_events 0.0" in text)


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
