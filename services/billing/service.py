"""Billing's entrypoints."""

import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from chassis import operated
from chassis.bulk import Bulk
from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.crash_points import crash_point
from chassis.database import Connected, after_commit
from chassis.events import event_handler, events_handler
from chassis.health import Health
from chassis.metrics import Gauge
from chassis.outbox import OutboxRelay
from chassis.retention import FORGET_EVERY_S, forget
from chassis.rpc import Caller, rpc
from chassis.service_database import Database
from chassis.timer import timer
from contracts.billing import (
    SERVICE,
    BurnRate,
    CancelDeployment,
    CancelPurchase,
    Deployment,
    DeploymentList,
    DeploymentRecords,
    Discounts,
    ExportDeployments,
    ExportPurchases,
    FindPurchase,
    Forecast,
    GetBurnRate,
    GetDeployment,
    GetDiscounts,
    GetForecast,
    GetProductUses,
    GetPurchase,
    GetReceipt,
    GetSalesSums,
    GetUsage,
    IssueReceipt,
    ListDeployments,
    ListPaidMonths,
    ListPayouts,
    ListPurchases,
    ListResizes,
    ListSales,
    MarkPayoutPaid,
    PaidMonths,
    Payout,
    PayoutPage,
    ProductUses,
    ProviderFee,
    Purchase,
    PurchasePage,
    PurchaseRecords,
    Receipt,
    RecordUsage,
    RefundPurchase,
    RefusePayout,
    RenameDeployment,
    RenderedReceipt,
    RenderReceipt,
    ReportDeployment,
    RequestPayout,
    ResizeDeployment,
    ResizeOptions,
    ReturnPurchase,
    SalesPage,
    SalesSums,
    SetProviderFee,
    StartDeployment,
    StartPurchase,
    StopDeployment,
    Usage,
    UsageResults,
)
from contracts.catalog import ProductPriceChanged
from contracts.legacy import PersonMoved, PersonMovedBack, StakingDiscountChanged
from contracts.topup import (
    AutoTopupPaused,
    AutoTopupRefused,
    AutoTopupResumed,
    AutoTopupSettingsChanged,
    TopupFailed,
)
from contracts.wallet import WalletCredited
from services.billing import retention
from services.billing.deployments import charge_limit, commands, prices
from services.billing.deployments.export import export_deployments
from services.billing.deployments.lifecycle import report_deployment
from services.billing.deployments.queries import (
    get_deployment,
    list_deployments,
    single,
    what_burns,
)
from services.billing.forecast import runways
from services.billing.forecast.balances import wallet_of
from services.billing.forecast.burn_rate import analyse
from services.billing.forecast.forecast import foretell
from services.billing.forecast.runways import Lookout
from services.billing.payouts import carrying_out, requests
from services.billing.payouts.carrying_out import Payouts
from services.billing.payouts.queries import as_payout, list_payouts
from services.billing.purchases import claims, moving, refusals, returns
from services.billing.purchases.checkout import Checkout
from services.billing.purchases.export import export_purchases
from services.billing.purchases.queries import find_purchase, get_purchase, list_purchases
from services.billing.receipts import documents, issuing
from services.billing.receipts.usage import list_paid_months
from services.billing.refunds import debts, settling
from services.billing.refunds.debts import Debts
from services.billing.refunds.settling import Refunds
from services.billing.renewals import renewals, unasked
from services.billing.renewals.renewals import Renewals
from services.billing.renewals.resizes import Resizes
from services.billing.sales import discounts, fees
from services.billing.sales.statements import get_sums, get_uses, list_sales
from services.billing.settings import get_settings
from services.billing.usage import charging, paying_back
from services.billing.usage.charging import UsageCharges
from services.billing.usage.paying_back import UsageRefunds
from services.billing.usage.queries import get_usage
from services.billing.usage.rates import monthly_micros
from services.billing.usage.taking import record_usage

SWEEP_INTERVAL_S = 2.0
ASLEEP_S = 5.0
"""How late what another replica made due is seen at most."""
UNASKED_EVERY_S = 600.0


class AwaitsMoney(NamedTuple):
    """What of a user's money that comes may bring on."""

    purchases: bool
    months: bool
    runway: bool
    debts: bool
    usage: bool


