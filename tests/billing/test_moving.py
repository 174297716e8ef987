"""What runs in the old system goes on here, and ends where it is moved back."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from chassis.database import Connected
from contracts.billing import Deployment, DeploymentStatus, ListDeployments
from contracts.catalog import Category
from contracts.errors import Conflict
from contracts.legacy import MovedService, PersonMoved, PersonMovedBack
from services.billing.deployments.months import one_month_after
from services.billing.deployments.queries import list_deployments
from services.billing.purchases import moving
from tests.billing.conftest import NOW, RULES, at


def moved(*renewals: datetime) -> PersonMoved:
    return PersonMoved(
        event_id=uuid4(),
        occurred_at=NOW,
        user_id=uuid4(),
        email="ann@example.org",
        balance_micros=0,
        services=[
            MovedService(
                deployment_id=uuid4(),
                name="VM one",
                category=Category.COMPUTE,
                monthly_cost_micros=5_000_000,
                renews_at=renewal,
            )
            for renewal in renewals
        ],
    )


def back(event: PersonMoved) -> PersonMovedBack:
    return PersonMovedBack(
        email="ann@example.org",
        event_id=uuid4(),
        occurred_at=NOW,
        user_id=event.user_id,
        deployment_ids=[each.deployment_id for each in event.services],
    )


def taken_over(database: Connected, *events: PersonMoved) -> list[Deployment]:
    with database.begin() as session:
        moving.take_over(session, NOW, events, RULES)
    return deployments(database, events[0])


def deployments(database: Connected, event: PersonMoved) -> list[Deployment]:
    with database.read() as session:
        return list_deployments(
            session, NOW, ListDeployments(user_id=event.user_id), RULES
        ).deployments


def test_a_service_goes_on_at_its_price_until_the_day_it_was_to_be_renewed(
    database: Connected,
) -> None:
    renewal = NOW + timedelta(days=9)

    [found] = taken_over(database, moved(renewal))

    assert (found.status, found.monthly_cost_micros, found.next_renewal_at, found.owed_micros) == (
        DeploymentStatus.ACTIVE,
        5_000_000,
        renewal,
        0,
    )


@pytest.mark.parametrize(
    ("renewal", "next_one"),
    [
        (datetime(2025, 7, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)),
        (datetime(2024, 2, 29, tzinfo=UTC), datetime(2026, 3, 29, tzinfo=UTC)),
        (NOW, one_month_after(NOW)),
    ],
)
def test_a_renewal_that_has_passed_is_due_on_its_next_day_and_nothing_is_owed(
    database: Connected, renewal: datetime, next_one: datetime
) -> None:
    [found] = taken_over(database, moved(renewal))

    assert (found.next_renewal_at, found.owed_micros) == (next_one, 0)


def test_what_is_renewed_on_the_31st_stays_so() -> None:
    anchor = moving.anchor_of(datetime(2026, 3, 31, tzinfo=UTC), NOW)

    assert [one_month_after(anchor, months).day for months in range(3, 5)] == [30, 31]
    assert anchor <= NOW


def test_who_brings_nothing_along_has_no_purchase(database: Connected) -> None:
    assert taken_over(database, moved(), moved(NOW + timedelta(days=1))) == []


def test_a_move_that_is_told_anew_brings_nothing_a_second_time(database: Connected) -> None:
    event, other = moved(NOW, NOW), moved(NOW)
    again = event.model_copy(update={"event_id": uuid4()})
    there = taken_over(database, event)

    assert taken_over(database, again, other) == there
    assert len(deployments(database, other)) == 1


def test_what_is_moved_back_ends_and_costs_nothing(database: Connected) -> None:
    event = moved(NOW + timedelta(days=9))
    taken_over(database, event)

    with database.begin() as session:
        moving.give_up(session, at(NOW), back(event), RULES)
        moving.give_up(session, at(NOW), back(event), RULES)

    [found] = deployments(database, event)
    assert (found.status, found.owed_micros) == (DeploymentStatus.CANCELLED, 0)


def test_an_end_that_overtakes_its_beginning_comes_again(database: Connected) -> None:
    with database.begin() as session, pytest.raises(Conflict):
        moving.give_up(session, at(NOW), back(moved(NOW)), RULES)


def test_nobody_ends_what_is_somebody_elses(database: Connected) -> None:
    event = moved(NOW + timedelta(days=9))
    taken_over(database, event)
    strangers = back(event).model_copy(update={"user_id": uuid4()})

    with database.begin() as session:
        moving.give_up(session, at(NOW), strangers, RULES)

    assert deployments(database, event)[0].status is DeploymentStatus.ACTIVE
