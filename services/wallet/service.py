"""The wallet's entrypoints: commands go to the committer, questions to the database."""

from sqlalchemy.orm import Session

from chassis import operated
from chassis.clock import utc_now
from chassis.deferred import Deferred
from chassis.events import event_handler
from chassis.health import Health
from chassis.outbox import OutboxRelay
from chassis.retention import FORGET_EVERY_S, forget, messages
from chassis.rpc import rpc
from chassis.service_database import Database
from chassis.timer import timer
from contracts.topup import (
    AutoTopupSettingsChanged,
    CardRefundRefused,
    TopupPaid,
    TopupRestored,
    TopupReversed,
)
from contracts.wallet import (
    Adjust,
    Adjustment,
    AdjustmentList,
    Affordability,
    AskVerification,
    BalanceAt,
    BatchOutcome,
    Books,
    Capture,
    CheckAffordability,
    ClosedKey,
    CloseKey,
    Credit,
    CreditPage,
    Debit,
    DebitAll,
    DebitOutcomes,
    DecideAdjustment,
    Export,
    ExportPage,
    Freeze,
    GetBooks,
    GetByKey,
    GetJournal,
    GetLevel,
    GetPromotions,
    GetTransaction,
    GetUnusedTopups,
    GetWallet,
    GetWallets,
    GivePromotion,
    Hold,
    Journal,
    KeyOutcome,
    Level,
    ListAdjustments,
    ListCredits,
    OpenAccount,
    PastBalance,
    PlaceHold,
    PostBatch,
    Promotion,
    Promotions,
    ProposeAdjustment,
    Refund,
    Reverse,
    SetLevel,
    Statement,
    StatementPage,
    StatusChange,
    Totals,
    TotalsReport,
    Transaction,
    Transfer,
    Unfreeze,
    UnusedTopups,
    Verdict,
    Verification,
    Verify,
    VoidHold,
    Wallet,
    Wallets,
)
from services.wallet import (
    batches,
    chain,
    expiry,
    export,
    inflows,
    statements,
    topup_events,
    totals,
    unused,
)
from services.wallet.book import accounts, keys
from services.wallet.committer import Committer
from services.wallet.finance import adjustments, books, promotions, verifying
from services.wallet.settings import get_settings


