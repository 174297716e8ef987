"""Analytics' entrypoints: it listens to what the others say, counts it, and is asked."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from chassis import operated
from chassis.clock import utc_now
from chassis.events import events_handler
from chassis.health import Health
from chassis.metrics import Gauge
from chassis.outbox import OutboxRelay
from chassis.retention import FORGET_EVERY_S, Kept, forget, messages
from chassis.rpc import rpc
from chassis.service_database import Database
from chassis.timer import timer
from contracts.analytics import (
    SERVICE,
    GetKpis,
    GetNumbers,
    GetPopularProducts,
    GetRetention,
    Kpis,
    Numbers,
    PopularProducts,
    Retention,
)
from contracts.billing import (
    DeploymentActivated,
    DeploymentChanged,
    DeploymentFailed,
    DeploymentRenewed,
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseRefunded,
    PurchaseShortOfFunds,
)
from contracts.gateway import StepsTaken, UserRegistered
from contracts.messages import Event
from contracts.topup import (
    AutoTopupSettingsChanged,
    TopupFailed,
    TopupPaid,
    TopupRestored,
    TopupReversed,
)
from services.analytics import questions
from services.analytics.counting import count
from services.analytics.facts import told
from services.analytics.settings import get_settings

GATHER_S = 0.5
"""So long after one event more of its kind are awaited: counting ten together costs each a sixth of
what it costs alone, and nobody looks at numbers that soon."""

STEPS_KEPT = Kept("facts", "at", days=2, unless="kind <> 'step'")
"""A path ends with its day; what of it is heard for so long after that is counted right."""

GAUGES = {
    "last_counted_seconds": Gauge(
        "How long ago the last event was counted; nothing before the first.",
        "SELECT extract(epoch FROM now() - max(handled_at)) FROM inbox",
    ),
    "kpi_ratio": Gauge(
        "The plan's success metrics of the last seven days, from 0 to 1.",
        questions.kpi_ratios,
        "kpi",
    ),
    "kpi_target_ratio": Gauge("What the plan wants of each.", questions.kpi_targets, "kpi"),
}


class AnalyticsService(operated.Operated):
    """Counts of what happened. It calls nobody: the command ``services.analytics.refill`` does."""

    name = SERVICE

    database = Database()
    relay = OutboxRelay()
    health = Health(gauges=GAUGES)

    @rpc
    def get_numbers(self, request: GetNumbers) -> Numbers:
        with self.database.read() as session:
            return questions.get_numbers(session, request)

    @rpc
    def get_kpis(self, request: GetKpis) -> Kpis:
        with self.database.read() as session:
            return questions.get_kpis(session, request)

    @rpc
    def get_popular_products(self, request: GetPopularProducts) -> PopularProducts:
        with self.database.read() as session:
            return questions.get_popular_products(session, request)

    @rpc
    def get_retention(self, request: GetRetention) -> Retention:
        with self.database.read() as session:
            return questions.get_retention(session, request)

    @events_handler(UserRegistered, gather_s=GATHER_S)
    def user_registered(self, session: Session, events: Sequence[UserRegistered]) -> None:
        _count(session, events)

    @events_handler(PurchaseShortOfFunds, gather_s=GATHER_S)
    def purchase_short(self, session: Session, events: Sequence[PurchaseShortOfFunds]) -> None:
        _count(session, events)

    @events_handler(PurchaseCompleted, gather_s=GATHER_S)
    def purchase_completed(self, session: Session, events: Sequence[PurchaseCompleted]) -> None:
        _count(session, events)

    @events_handler(PurchaseEnded, gather_s=GATHER_S)
    def purchase_ended(self, session: Session, events: Sequence[PurchaseEnded]) -> None:
        _count(session, events)

    @events_handler(PurchaseRefunded, gather_s=GATHER_S)
    def purchase_refunded(self, session: Session, events: Sequence[PurchaseRefunded]) -> None:
        _count(session, events)

    @events_handler(DeploymentActivated, gather_s=GATHER_S)
    def deployment_activated(self, session: Session, events: Sequence[DeploymentActivated]) -> None:
        _count(session, events)

    @events_handler(DeploymentChanged, gather_s=GATHER_S)
    def deployment_changed(self, session: Session, events: Sequence[DeploymentChanged]) -> None:
        _count(session, events)

    @events_handler(DeploymentFailed, gather_s=GATHER_S)
    def deployment_failed(self, session: Session, events: Sequence[DeploymentFailed]) -> None:
        _count(session, events)

    @events_handler(DeploymentRenewed, gather_s=GATHER_S)
    def deployment_renewed(self, session: Session, events: Sequence[DeploymentRenewed]) -> None:
        _count(session, events)

    @events_handler(TopupPaid, gather_s=GATHER_S)
    def topup_paid(self, session: Session, events: Sequence[TopupPaid]) -> None:
        _count(session, events)

    @events_handler(TopupFailed, gather_s=GATHER_S)
    def topup_failed(self, session: Session, events: Sequence[TopupFailed]) -> None:
        _count(session, events)

    @events_handler(TopupReversed, gather_s=GATHER_S)
    def topup_reversed(self, session: Session, events: Sequence[TopupReversed]) -> None:
        _count(session, events)

    @events_handler(TopupRestored, gather_s=GATHER_S)
    def topup_restored(self, session: Session, events: Sequence[TopupRestored]) -> None:
        _count(session, events)

    @events_handler(AutoTopupSettingsChanged, gather_s=GATHER_S)
    def auto_topup_changed(
        self, session: Session, events: Sequence[AutoTopupSettingsChanged]
    ) -> None:
        _count(session, events)

    @events_handler(StepsTaken, gather_s=GATHER_S)
    def steps_taken(self, session: Session, events: Sequence[StepsTaken]) -> None:
        _count(session, events)

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        """Messages, and which path had come how far: what was counted stays."""
        forget(self.database, utc_now(), [*messages(get_settings()), STEPS_KEPT])


def _count(session: Session, events: Sequence[Event]) -> None:
    count(session, map(told, events))
