"""The notifier: a process beside the website that turns facts into messages for users.

It listens to what the services publish and writes to the gateway's database. Each handler
names the message of one event; the texts stand in :mod:`services.gateway.notifications.messages`.
It makes the people who come from the old system, and sends what the website has to say, which is no
container that could.
"""

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from chassis import inbox, operated
from chassis.clock import utc_now
from chassis.events import event_handler, events_handler
from chassis.health import Health
from chassis.outbox import OutboxRelay
from chassis.retention import FORGET_EVERY_S, forget
from chassis.rpc import Caller
from chassis.service_database import Database
from chassis.timer import timer
from contracts import gateway
from contracts.billing import (
    DeletionAnnounced,
    DeploymentChanged,
    DeploymentFailed,
    DeploymentRenewed,
    OwedShortOfFunds,
    PayoutPaid,
    PayoutRefused,
    PriceAnnounced,
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseRefunded,
    PurchaseShortOfFunds,
    PurchaseStatus,
    RenewalAnnounced,
    RenewalShortOfFunds,
    RunwayLow,
    RunwayRestored,
    SaleRefunded,
)
from contracts.legacy import PersonMoved, PersonMovedBack
from contracts.messages import UserEvent
from contracts.topup import (
    AutoTopupPaused,
    AutoTopupRefused,
    AutoTopupResumed,
    CardExpiring,
    CardRefundRefused,
    TopupFailed,
    TopupRestored,
    TopupReversed,
)
from contracts.wallet import AccountFroze, BalanceLow, BalanceRestored, WalletCredited
from services.gateway import rate_limits, retention, transfers
from services.gateway.cart import checkout
from services.gateway.hooks import sending as hook_sending
from services.gateway.hooks import storage as hooks
from services.gateway.notifications import messages
from services.gateway.notifications.sending import send_due
from services.gateway.notifications.storage import Message, tell_all
from services.gateway.people import moved, time_zones, users
from services.gateway.settings import get_notifier_settings

REMOVE_EVERY_S = 60
"""Where somebody makes many of them, they do not become many."""

GATHER_S = 0.5
"""How much later a buyer may hear of what the answer to his purchase says: meanwhile the top-up
that the purchase waits for comes, and the processor is for that."""

SETTLE_EVERY_S = 60
SEND_EVERY_S = 1.0
MAILS_SEEN_WITHIN_S = 3.0
"""Of what another process wrote."""
WORK = {
    "mails": "due_at FROM mails WHERE due_at IS NOT NULL",
    "hook_deliveries": "due_at FROM hook_deliveries WHERE due_at IS NOT NULL",
}


