"""Months that an outage left undone: how many were charged late, and how late the oldest was.

A month is written down when it begins, whatever the wallet says then. One that is written down
later was kept from it by us, and operators hear what was caught up.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import Counter, Gauge
from sqlalchemy.orm import Session

from chassis.database import after_commit
from chassis.instruments import REGISTRY
from services.billing.deployments.periods import Owed

log = logging.getLogger(__name__)

LATE = timedelta(minutes=15)
"""As for work that is overdue."""

_MONTHS = Counter(
    "mycelium_billing_months_caught_up",
    "Months that were charged more than 15 minutes late, as after an outage.",
    registry=REGISTRY,
)
_OLDEST = Gauge(
    "mycelium_billing_caught_up_oldest_seconds",
    "How late the oldest month was, when months were last caught up.",
    registry=REGISTRY,
)


@dataclass
class CaughtUp:
    """What one run caught up."""

    months: int = 0
    oldest: timedelta = timedelta(0)

    def note(self, session: Session, months: Iterable[Owed]) -> None:
        """These were written down just now, and count once that is committed."""
        ages = [each.created_at - each.starts_at for each in months]
        late = [each for each in ages if each > LATE]
        if late:
            after_commit(session, lambda: self._add(late))

    def _add(self, late: list[timedelta]) -> None:
        self.months += len(late)
        self.oldest = max(self.oldest, *late)

    def tell(self) -> None:
        """Say what was caught up, if anything was."""
        if not self.months:
            return
        _MONTHS.inc(self.months)
        _OLDEST.set(self.oldest.total_seconds())
        log.warning(
            "months were charged late, the oldest first",
            extra={"months": self.months, "oldest_s": int(self.oldest.total_seconds())},
        )
