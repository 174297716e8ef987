"""What /metrics shows: every query is right for the tables there are; zeros are there in time."""

import inspect
import re
from operator import attrgetter

import pytest
import stripe

from chassis.database import connect
from chassis.instruments import REGISTRY
from chassis.metrics import database_exposition
from deploy.local.processes import ROOT
from deploy.parts import LISTENERS
from services.topup import processor
from tests.monitored import gauges, healths
from tests.system import MigratedDatabases

DATABASE_OF = {"notifier": "gateway"}


@pytest.mark.parametrize("service", LISTENERS)
def test_every_gauge_of_a_service_can_be_read(databases: MigratedDatabases, service: str) -> None:
    database = connect(databases[DATABASE_OF.get(service, service)])
    by_prefix = healths()[service].gauges_by_prefix(service)

    shown = database_exposition(database, by_prefix).decode()

    assert [name for name in gauges(service) if f"# TYPE {name} gauge" not in shown] == []
    assert "mycelium_database_answers 1.0" in shown
    database.engine.dispose()


def test_an_error_of_the_card_processor_that_an_alert_waits_for_is_shown_before_it_happens() -> (
    None
):
    called = set(re.findall(r"self\._client\.v1\.([\w.]+)", inspect.getsource(processor)))
    operations = {
        processor._name(attrgetter(each)(stripe.StripeClient("sk_test_none").v1)) for each in called
    }
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    awaited = {
        error
        for words in re.findall(r'processor_call_errors_total\{error=~?"([\w|]+)"', alerts)
        for error in words.split("|")
    }

    shown = {
        (sample.labels["operation"], sample.labels["error"])
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "mycelium_processor_call_errors_total"
    }
    assert (set(processor.OPERATIONS), set(processor.ALERTING)) == (operations, awaited)
    assert {(each, error) for each in operations for error in awaited} <= shown
