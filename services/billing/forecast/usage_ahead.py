"""What is used in the days to come: each deployment goes on at its measured rate."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from services.billing.deployments.meters import owing_usage, uncharged_micros, unpaid_micros
from services.billing.usage.rates import Rate, rates


@dataclass
class Used:
    """The usage of one deployment, from now on; ``uncharged_micros`` was used before. Corrections
    beyond that are paid back, which is not foretold."""

    rates: list[Rate] = field(default_factory=list)
    uncharged_micros: int = 0
    charged_micros: int = 0

    def due_micros(self, until: datetime) -> int:
        """What was used by then and stands in no charge."""
        to_come = sum(rate.cost_micros(until) for rate in self.rates)
        return self.uncharged_micros + to_come - self.charged_micros


@dataclass
class UsageAhead:
    """A user's usage by deployment, and what of a charge that was written is not paid."""

    used: dict[UUID, Used] = field(default_factory=dict)
    unpaid: dict[UUID, int] = field(default_factory=dict)

    def of(self, deployment_ids: Iterable[UUID]) -> "UsageAhead":
        """The same of these deployments alone, from the beginning."""
        wanted = set(deployment_ids)
        return UsageAhead(
            {
                each: Used(found.rates, found.uncharged_micros)
                for each, found in self.used.items()
                if each in wanted
            },
            {each: micros for each, micros in self.unpaid.items() if each in wanted},
        )

    @property
    def monthly_micros(self) -> dict[UUID, int]:
        """What 30 days of it cost, by deployment, where they cost anything."""
        costs = {
            each: sum(rate.monthly_micros for rate in found.rates)
            for each, found in self.used.items()
        }
        return {each: micros for each, micros in costs.items() if micros}


def usage_ahead(session: Session, user_id: UUID, now: datetime) -> UsageAhead:
    """The usage of a user's deployments, at its measured rates."""
    measured, owing = rates(session, user_id, now), owing_usage(session, user_id)
    uncharged = uncharged_micros(session, owing) if owing else {}
    used = {
        each: Used(measured.get(each, []), max(uncharged.get(each, 0), 0))
        for each in sorted({*measured, *uncharged})
    }
    return UsageAhead(used, unpaid_micros(session, owing) if owing else {})