_WHAT_AWAITS_MONEY = Bulk(
    "SELECT new.user_id, "  # noqa: S608 - our words
    + ", ".join(
        f"{each.AWAITS_MONEY} AS {field}"
        for field, each in zip(
            AwaitsMoney._fields, (claims, renewals, runways, debts, charging), strict=True
        )
    )
    + " FROM {rows}",
    user_id="uuid",
)


_WAITING_PURCHASES = "status IN ('pending', 'awaiting_funds')"
GAUGES = {
    "purchases_waiting": Gauge(
        "Purchases that are under way or wait for money.",
        f"SELECT status, count(*) FROM purchases WHERE {_WAITING_PURCHASES} GROUP BY status",  # noqa: S608
        "status",
    ),
}
WORK = {
    "purchases": f"due_at FROM purchases WHERE due_at IS NOT NULL AND {_WAITING_PURCHASES}",
    "renewals": "due_at FROM deployments WHERE due_at IS NOT NULL",
    "usage": "due_at FROM usage_wallets WHERE due_at IS NOT NULL",
    "refunds": "due_at FROM refunds WHERE due_at IS NOT NULL",
    "usage_refunds": "due_at FROM usage_refunds WHERE due_at IS NOT NULL",
    "debts": "due_at FROM debts WHERE due_at IS NOT NULL",
    "payouts": "due_at FROM payouts WHERE due_at IS NOT NULL",
    "runways": "due_at FROM runways WHERE due_at IS NOT NULL",
}
"""What is taken up when it is due; a lease moves that to its end."""


def what_awaits_money(session: Session, users: Sequence[UUID]) -> list[AwaitsMoney]:
    """What each of them waits with for money."""
    rows = _WHAT_AWAITS_MONEY.execute(session, [(user_id,) for user_id in set(users)])
    found = {row.user_id: AwaitsMoney._make(row[1:]) for row in rows}
    return [found[user_id] for user_id in users]


def await_money(session: Session, users: Sequence[UUID]) -> list[bool | Exception]:
    """Whether each of them waits for money here. Hardly anybody does who earns by a sale."""
    return [any(each) for each in what_awaits_money(session, users)]


def money_came(session: Session, now: datetime, user_id: UUID, awaits: AwaitsMoney) -> None:
    """What waited for this user's money, but for purchases, is tried again."""
    # Usage first: who charges for it holds its wallet before its deployments.
    if awaits.usage:
        charging.money_came(session, now, user_id)
    if awaits.months:
        renewals.money_came(session, now, user_id)
    if awaits.runway:
        runways.look_whether_restored(session, now, user_id)
    if awaits.debts:
        debts.money_came(session, now, user_id)


