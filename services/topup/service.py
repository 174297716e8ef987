"""The top-up service: entrypoints only. Rules live in the files named for their nouns."""

import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from chassis import operated
from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected
from chassis.events import event_handler, events_handler
from chassis.health import Health
from chassis.outbox import OutboxRelay
from chassis.retention import FORGET_EVERY_S, forget
from chassis.rpc import Caller, rpc
from chassis.service_database import Database
from chassis.timer import timer
from contracts.billing import (
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseShortOfFunds,
    RenewalShortOfFunds,
    ShortageLessened,
)
from contracts.messages import Done
from contracts.topup import (
    AutoTopupOutcome,
    AutoTopupPreview,
    AutoTopupRecords,
    AutoTopupState,
    AutoTopupStates,
    AutoTopupStatus,
    CardRefund,
    CardRefundPage,
    CardSetup,
    ChargeForecast,
    ChargeForecasts,
    ConfigureAutoTopup,
    ConsentBehind,
    ExportAutoTopup,
    ExportTopups,
    ForecastCharges,
    ForecastChargesOfMany,
    ForecastSchedule,
    GetAutoTopup,
    GetAutoTopupState,
    GetAutoTopupStates,
    GetCardRefund,
    GetConsent,
    GetOperatorSwitch,
    GetPaymentBooks,
    GetReceipt,
    GetTopup,
    GetTopupOverview,
    ListCardRefunds,
    ListPaymentMethods,
    ListProblems,
    ListRefundable,
    ListTopups,
    OperatorSwitch,
    PaymentBooks,
    PaymentMethodList,
    PreviewAutoTopup,
    ProblemList,
    Receipt,
    ReceiveWebhook,
    RefundableTopups,
    RefundTopup,
    RemovePaymentMethod,
    RenderedReceipt,
    RenderReceipt,
    ScheduleForecast,
    SetDefaultPaymentMethod,
    SetOperatorSwitch,
    StartCardSetup,
    StartTopup,
    Topup,
    TopupOverview,
    TopupPage,
    TopupRecords,
    TriggerAutoTopup,
)
from contracts.wallet import AccountFroze, BalanceLow, WalletCredited
from services.topup import (
    audit,
    export,
    overview,
    payment_books,
    problems,
    reconcile,
    retention,
    switch,
    topups,
)
from services.topup.automatic import (
    card_changes,
    forecast,
    pages,
    schedule,
    shortages,
    terms,
    triggers,
)
from services.topup.cards import saved_cards
from services.topup.charging import (
    card_refunds,
    charges,
    checkout,
    giving_back,
    janitor,
    outcomes,
    receipts,
    webhooks,
)
from services.topup.charging.background import Background, take_up
from services.topup.policy import Policy
from services.topup.processor import Processor
from services.topup.settings import get_settings
from services.topup.till import Till
from services.topup.wallet_questions import WalletQuestions

AUDIT_EVERY_S = 120
GATHER_S = 0.05
"""How long purchases that are paid are gathered: nothing is to be done for most of them."""

ASLEEP_S = 5
"""How late what another replica made due is seen at most."""


@functools.cache
def processor() -> Processor:
    """One client of the card processor for the process."""
    return Processor.from_settings(get_settings())