class NotifierService(operated.Operated):
    name = "notifier"

    database = Database()
    relay = OutboxRelay(gateway.SERVICE)
    health = Health(work=WORK)
    caller = Caller()

    @events_handler(PurchaseCompleted, gather_s=GATHER_S)
    def purchase_completed(self, session: Session, events: Sequence[PurchaseCompleted]) -> None:
        _tell_all(session, [(each, messages.purchase_completed(each)) for each in events])

    @event_handler(PurchaseEnded)
    def purchase_ended(self, session: Session, event: PurchaseEnded) -> None:
        if event.status is PurchaseStatus.CANCELLED:
            # Who cancelled it and heard no answer has it back as well.
            checkout.put_back(session, utc_now(), event.user_id, event.purchase_id)
        _tell(session, event, messages.purchase_ended(event))

    @events_handler(PurchaseShortOfFunds, gather_s=GATHER_S)
    def purchase_short_of_funds(
        self, session: Session, events: Sequence[PurchaseShortOfFunds]
    ) -> None:
        _tell_all(session, [(each, messages.purchase_short_of_funds(each)) for each in events])

    @event_handler(PurchaseRefunded)
    def purchase_refunded(self, session: Session, event: PurchaseRefunded) -> None:
        _tell(session, event, messages.purchase_refunded(event))

    @event_handler(SaleRefunded)
    def sale_refunded(self, session: Session, event: SaleRefunded) -> None:
        _tell(session, event, messages.sale_refunded(event))

    @event_handler(PayoutPaid)
    def payout_paid(self, session: Session, event: PayoutPaid) -> None:
        _tell(session, event, messages.payout_paid(event))

    @event_handler(PayoutRefused)
    def payout_refused(self, session: Session, event: PayoutRefused) -> None:
        _tell(session, event, messages.payout_refused(event))

    @event_handler(DeploymentFailed)
    def deployment_failed(self, session: Session, event: DeploymentFailed) -> None:
        _tell(session, event, messages.deployment_failed(event))

    @event_handler(RenewalAnnounced)
    def renewal_announced(self, session: Session, event: RenewalAnnounced) -> None:
        _tell(session, event, messages.renewal_announced(event, _zone(session, event)))

    @event_handler(DeploymentRenewed)
    def deployment_renewed(self, session: Session, event: DeploymentRenewed) -> None:
        _tell(session, event, messages.deployment_renewed(event, _zone(session, event)))

    @event_handler(PriceAnnounced)
    def price_announced(self, session: Session, event: PriceAnnounced) -> None:
        _tell(session, event, messages.price_announced(event, _zone(session, event)))

    @event_handler(RenewalShortOfFunds)
    def renewal_short_of_funds(self, session: Session, event: RenewalShortOfFunds) -> None:
        _tell(session, event, messages.renewal_short_of_funds(event, _zone(session, event)))

    @event_handler(OwedShortOfFunds)
    def owed_short_of_funds(self, session: Session, event: OwedShortOfFunds) -> None:
        _tell(session, event, messages.owed_short_of_funds(event))

    @event_handler(RunwayLow)
    def runway_low(self, session: Session, event: RunwayLow) -> None:
        _tell(session, event, messages.runway_low(event, _zone(session, event)))

    @event_handler(RunwayRestored)
    def runway_restored(self, session: Session, event: RunwayRestored) -> None:
        _tell(session, event, messages.runway_restored(event))

    @event_handler(DeploymentChanged)
    def deployment_changed(self, session: Session, event: DeploymentChanged) -> None:
        _tell(session, event, messages.deployment_changed(event, _zone(session, event)))

    @event_handler(DeletionAnnounced)
    def deletion_announced(self, session: Session, event: DeletionAnnounced) -> None:
        _tell(session, event, messages.deletion_announced(event, _zone(session, event)))

    @events_handler(
        WalletCredited, where=lambda _service, event: _is_told(event), gather_s=GATHER_S
    )
    def wallet_credited(self, session: Session, events: Sequence[WalletCredited]) -> None:
        for event in events:
            # A top-up that is published as paid again is announced again: under another id.
            if inbox.is_new(session, event.transaction_id, "credit_is_told"):
                _tell_of_credit(session, event)

    @event_handler(BalanceLow)
    def balance_low(self, session: Session, event: BalanceLow) -> None:
        _tell(session, event, messages.balance_low(event))

    @event_handler(BalanceRestored)
    def balance_restored(self, session: Session, event: BalanceRestored) -> None:
        _tell(session, event, messages.balance_restored(event))

    @event_handler(AccountFroze)
    def account_froze(self, session: Session, event: AccountFroze) -> None:
        _tell(session, event, messages.account_froze(event))

    @event_handler(TopupFailed)
    def topup_failed(self, session: Session, event: TopupFailed) -> None:
        _tell(session, event, messages.topup_failed(event))

    @event_handler(TopupReversed)
    def topup_reversed(self, session: Session, event: TopupReversed) -> None:
        _tell(session, event, messages.topup_reversed(event))

    @event_handler(TopupRestored)
    def topup_restored(self, session: Session, event: TopupRestored) -> None:
        _tell(session, event, messages.topup_restored(event))

    @event_handler(CardRefundRefused)
    def card_refund_refused(self, session: Session, event: CardRefundRefused) -> None:
        _tell(session, event, messages.card_refund_refused(event))

    @event_handler(AutoTopupRefused)
    def auto_topup_refused(self, session: Session, event: AutoTopupRefused) -> None:
        _tell(session, event, messages.auto_topup_refused(event))

    @event_handler(AutoTopupPaused)
    def auto_topup_paused(self, session: Session, event: AutoTopupPaused) -> None:
        _tell(session, event, messages.auto_topup_paused(event))

    @event_handler(AutoTopupResumed)
    def auto_topup_resumed(self, session: Session, event: AutoTopupResumed) -> None:
        _tell(session, event, messages.auto_topup_resumed(event))

    @event_handler(CardExpiring)
    def card_expiring(self, session: Session, event: CardExpiring) -> None:
        _tell(session, event, messages.card_expiring(event))

    @event_handler(PersonMoved)
    def person_moved(self, session: Session, event: PersonMoved) -> None:
        moved.welcome(session, utc_now(), event)

    @event_handler(PersonMovedBack)
    def person_moved_back(self, session: Session, event: PersonMovedBack) -> None:
        moved.withdraw(session, utc_now(), event)

    @timer(SEND_EVERY_S, asleep_s=MAILS_SEEN_WITHIN_S)
    def send_mails(self) -> datetime | None:
        """What was told here, and what the website wants to be sent."""
        return send_due(self.database, get_notifier_settings(), utc_now)

    @timer(SEND_EVERY_S, asleep_s=MAILS_SEEN_WITHIN_S)
    def send_webhooks(self) -> datetime | None:
        return hook_sending.send_due(self.database, get_notifier_settings(), utc_now)

    @timer(SETTLE_EVERY_S)
    def settle_transfers(self) -> None:
        """Those of which the wallet's answer was lost."""
        transfers.settle_unanswered(self.database, self.caller, utc_now())

    @timer(REMOVE_EVERY_S)
    def remove_passed_limits(self) -> None:
        """Rate limits of which nothing is used up any more."""
        forget(self.database, utc_now(), [rate_limits.KEPT])

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        forget(self.database, utc_now(), retention.kept(get_notifier_settings()))


def _is_told(event: WalletCredited) -> bool:
    return messages.wallet_credited(event) is not None


def _zone(session: Session, event: UserEvent) -> ZoneInfo:
    return time_zones.of(session, event.user_id)


def _tell_of_credit(session: Session, event: WalletCredited) -> None:
    if event.from_user_id is None:
        return _tell(session, event, messages.wallet_credited(event))
    hooks.queue(session, utc_now(), [event])
    names = users.emails(session, [event.from_user_id, event.user_id])
    sender, receiver = (
        names.get(user_id, "another user") for user_id in (event.from_user_id, event.user_id)
    )
    told = [
        (event.from_user_id, event.event_id, messages.transfer_sent(event, receiver)),
        (event.user_id, event.event_id, messages.transfer_received(event, sender)),
    ]
    return tell_all(session, utc_now(), told)


def _tell(session: Session, event: UserEvent, message: Message | None) -> None:
    """Store the message of an event that has one, and have the user's webhooks be told."""
    _tell_all(session, [(event, message)])


def _tell_all(session: Session, told: Sequence[tuple[UserEvent, Message | None]]) -> None:
    """The same of several."""
    hooks.queue(session, utc_now(), [event for event, _ in told])
    kept = [(event.user_id, event.event_id, text) for event, text in told if text is not None]
    if kept:
        tell_all(session, utc_now(), kept)