class BillingService(operated.Operated):
    """Purchases, deployments, renewals, usage, earnings, receipts, the forecast. It calls the
    catalog and the wallet, and asks the top-up service what it would charge."""

    name = SERVICE

    database = Database()
    relay = OutboxRelay()
    health = Health(gauges=charge_limit.GAUGES | GAUGES, work=WORK)
    caller = Caller()

    @rpc
    def start_purchase(self, request: StartPurchase) -> Purchase:
        return self._checkout().start(request)

    @rpc
    def cancel_purchase(self, request: CancelPurchase) -> Purchase:
        return self._checkout().cancel(request)

    @rpc
    def get_purchase(self, request: GetPurchase) -> Purchase:
        with self.database.read() as session:
            return get_purchase(session, request, get_settings())

    @rpc
    def get_discounts(self, request: GetDiscounts) -> Discounts:
        with self.database.read() as session:
            return discounts.get_discounts(session, request, get_settings())

    @rpc
    def find_purchase(self, request: FindPurchase) -> Purchase:
        with self.database.read() as session:
            return find_purchase(session, request, get_settings())

    @rpc
    def list_purchases(self, request: ListPurchases) -> PurchasePage:
        with self.database.read() as session:
            return list_purchases(session, request, get_settings())

    @rpc
    def export_purchases(self, request: ExportPurchases) -> PurchaseRecords:
        with self.database.read() as session:
            return export_purchases(session, request)

    @rpc
    def export_deployments(self, request: ExportDeployments) -> DeploymentRecords:
        with self.database.read() as session:
            return export_deployments(session, request)

    @rpc
    def refund_purchase(self, request: RefundPurchase) -> Purchase:
        with self.database.begin() as session:
            refund = returns.refund_purchase(session, utc_now, request, get_settings())
            refund_id, user_id = refund.refund_id, refund.user_id
        return self._refunded(refund_id, user_id, request.purchase_id)

    @rpc
    def return_purchase(self, request: ReturnPurchase) -> Purchase:
        with self.database.begin() as session:
            refund = returns.return_purchase(session, utc_now, request, get_settings())
            refund_id = refund.refund_id
        return self._refunded(refund_id, request.user_id, request.purchase_id)

    @rpc
    def list_deployments(self, request: ListDeployments) -> DeploymentList:
        with self.database.read() as session:
            return list_deployments(session, utc_now(), request, get_settings())

    @rpc
    def get_deployment(self, request: GetDeployment) -> Deployment:
        with self.database.read() as session:
            return get_deployment(session, utc_now(), request, get_settings())

    @rpc
    def report_deployment(self, request: ReportDeployment) -> Deployment:
        with self.database.begin() as session:
            row = report_deployment(session, utc_now, request, get_settings())
            runways.look_soon(session, utc_now(), row.user_id)
            return single(session, utc_now(), row, get_settings())

    @rpc
    def record_usage(self, request: RecordUsage) -> UsageResults:
        with self.database.begin() as session:
            return record_usage(session, utc_now(), request, get_settings())

    @rpc
    def get_usage(self, request: GetUsage) -> Usage:
        with self.database.read() as session:
            return get_usage(session, utc_now(), request)

    @rpc
    def rename_deployment(self, request: RenameDeployment) -> Deployment:
        with self.database.begin() as session:
            row = commands.rename(session, utc_now, request)
            return single(session, utc_now(), row, get_settings())

    @rpc
    def stop_deployment(self, request: StopDeployment) -> Deployment:
        with self.database.begin() as session:
            row = commands.stop(session, utc_now, request, get_settings())
            runways.look_soon(session, utc_now(), row.user_id)
            return single(session, utc_now(), row, get_settings())

    @rpc
    def start_deployment(self, request: StartDeployment) -> Deployment:
        return self._renewals().start(request)

    @rpc
    def resize_deployment(self, request: ResizeDeployment) -> Deployment:
        return Resizes(self._renewals()).resize(request)

    @rpc
    def list_resizes(self, request: ListResizes) -> ResizeOptions:
        return Resizes(self._renewals()).options(request)

    @rpc
    def cancel_deployment(self, request: CancelDeployment) -> Deployment:
        with self.database.begin() as session:
            row = commands.cancel(session, utc_now, request, get_settings())
            runways.look_soon(session, utc_now(), row.user_id)
            return single(session, utc_now(), row, get_settings())

    @rpc
    def get_receipt(self, request: GetReceipt) -> Receipt:
        with self.database.read() as session:
            return issuing.get(session, request, get_settings())

    @rpc
    def issue_receipt(self, request: IssueReceipt) -> Receipt:
        with self.database.begin() as session:
            return issuing.issue(session, utc_now, request, get_settings())

    @rpc
    def render_receipt(self, request: RenderReceipt) -> RenderedReceipt:
        with self.database.read() as session:
            receipt = issuing.get_issued(session, request, get_settings())
        return documents.rendered(receipt)

    @rpc
    def list_paid_months(self, request: ListPaidMonths) -> PaidMonths:
        with self.database.read() as session:
            return list_paid_months(session, request)

    @rpc
    def set_provider_fee(self, request: SetProviderFee) -> ProviderFee:
        with self.database.begin() as session:
            return fees.set_fee(session, utc_now, request, get_settings())

    @rpc
    def list_sales(self, request: ListSales) -> SalesPage:
        with self.database.read() as session:
            return list_sales(session, request)

    @rpc
    def get_sales_sums(self, request: GetSalesSums) -> SalesSums:
        with self.database.read() as session:
            return get_sums(session, request)

    @rpc
    def get_product_uses(self, request: GetProductUses) -> ProductUses:
        with self.database.read() as session:
            return get_uses(session, request)

    @rpc
    def request_payout(self, request: RequestPayout) -> Payout:
        return as_payout(requests.ask(self._payouts(), request))

    @rpc
    def mark_payout_paid(self, request: MarkPayoutPaid) -> Payout:
        with self.database.begin() as session:
            payout_id = requests.mark_paid(session, utc_now, request).payout_id
        return as_payout(self._payouts().carried_out(payout_id))

    @rpc
    def refuse_payout(self, request: RefusePayout) -> Payout:
        with self.database.begin() as session:
            payout_id = requests.refuse(session, utc_now, request).payout_id
        return as_payout(self._payouts().carried_out(payout_id))

    @rpc
    def list_payouts(self, request: ListPayouts) -> PayoutPage:
        with self.database.read() as session:
            return list_payouts(session, request)

    @rpc
    def get_burn_rate(self, request: GetBurnRate) -> BurnRate:
        wallet = wallet_of(self.caller, request.user_id, get_settings().call_timeout_s)
        with self.database.read() as session:
            usage = monthly_micros(session, request.user_id, now := utc_now())
            burning = what_burns(session, request.user_id, request.limit, usage)
        return analyse(wallet.balance_micros if wallet else 0, burning, now)

    @rpc
    def get_forecast(self, request: GetForecast) -> Forecast:
        return foretell(
            self.database, self.caller, request, utc_now(), get_settings(), self.list_purchases
        )

    @event_handler(
        WalletCredited,
        where=lambda service, event: service.database.answer(await_money, event.user_id),
    )
    def resume_purchases(self, session: Session, event: WalletCredited) -> None:
        (awaits,) = what_awaits_money(session, [event.user_id])
        if awaits.purchases:
            self._try_again(session, event.user_id)
        money_came(session, utc_now(), event.user_id, awaits)

    @event_handler(TopupFailed)
    def explain_failed_topup(self, session: Session, event: TopupFailed) -> None:
        refusals.explain_failure(session, event)

    @event_handler(AutoTopupRefused)
    def explain_refused_topup(self, session: Session, event: AutoTopupRefused) -> None:
        if refusals.explain_refusal(session, event):
            self._try_again(session, event.user_id)

    @event_handler(AutoTopupPaused)
    def explain_paused_topup(self, session: Session, event: AutoTopupPaused) -> None:
        refusals.explain_pause(session, event)
        runways.look_soon(session, utc_now(), event.user_id)

    @event_handler(AutoTopupResumed)
    def see_topup_resumed(self, session: Session, event: AutoTopupResumed) -> None:
        runways.look_whether_restored(session, utc_now(), event.user_id)

    @event_handler(AutoTopupSettingsChanged)
    def see_topup_changed(self, session: Session, event: AutoTopupSettingsChanged) -> None:
        runways.look_soon(session, utc_now(), event.user_id)

    @timer(interval_s=SWEEP_INTERVAL_S, asleep_s=ASLEEP_S)
    def sweep(self) -> datetime | None:
        """What is due, if anything is; when something is next."""
        return self._when_due([claims.next_at], self._checkout().sweep)

    @timer(interval_s=SWEEP_INTERVAL_S, asleep_s=ASLEEP_S)
    def renew(self) -> datetime | None:
        """Months that are due, and the ladder of those that are not paid."""
        return self._when_due([renewals.DUE.next_at], self._renewals().run)

    @timer(interval_s=UNASKED_EVERY_S)
    def take_up_debts(self) -> None:
        """What a version before has asked for once."""
        is_any = True
        while is_any:
            with self.database.begin() as session:
                is_any = unasked.take_up(session, utc_now(), get_settings()) == unasked.AT_ONCE

    @timer(interval_s=SWEEP_INTERVAL_S, asleep_s=ASLEEP_S)
    def charge_usage(self) -> datetime | None:
        """What was used in the hours that are over, and what of it was corrected since."""
        months = self._renewals().settle_months
        charges = UsageCharges(self.database, self.caller, get_settings(), utc_now, months)
        refunds = UsageRefunds(self.database, self.caller, get_settings(), utc_now)
        looks = (charging.DUE.next_at, paying_back.DUE.next_at)
        return self._when_due(looks, charges.run, refunds.run)

    @timer(interval_s=SWEEP_INTERVAL_S, asleep_s=ASLEEP_S)
    def give_back_and_pay_out(self) -> datetime | None:
        """Refunds that are due, what was advanced in them, and payouts."""
        claims_of_debts = Debts(self.database, self.caller, get_settings(), utc_now)
        works = (self._refunds().run, claims_of_debts.run, self._payouts().run)
        leases = (settling.DUE, debts.DUE, carrying_out.DUE)
        return self._when_due([due.next_at for due in leases], *works)

    @events_handler(PersonMoved)
    def take_over(self, session: Session, events: Sequence[PersonMoved]) -> None:
        """What ran in the old system."""
        moving.take_over(session, utc_now(), events, get_settings())

    @event_handler(PersonMovedBack)
    def give_up(self, session: Session, event: PersonMovedBack) -> None:
        moving.give_up(session, utc_now, event, get_settings())

    @event_handler(StakingDiscountChanged)
    def note_discount(self, session: Session, event: StakingDiscountChanged) -> None:
        """What staking takes off what is bought from now on."""
        discounts.note(session, event)

    @event_handler(ProductPriceChanged)
    def note_price(self, session: Session, event: ProductPriceChanged) -> None:
        prices.note(session, utc_now(), event)

    @timer(interval_s=SWEEP_INTERVAL_S, asleep_s=ASLEEP_S)
    def tell_prices(self) -> datetime | None:
        """Owners of what costs something else by now hear of it."""
        is_due = True
        while is_due:
            with self.database.begin() as session:
                is_due = prices.tell_some(session, utc_now, get_settings())
        with self.database.read() as session:
            return prices.next_at(session)

    @timer(interval_s=SWEEP_INTERVAL_S, asleep_s=ASLEEP_S)
    def watch_runways(self) -> datetime | None:
        """Who is to be warned before credits run out."""
        work = Lookout(self.database, self.caller, get_settings(), utc_now)
        return self._when_due([runways.DUE.next_at], work.run)

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        forget(self.database, utc_now(), retention.kept(get_settings()))

    def _when_due(
        self,
        looks: Sequence[Callable[[Session], datetime | None]],
        *works: Callable[[], None],
    ) -> datetime | None:
        """Do the works if something is due by now; otherwise, when something is next."""
        with self.database.read() as session:
            moments = [look(session) for look in looks]
        next_at = min((moment for moment in moments if moment is not None), default=None)
        if next_at is None or next_at > utc_now():
            return next_at
        for work in works:
            work()
        return None

    def _try_again(self, session: Session, user_id: UUID) -> None:
        now, checkout = utc_now(), self._checkout()
        owed = claims.mark_owed(session, now, user_id)
        first = claims.take_first(owed, now, checkout.rules.claim_lease)
        if first is not None:
            after_commit(session, partial(checkout.settle_user, user_id, first, len(owed) > 1))
        session.flush()
        crash_point("billing.credit_heard")

    def _refunded(self, refund_id: UUID, user_id: UUID, purchase_id: UUID) -> Purchase:
        """The purchase with what came back of it by now; the rest comes by itself."""
        crash_point("billing.refund_recorded")
        self._refunds().try_to_settle(refund_id)
        with self.database.read() as session:
            question = GetPurchase(user_id=user_id, purchase_id=purchase_id)
            return get_purchase(session, question, get_settings())

    def _payouts(self) -> Payouts:
        return Payouts(self.database, self.caller, get_settings(), utc_now)

    def _refunds(self) -> Refunds:
        return Refunds(self.database, self.caller, get_settings(), utc_now)

    def _renewals(self) -> Renewals:
        return Renewals(self.database, self.caller, get_settings(), utc_now)

    def _checkout(self) -> Checkout:
        return _checkout_over(self.database, self.caller)


@functools.cache
def _checkout_over(database: Connected, rpc: RpcClient) -> Checkout:
    """One for all workers, who do together what they ask for at the same moment."""
    return Checkout(database, rpc, get_settings(), utc_now)