class TopupService(operated.Operated):
    """``topup``: cards, credits bought by hand, automatic top-up."""

    name = "topup"
    database = Database()
    relay = OutboxRelay()
    health = Health(gauges=reconcile.GAUGES | webhooks.GAUGES | problems.GAUGES, work=problems.WORK)
    caller = Caller()
    later = Background()

    @property
    def till(self) -> Till:
        return _till_of(self.database, self.caller, self.later)

    # Buying by hand

    @rpc
    def start_topup(self, request: StartTopup) -> Topup:
        return checkout.start(self.till, request)

    @rpc
    def get_topup(self, request: GetTopup) -> Topup:
        return topups.reply(checkout.refresh(self.till, request.user_id, request.topup_id))

    @rpc
    def list_topups(self, request: ListTopups) -> TopupPage:
        with self.database.read() as session:
            return topups.page(session, request)

    @rpc
    def export_topups(self, request: ExportTopups) -> TopupRecords:
        with self.database.read() as session:
            return export.export_topups(session, request)

    @rpc
    def export_auto_topup(self, request: ExportAutoTopup) -> AutoTopupRecords:
        with self.database.read() as session:
            return export.export_auto_topup(session, request)

    @rpc
    def get_receipt(self, request: GetReceipt) -> Receipt:
        with self.database.read() as session:
            return receipts.receipt(session, request.user_id, request.topup_id)

    @rpc
    def render_receipt(self, request: RenderReceipt) -> RenderedReceipt:
        with self.database.read() as session:
            receipt = receipts.receipt(session, request.user_id, request.topup_id)
            seller = receipts.seller(session, receipt, get_settings().seller_lines)
        return receipts.rendered(receipt, seller)

    # Cards

    @rpc
    def list_payment_methods(self, request: ListPaymentMethods) -> PaymentMethodList:
        checkout.refresh_setups(self.till, request.user_id)
        with self.database.read() as session:
            return saved_cards.page(session, request, utc_now())

    @rpc
    def start_card_setup(self, request: StartCardSetup) -> CardSetup:
        return checkout.start_card_setup(self.till, request)

    @rpc
    def remove_payment_method(self, request: RemovePaymentMethod) -> PaymentMethodList:
        return card_changes.remove_by_hand(self.till, request)

    @rpc
    def set_default_payment_method(self, request: SetDefaultPaymentMethod) -> PaymentMethodList:
        with self.database.begin() as session:
            saved_cards.set_default(session, request.user_id, request.payment_method_id)
            first = ListPaymentMethods(user_id=request.user_id)
            return saved_cards.page(session, first, utc_now())

    # Back to the card

    @rpc
    def list_refundable(self, request: ListRefundable) -> RefundableTopups:
        return giving_back.refundable(self.till, request.user_id)

    @rpc
    def refund_topup(self, request: RefundTopup) -> CardRefund:
        return giving_back.give_back(self.till, request)

    @rpc
    def list_card_refunds(self, request: ListCardRefunds) -> CardRefundPage:
        with self.database.read() as session:
            return card_refunds.page(session, request)

    @rpc
    def get_card_refund(self, request: GetCardRefund) -> CardRefund:
        with self.database.read() as session:
            return card_refunds.get(session, request.user_id, request.refund_id)

    # Automatic top-up

    @rpc
    def get_auto_topup(self, request: GetAutoTopup) -> AutoTopupStatus:
        return overview.auto_topup(self.till, request.user_id)

    @rpc
    def get_auto_topup_state(self, request: GetAutoTopupState) -> AutoTopupState:
        question = (request.user_id, self.till.policy.is_stopped)
        state: AutoTopupState = self.database.answer(terms.states, question)
        return state

    @rpc
    def get_auto_topup_states(self, request: GetAutoTopupStates) -> AutoTopupStates:
        is_stopped = self.till.policy.is_stopped
        with self.database.read() as session:
            questions = [(user_id, is_stopped) for user_id in request.user_ids]
            return AutoTopupStates(states=terms.states(session, questions))

    @rpc
    def get_topup_overview(self, request: GetTopupOverview) -> TopupOverview:
        return overview.overview(self.till, request)

    @rpc
    def configure_auto_topup(self, request: ConfigureAutoTopup) -> AutoTopupStatus:
        return charges.configure(self.till, request)

    @rpc
    def trigger_auto_topup(self, request: TriggerAutoTopup) -> AutoTopupOutcome:
        return charges.ask_by_hand(self.till, request)

    @rpc
    def preview_auto_topup(self, request: PreviewAutoTopup) -> AutoTopupPreview:
        with self.database.read() as session:
            return terms.preview(session, utc_now(), request, self.till.policy)

    @rpc
    def forecast_charges(self, request: ForecastCharges) -> ChargeForecast:
        return forecast.foretell(self.till, request)

    @rpc
    def forecast_charges_of_many(self, request: ForecastChargesOfMany) -> ChargeForecasts:
        return forecast.foretell_many(self.till, request)

    @rpc
    def forecast_schedule(self, request: ForecastSchedule) -> ScheduleForecast:
        return schedule.foretell(self.till, request)

    # What starts it

    @event_handler(PurchaseShortOfFunds)
    def top_up_for_purchase(self, session: Session, event: PurchaseShortOfFunds) -> None:
        charges.cover(session, self.till, event, triggers.raise_for_purchase)

    @event_handler(RenewalShortOfFunds)
    def top_up_for_renewal(self, session: Session, event: RenewalShortOfFunds) -> None:
        charges.cover(session, self.till, event, shortages.hear)

    @event_handler(BalanceLow)
    def top_up_low_balance(self, session: Session, event: BalanceLow) -> None:
        record = triggers.raise_for_low_balance(session, event, utc_now())
        charges.pursue_soon(session, self.till, record)

    # What ends it

    @events_handler(PurchaseCompleted, gather_s=GATHER_S)
    def end_paid_purchase(self, session: Session, events: Sequence[PurchaseCompleted]) -> None:
        pages.purchases_completed(session, events, utc_now())

    @event_handler(PurchaseEnded)
    def end_unpaid_purchase(self, session: Session, event: PurchaseEnded) -> None:
        reference = str(event.purchase_id)
        pages.end_purchase(session, event.user_id, reference, pages.ENDED, utc_now())

    @event_handler(ShortageLessened)
    def charge_less_for_renewals(self, session: Session, event: ShortageLessened) -> None:
        # Before the triggers, as everybody does who decides about one.
        topups.lock_settings(session, event.user_id)
        shortages.lessen(session, event, utc_now())

    @event_handler(
        WalletCredited,
        where=lambda service, event: (
            event.topup_id is not None
            or service.database.answer(triggers.await_credit, event.user_id)
        ),
    )
    def note_credit(self, session: Session, event: WalletCredited) -> None:
        outcomes.credited(session, event, utc_now())

    @event_handler(AccountFroze)
    def pause_frozen_account(self, session: Session, event: AccountFroze) -> None:
        terms.account_froze(session, event.user_id, event.reason, event.occurred_at, utc_now())

    # The processor's notices

    @rpc
    def receive_webhook(self, request: ReceiveWebhook) -> Done:
        webhooks.receive(self.till, request)
        return Done()

    # Operators

    @rpc
    def get_operator_switch(self, _request: GetOperatorSwitch) -> OperatorSwitch:
        with self.database.read() as session:
            return switch.state(session, self.till.policy)

    @rpc
    def set_operator_switch(self, request: SetOperatorSwitch) -> OperatorSwitch:
        with self.database.begin() as session:
            switch.turn(session, request, utc_now())
        with self.database.read() as session:
            return switch.state(session, self.till.policy)

    @rpc
    def get_payment_books(self, request: GetPaymentBooks) -> PaymentBooks:
        dashboard = payment_books.dashboard_of(get_settings())
        with self.database.read() as session:
            return payment_books.look(session, utc_now(), request, dashboard)

    @rpc
    def get_consent(self, request: GetConsent) -> ConsentBehind:
        with self.database.read() as session:
            return payment_books.consent_behind(session, request)

    @rpc
    def list_problems(self, request: ListProblems) -> ProblemList:
        with self.database.read() as session:
            return problems.listed(session, utc_now(), request.limit)

    # What a crash, a failure or a clock leaves to do

    @timer(interval_s=1, asleep_s=ASLEEP_S)
    def sweep_triggers(self) -> datetime | None:
        return take_up(self.till, triggers.DUE, charges.pursue)

    @timer(interval_s=1, asleep_s=ASLEEP_S)
    def settle_unknown(self) -> datetime | None:
        return take_up(self.till, janitor.DUE, janitor.look)

    @timer(interval_s=2, asleep_s=ASLEEP_S)
    def work_off_notices(self) -> datetime | None:
        return take_up(self.till, webhooks.DUE, webhooks.work_off)

    @timer(interval_s=1, asleep_s=ASLEEP_S)
    def carry_out_refunds(self) -> datetime | None:
        return take_up(self.till, giving_back.DUE, giving_back.carry_out)

    @timer(interval_s=30)
    def detach_removed_cards(self) -> None:
        with self.database.begin() as session:
            removed = saved_cards.to_detach(session, utc_now())
        for payment_method_id, owner in removed.items():
            self.later(saved_cards.detach, self.till, payment_method_id, owner=owner)

    @timer(interval_s=300)
    def sweep_undelivered_notices(self) -> None:
        webhooks.sweep_undelivered(self.till)

    @timer(interval_s=AUDIT_EVERY_S)
    def audit_credits(self) -> None:
        audit.look(self.till, get_settings().approved_logins)

    @timer(interval_s=3_600)
    def reconcile(self) -> None:
        reconcile.daily(self.till)

    @timer(interval_s=3_600)
    def warn_of_expiry(self) -> None:
        saved_cards.warn_of_expiry(self.database, utc_now())

    @timer(interval_s=3_600)
    def close_setups(self) -> None:
        with self.database.begin() as session:
            checkout.close_setups(session, utc_now())

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        forget(self.database, utc_now(), retention.kept(get_settings()))


@functools.cache
def _till_of(database: Connected, caller: RpcClient, later: Callable[..., Any]) -> Till:
    """One for all workers, who ask together what they ask at the same moment."""
    settings = get_settings()
    return Till(
        database=database,
        processor=processor(),
        wallet=WalletQuestions(caller),
        policy=Policy.from_settings(settings),
        public_url=settings.public_url,
        clock=utc_now,
        later=later,
    )