class WalletService(operated.Operated):
    name = "wallet"
    database = Database()
    relay = OutboxRelay()
    committer = Committer()
    health = Health(gauges=chain.GAUGES | verifying.GAUGES)

    @rpc
    def open_account(self, request: OpenAccount) -> Deferred[Wallet]:
        return self.committer.submit(request)

    @rpc
    def debit(self, request: Debit) -> Deferred[Transaction]:
        return self.committer.submit(request)

    @rpc
    def credit(self, request: Credit) -> Deferred[Transaction]:
        return self.committer.submit(request)

    @rpc
    def transfer(self, request: Transfer) -> Deferred[Transaction]:
        return self.committer.submit(request)

    @rpc
    def hold(self, request: PlaceHold) -> Deferred[Hold]:
        return self.committer.submit(request)

    @rpc
    def capture(self, request: Capture) -> Deferred[Transaction]:
        return self.committer.submit(request)

    @rpc
    def void(self, request: VoidHold) -> Deferred[Hold]:
        return self.committer.submit(request)

    @rpc
    def refund(self, request: Refund) -> Deferred[Transaction]:
        return self.committer.submit(request)

    @rpc
    def reverse(self, request: Reverse) -> Deferred[Transaction]:
        return self.committer.submit(request)

    @rpc
    def adjust(self, request: Adjust) -> Deferred[Transaction]:
        return self.committer.submit(request)

    @rpc
    def propose_adjustment(self, request: ProposeAdjustment) -> Adjustment:
        with self.database.begin() as session:
            return adjustments.propose(session, utc_now(), request)

    @rpc
    def decide_adjustment(self, request: DecideAdjustment) -> Adjustment:
        with self.database.begin() as session:
            return adjustments.decide(session, utc_now(), request)

    @rpc
    def give_promotion(self, request: GivePromotion) -> Promotion:
        max_micros = get_settings().promotion_max_micros
        with self.database.begin() as session:
            return promotions.give(session, utc_now(), request, max_micros)

    @rpc
    def freeze(self, request: Freeze) -> Deferred[StatusChange]:
        return self.committer.submit(request)

    @rpc
    def unfreeze(self, request: Unfreeze) -> Deferred[StatusChange]:
        return self.committer.submit(request)

    @rpc
    def close_key(self, request: CloseKey) -> Deferred[ClosedKey]:
        return self.committer.submit(request)

    @rpc
    def debit_all(self, request: DebitAll) -> DebitOutcomes:
        return batches.debit_all(self.committer.submit_all, request)

    @rpc
    def post_batch(self, request: PostBatch) -> BatchOutcome:
        return batches.post(self.committer.submit_all, request, self.committer.share)

    @rpc
    def set_level(self, request: SetLevel) -> Deferred[Level]:
        return self.committer.submit(request)

    @rpc
    def get_level(self, request: GetLevel) -> Level:
        with self.database.read() as session:
            return statements.get_level(session, request.user_id)

    @rpc
    def get_wallet(self, request: GetWallet) -> Wallet:
        wallet: Wallet = self.database.answer(statements.wallets, request.user_id)
        return wallet

    @rpc
    def get_wallets(self, request: GetWallets) -> Wallets:
        with self.database.read() as session:
            found = accounts.find_all(session, request.user_ids)
            expiring = promotions.expiring(session, found) if request.with_expiring else []
        return Wallets(wallets=[account.wallet() for account in found.values()], expiring=expiring)

    @rpc
    def check_affordability(self, request: CheckAffordability) -> Affordability:
        with self.database.read() as session:
            return statements.check_affordability(session, request)

    @rpc
    def statement(self, request: Statement) -> StatementPage:
        page: StatementPage = self.database.answer(statements.pages, request)
        if not request.with_promotions:
            return page
        found: Promotions = self.database.answer(promotions.of_users, request.user_id)
        return page.model_copy(update={"promotions": found.promotions})

    @rpc
    def get_transaction(self, request: GetTransaction) -> Transaction:
        with self.database.read() as session:
            return statements.get_transaction(session, request.user_id, request.transaction_id)

    @rpc
    def balance_at(self, request: BalanceAt) -> PastBalance:
        with self.database.read() as session:
            return statements.balance_at(session, request)

    @rpc
    def get_unused_topups(self, request: GetUnusedTopups) -> UnusedTopups:
        with self.database.read() as session:
            return unused.unused(session, request)

    @rpc
    def get_by_key(self, request: GetByKey) -> KeyOutcome:
        with self.database.read() as session:
            return keys.get_by_key(session, request.idempotency_key)

    @rpc
    def export(self, request: Export) -> ExportPage:
        with self.database.read() as session:
            return export.page(session, request)

    @rpc
    def list_credits(self, request: ListCredits) -> CreditPage:
        with self.database.read() as session:
            return inflows.page(session, request)

    @rpc
    def get_promotions(self, request: GetPromotions) -> Promotions:
        found: Promotions = self.database.answer(promotions.of_users, request.user_id)
        return found

    @rpc
    def list_adjustments(self, request: ListAdjustments) -> AdjustmentList:
        with self.database.read() as session:
            return adjustments.listing(session, utc_now(), request)

    @rpc
    def totals(self, request: Totals) -> TotalsReport:
        with self.database.read() as session:
            return totals.report(session, request)

    @rpc
    def verify(self, _request: Verify) -> Verdict:
        return verifying.now_and_here(self.database, utc_now)

    @rpc
    def ask_verification(self, request: AskVerification) -> Verification:
        with self.database.begin() as session:
            return verifying.ask(session, utc_now(), request)

    @rpc
    def get_books(self, _request: GetBooks) -> Books:
        with self.database.snapshot() as session:
            return books.books(session, utc_now())

    @rpc
    def get_journal(self, request: GetJournal) -> Journal:
        with self.database.snapshot() as session:
            return books.journal(session, request)

    @event_handler(TopupPaid)
    def credit_topup(self, session: Session, event: TopupPaid) -> None:
        topup_events.credit(session, utc_now(), event)

    @event_handler(TopupReversed)
    def take_back_topup(self, session: Session, event: TopupReversed) -> None:
        topup_events.take_back(session, utc_now(), event)

    @event_handler(TopupRestored)
    def restore_topup(self, session: Session, event: TopupRestored) -> None:
        topup_events.restore(session, utc_now(), event)

    @event_handler(CardRefundRefused)
    def release_card_refund(self, session: Session, event: CardRefundRefused) -> None:
        topup_events.release(session, utc_now(), event)

    @event_handler(AutoTopupSettingsChanged)
    def arm_auto_topup(self, session: Session, event: AutoTopupSettingsChanged) -> None:
        topup_events.arm_level(session, utc_now(), event)

    @timer(interval_s=5)
    def expire_holds(self) -> None:
        expiry.sweep(self.database, utc_now())

    @timer(interval_s=5)
    def end_promotions(self) -> None:
        promotions.sweep(self.database, utc_now())

    @timer(interval_s=5)
    def verify_ledger(self) -> None:
        verifying.tick(self.database, utc_now)

    @timer(interval_s=5)
    def seal_chain(self) -> None:
        chain.seal(self.database)

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        """Nothing of the ledger, whose keys are good for ever."""
        forget(self.database, utc_now(), messages(get_settings()))
