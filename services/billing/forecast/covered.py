"""Months to come that need not be played: nobody owes anything, and the balance covers all of it.

What is renewed on the same days stays so, and is a group, whatever the number of deployments in it:
PostgreSQL counts and sums them, and only those that are named are read. Where anything else may
happen than that a month follows the other, at the same price, there are no groups, and
:mod:`services.billing.forecast.months_ahead` plays it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from contracts.billing import DeploymentStatus
from services.billing.deployments.months import month_end
from services.billing.deployments.periods import PeriodStatus


class Charge(NamedTuple):
    """A month that is paid when it is due."""

    at: datetime
    deployment_id: UUID
    name: str
    micros: int


@dataclass
class Renewed:
    """Deployments that are renewed on the same days: all of them, and the first by the time of
    the day."""

    next_at: datetime
    anchor: datetime
    total: int
    micros: int
    first: list[Charge] = field(default_factory=list)

    def days(self, until: datetime) -> Iterator[date]:
        """The days before ``until`` on which their months begin."""
        at = self.next_at
        while at.date() < until.date():
            yield at.date()
            at = month_end(self.anchor, at)


class DayOfCharges(NamedTuple):
    """What is charged on a day."""

    day: date
    groups: list[Renewed]

    @property
    def total(self) -> int:
        return sum(each.total for each in self.groups)

    @property
    def micros(self) -> int:
        return sum(each.micros for each in self.groups)

    def first(self, limit: int) -> list[Charge]:
        """The first charges in order of time, no more than were read of a group."""
        charges = [
            Charge(datetime.combine(self.day, at.timetz()), deployment_id, name, micros)
            for group in self.groups
            for at, deployment_id, name, micros in group.first[:limit]
        ]
        # Those of one group are in order.
        return charges if len(self.groups) == 1 else sorted(charges)[:limit]


class Asked(NamedTuple):
    """Of whose deployments the groups are wanted, at which moment, and how many of each by name;
    as if ``without`` were not there."""

    user_id: UUID
    now: datetime
    first: int
    without: UUID | None


# Months that are counted from the same day of a month, at one time of the day, end on the same
# days. The connection's time zone is UTC.
_GROUPS = Bulk(
    f"""
    SELECT new.question, found.* FROM {{rows}} CROSS JOIN LATERAL (SELECT * FROM (
        SELECT deployment_id, name, monthly_cost_micros, paid_until, period_anchor_at,
            ends_with_month, count(*) OVER same AS total,
            sum(monthly_cost_micros) OVER same AS micros,
            row_number() OVER (same ORDER BY paid_until::time, deployment_id) AS place,
            bool_and(coalesce(
                status = '{DeploymentStatus.ACTIVE}' AND paid_until >= new.now
                AND due_at IS NOT NULL AND period_anchor_at::time = paid_until::time
                AND new_price_micros IS NULL
                AND short_since IS NULL AND usage_short_since IS NULL AND NOT owes.any, false
            )) OVER () AS is_plain
        FROM deployments, (
            SELECT EXISTS (
                SELECT FROM periods
                WHERE user_id = new.user_id AND status = '{PeriodStatus.DUE}'
            )
        ) AS owes ("any")
        WHERE user_id = new.user_id AND deployment_id IS DISTINCT FROM new.without_id AND (
            status = '{DeploymentStatus.ACTIVE}' AND monthly_cost_micros > 0
            AND paid_until IS NOT NULL OR owes.any
        )
        WINDOW same AS (
            PARTITION BY paid_until::date, extract(day FROM period_anchor_at), ends_with_month
        )
    ) AS each WHERE place <= new.first_max) AS found ORDER BY question, place
    """,  # noqa: S608 - our words
    question="bigint",
    user_id="uuid",
    now="timestamptz",
    first_max="bigint",
    without_id="uuid",
)


def renewed_alike(session: Session, asked: Sequence[Asked]) -> list[list[Renewed] | None]:
    """Of each question the groups of a user's deployments that go on, with the first of each
    group; None where they have to be played."""
    found: list[dict[tuple[date, int], Renewed] | None] = [{} for _ in asked]
    questions = [(place, *each) for place, each in enumerate(asked)]
    for row in _GROUPS.execute(session, questions) if asked else ():
        groups = found[row.question]
        if groups is None or not row.is_plain:
            found[row.question] = None
            continue
        if row.ends_with_month:
            continue
        group = groups.setdefault(
            (row.paid_until.date(), row.period_anchor_at.day),
            Renewed(row.paid_until, row.period_anchor_at, row.total, int(row.micros)),
        )
        group.first.append(
            Charge(row.paid_until, row.deployment_id, row.name, row.monthly_cost_micros)
        )
    return [groups if groups is None else list(groups.values()) for groups in found]


def day_by_day(groups: Sequence[Renewed], until: datetime) -> list[DayOfCharges]:
    """What is charged on each day before ``until``, in order."""
    due: dict[date, list[Renewed]] = defaultdict(list)
    for group in groups:
        for day in group.days(until):
            due[day].append(group)
    return [DayOfCharges(day, due[day]) for day in sorted(due)]
