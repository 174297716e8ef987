import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text

from chassis.database import Connected
from contracts.billing import ChangeCause, DeploymentStatus, ListDeployments, ReportDeployment
from contracts.errors import BadRequest, Conflict, NotFound
from services.billing.deployments.lifecycle import (
    TRANSITIONS,
    change_status,
    report_deployment,
)
from services.billing.deployments.months import one_month_after
from services.billing.deployments.queries import list_deployments, what_burns
from services.billing.models import DeploymentRow
from services.billing.purchases import lifecycle
from services.billing.settings import BillingSettings
from tests.billing.conftest import EXTERNAL, NOW, RULES, at, quoted, recorded

Status = DeploymentStatus


def bought(
    database: Connected, *lines: object, rules: BillingSettings = RULES, user_id: UUID | None = None
) -> list[DeploymentRow]:
    claimed = recorded(database, *lines, user_id=user_id)  # type: ignore[arg-type]
    with database.begin() as session:
        row = lifecycle.complete(session, NOW, claimed.purchase_id, uuid4(), rules)
    return row.deployments


def report(database: Connected, deployment_id: UUID, status: DeploymentStatus) -> DeploymentStatus:
    command = ReportDeployment(deployment_id=deployment_id, status=status)
    with database.begin() as session:
        return DeploymentStatus(report_deployment(session, at(NOW), command, RULES).status)


def count_events(database: Connected, event_type: str) -> int:
    with database.read() as session:
        return int(
            session.scalar(
                text("SELECT count(*) FROM outbox WHERE type = :type"), {"type": event_type}
            )
            or 0
        )


