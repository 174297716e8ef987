"""What records spans: off at no cost, its own context for each greenlet, and bounded."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from chassis import traces
from deploy.local.processes import ROOT
from tests.chassis.conftest import Collector
from tests.patience import START_PATIENCE_S, min_of

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def run(script: str, **settings: str) -> Any:
    """What a script prints as JSON, in a process of its own under eventlet."""
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            f"import eventlet; eventlet.monkey_patch()\n{script}",
        ],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "AMQP_URI": "amqp://nobody@127.0.0.1:1/",
            "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/none",
            **settings,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


LOADED = """
import json, sys
import chassis.container, chassis.health, services.billing.service, services.gateway.app
from chassis import traces
from chassis.settings import service_settings
traces.start("billing", service_settings())
span = traces.calling("wallet.debit", None)
heavy = [name for name in sys.modules if name.startswith(("opentelemetry", "google"))]
print(json.dumps([span is None, sorted(heavy)[:3]]))
"""


def test_switched_off_nothing_is_recorded_and_nothing_of_it_is_imported() -> None:
    assert run(LOADED) == [True, []]
    is_none, heavy = run(LOADED, OTEL_TRACES_EXPORTER="otlp")
    assert not is_none
    assert heavy


@pytest.mark.parametrize(
    ("value", "is_continued"),
    [
        (PARENT, True),
        (PARENT[:-2] + "00", True),
        ("cc" + PARENT[2:] + "-what-comes-later", True),
        ("ff" + PARENT[2:], False),
        (PARENT.upper(), False),
        (PARENT[:-1], False),
        (PARENT + "\n", False),
        ("00-" + "0" * 32 + "-0123456789abcdef-01", False),
        ("00-0123456789abcdef0123456789abcdef-" + "0" * 16 + "-01", False),
        ("", False),
        (7, False),
        (b"\xff", False),
        ({"a": 1}, False),
    ],
)
def test_a_traceparent_is_continued_if_it_is_one(value: object, is_continued: bool) -> None:
    assert traces.parent_in({"traceparent": value}) == (value if is_continued else None)
    assert traces.parent_in({"nameko.traceparent": value}) == (value if is_continued else None)


GREENLETS = """
import json, os
import eventlet
from chassis import traces
from chassis.context import CallContext, current_call
from chassis.settings import TraceSettings

traces.start("many", TraceSettings())
spawned = []

def call(number):
    parent = f"00-{number + 1:032x}-{number + 1:016x}-01"
    for step in range(3):
        span = traces.answering(f"probe.step{step}", parent)
        current_call.set(CallContext(trace=span.traceparent))
        eventlet.sleep(0.001 * (number % 7))
        with traces.asking_outside("outside", "example.org"):
            eventlet.sleep(0)
        assert current_call.get().trace == span.traceparent
        span.end()
        parent = current_call.get().trace
    eventlet.spawn(lambda: spawned.append(current_call.get().trace)).wait()

pool = eventlet.GreenPool(300)
for number in range(300):
    pool.spawn(call, number)
pool.waitall()
traces.stop()
print(json.dumps([len(spawned), [each for each in spawned if each is not None]]))
"""


def test_many_greenlets_never_mix_their_traces_and_a_spawned_one_begins_without(
    collector: Collector,
) -> None:
    told = run(
        GREENLETS,
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.address,
        OTEL_BSP_SCHEDULE_DELAY="600000",
    )

    assert told == [300, []]
    found = collector.spans.traces()
    shapes = {tuple((s.name, s.parent_id == p) for s, p in _with_expected(found[f"{n:032x}"], n))
              for n in range(1, 301)}  # fmt: skip
    assert len(shapes) == 1
    (shape,) = shapes
    assert [name for name, _ in shape] == ["probe.step0", "outside", "probe.step1", "outside",
                                          "probe.step2", "outside"]  # fmt: skip
    assert all(is_right for _, is_right in shape)


def _with_expected(spans: list[Any], number: int) -> Iterator[tuple[Any, str]]:
    """Each span with the parent that it ought to have."""
    answering = f"{number:016x}"
    for span in spans:
        yield span, answering
        if span.name != "outside":
            answering = span.span_id


AWAY = """
import json, logging, resource, time
import eventlet
from chassis import traces
from chassis.settings import TraceSettings

logging.basicConfig(level="WARNING")
traces.start("alone", TraceSettings())
ticks = []

def tick():
    while True:
        ticks.append(time.monotonic())
        eventlet.sleep(0.01)

ticking = eventlet.spawn(tick)
for number in range(20_000):
    traces.calling("wallet.debit", None).end()
    if number % 100 == 0:
        eventlet.sleep(0.01)
ticking.kill()
processor = traces._recorder._provider._active_span_processor._span_processors[0]
waiting = len(processor._batch_processor._queue)
longest_s = max(later - sooner for sooner, later in zip(ticks, ticks[1:]))
began = time.monotonic()
traces.stop()
print(json.dumps([waiting, longest_s, time.monotonic() - began]))
"""


@pytest.fixture(params=["refuses", "never answers"])
def away(request: pytest.FixtureRequest) -> Iterator[str]:
    """A collector that is not there, or takes a request and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if request.param == "refuses":
            server.close()
        yield address


def test_a_collector_that_is_away_blocks_nothing_and_no_more_than_a_bound_waits(away: str) -> None:
    settings = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": away}

    def kept_waiting() -> float:
        """The longest of all, and the end, as parts of what they may take."""
        waiting, longest_s, stopped_s = run(AWAY, **settings)
        assert 0 < waiting <= 2_048
        return max(longest_s / 2.5, stopped_s / 10)

    assert min_of(kept_waiting, 1) < 1, "an export waited where everybody waits"


def test_what_is_sampled_is_decided_by_the_standard_variables(collector: Collector) -> None:
    script = """
import json
from chassis import traces
from chassis.settings import TraceSettings
traces.start("sampled", TraceSettings())
root = traces.calling("wallet.debit", None)
follower = traces.answering("wallet.debit", "00-" + "c" * 32 + "-" + "d" * 16 + "-01")
print(json.dumps([root.traceparent[-2:], follower.traceparent[-2:],
                  traces.exemplar(root), traces.exemplar(follower) is not None]))
traces.stop()
"""
    settings = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }
    flags = run(script, **settings)

    assert [int(each, 16) & 1 for each in flags[:2]] == [0, 1]
    assert flags[2:] == [None, True]
