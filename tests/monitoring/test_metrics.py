"""What /metrics reads from the databases: every query is right for the tables there are."""

import pytest

from chassis.database import connect
from chassis.metrics import database_exposition
from deploy.parts import LISTENERS
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