@contextmanager
def statements(database: Connected) -> Iterator[list[str]]:
    """What is sent to the database within the block."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(database.engine, "after_cursor_execute", note)
    yield sent
    event.remove(database.engine, "after_cursor_execute", note)


def test_a_list_has_those_in_the_statuses_that_are_asked_for(database: Connected) -> None:
    user_id = uuid4()
    requested, active, stopped = (bought(database, user_id=user_id)[0] for _ in range(3))
    with database.begin() as session:
        for row, status in (
            (requested, Status.REQUESTED),
            (active, Status.ACTIVE),
            (stopped, Status.STOPPED),
        ):
            session.get_one(DeploymentRow, row.deployment_id).status = status

    def listed(*statuses: Status) -> list[UUID]:
        question = ListDeployments(user_id=user_id, statuses=list(statuses))
        with database.read() as session:
            page = list_deployments(session, NOW, question, RULES)
        return [each.deployment_id for each in page.deployments]

    assert listed() == [stopped.deployment_id, active.deployment_id, requested.deployment_id]
    assert listed(Status.ACTIVE) == [active.deployment_id]
    both = [stopped.deployment_id, requested.deployment_id]
    assert listed(Status.REQUESTED, Status.STOPPED) == both
    assert listed(Status.FAILED) == []


def test_every_status_has_its_moves() -> None:
    assert set(TRANSITIONS) == set(Status)


@pytest.mark.parametrize(
    ("start", "to"),
    [
        (start, to)
        for start, to in itertools.product(Status, Status)
        if to not in TRANSITIONS[start]
    ],
)
def test_an_illegal_move_raises(database: Connected, start: Status, to: Status) -> None:
    row = DeploymentRow(status=start.value)

    with database.begin() as session, pytest.raises(Conflict):
        change_status(session, NOW, row, to, ChangeCause.OWNER, RULES)


def test_each_unit_is_a_deployment_with_a_name_of_its_own(database: Connected) -> None:
    rows = bought(database, quoted(5_000_000, quantity=2), quoted(3_000_000, name="Backup"))

    assert [row.name for row in rows] == ["VM-Production 1", "VM-Production 2", "Backup"]


@pytest.mark.parametrize("rules", [RULES, EXTERNAL], ids=["at once", "external"])
def test_a_hundred_units_cost_no_more_statements_than_one(
    database: Connected, rules: BillingSettings
) -> None:
    counts = []
    for quantity in (1, 100):
        with statements(database) as sent:
            rows = bought(database, quoted(1, quantity), rules=rules)
        # Each connection prepares what it has not yet run.
        counts.append(sum(not each.startswith("PREPARE") for each in sent))

    event_type = "deployment_activated" if rules is RULES else "deployment_requested"
    assert (counts[0], count_events(database, event_type)) == (counts[1], 1 + len(rows))


def test_a_deployment_is_active_at_once_by_default(database: Connected) -> None:
    (row,) = bought(database)

    assert (row.status, row.active_at) == (Status.ACTIVE, NOW)


def test_a_monthly_deployment_is_paid_for_a_month(database: Connected) -> None:
    (row,) = bought(database, quoted(5_000_000))

    assert row.paid_until == datetime(2026, 4, 2, 12, 0, tzinfo=UTC)


def test_what_is_paid_once_has_no_period_and_no_monthly_cost(database: Connected) -> None:
    (row,) = bought(database, quoted(389_000_000, period="once"))

    assert (row.monthly_cost_micros, row.paid_until) == (0, None)


def test_only_active_deployments_with_a_monthly_price_burn(database: Connected) -> None:
    user_id = uuid4()
    (burning,) = bought(database, quoted(15_000_000), user_id=user_id)
    bought(database, quoted(389_000_000, period="once"), user_id=user_id)
    bought(database, quoted(5_000_000), rules=EXTERNAL, user_id=user_id)
    (stopped,) = bought(database, quoted(3_000_000), user_id=user_id)
    with database.begin() as session:
        row = session.get_one(DeploymentRow, stopped.deployment_id)
        change_status(session, NOW, row, Status.STOPPED, ChangeCause.OWNER, RULES)

    with database.read() as session:
        found = what_burns(session, user_id, limit=10, usage={})

    assert (found.total, found.monthly_micros) == (1, 15_000_000)
    assert [row.deployment_id for row in found.dearest] == [burning.deployment_id]


def test_the_dearest_are_named_and_all_are_counted(database: Connected) -> None:
    user_id = uuid4()
    bought(database, *(quoted(price) for price in (5, 15, 3, 9)), user_id=user_id)
    bought(database, quoted(1_000), user_id=uuid4())

    with database.read() as session:
        found = what_burns(session, user_id, limit=2, usage={})

    assert [row.monthly_cost_micros for row in found.dearest] == [15, 9]
    assert (found.total, found.monthly_micros) == (4, 32)


def test_an_outside_provisioner_is_asked(database: Connected) -> None:
    (row,) = bought(database, rules=EXTERNAL)

    assert (row.status, count_events(database, "deployment_requested")) == (Status.REQUESTED, 1)


def test_a_provisioners_answer_twice_activates_once(database: Connected) -> None:
    (row,) = bought(database, rules=EXTERNAL)

    report(database, row.deployment_id, Status.ACTIVE)
    report(database, row.deployment_id, Status.ACTIVE)

    assert count_events(database, "deployment_activated") == 1


def test_a_provisioner_cannot_take_back_a_failure(database: Connected) -> None:
    (row,) = bought(database, rules=EXTERNAL)
    report(database, row.deployment_id, Status.FAILED)

    with pytest.raises(Conflict):
        report(database, row.deployment_id, Status.ACTIVE)


@pytest.mark.parametrize("status", [Status.REQUESTED, Status.SUSPENDED, Status.CANCELLED])
def test_a_provisioner_reports_success_or_failure_only(
    database: Connected, status: DeploymentStatus
) -> None:
    (row,) = bought(database, rules=EXTERNAL)

    with pytest.raises(BadRequest):
        report(database, row.deployment_id, status)


def test_an_unknown_deployment_is_not_found(database: Connected) -> None:
    with pytest.raises(NotFound):
        report(database, uuid4(), Status.ACTIVE)


@pytest.mark.parametrize(("limit", "pages"), [(3, [3, 3, 1]), (7, [7])])
def test_pages_hold_every_deployment_once_newest_first(
    database: Connected, limit: int, pages: list[int]
) -> None:
    user_id = uuid4()
    everything = [row.deployment_id for row in bought(database, quoted(1, 7), user_id=user_id)]
    seen: list[UUID] = []
    sizes: list[int] = []
    cursor = None
    while len(seen) < 20:
        with database.read() as session:
            page = list_deployments(
                session, NOW, ListDeployments(user_id=user_id, limit=limit, cursor=cursor), RULES
            )
        seen += [deployment.deployment_id for deployment in page.deployments]
        sizes.append(len(page.deployments))
        cursor = page.next_cursor
        if cursor is None:
            break

    assert (seen, sizes) == (sorted(everything, reverse=True), pages)


@pytest.mark.parametrize(
    ("anchor", "months", "expected"),
    [
        ((2026, 1, 31), 1, (2026, 2, 28)),
        ((2026, 1, 31), 2, (2026, 3, 31)),
        ((2028, 1, 31), 1, (2028, 2, 29)),
        ((2026, 12, 15), 1, (2027, 1, 15)),
    ],
)
def test_a_month_later_is_the_same_day_or_the_months_last(
    anchor: tuple[int, int, int], months: int, expected: tuple[int, int, int]
) -> None:
    later = one_month_after(datetime(*anchor, tzinfo=UTC), months)

    assert later == datetime(*expected, tzinfo=UTC)
