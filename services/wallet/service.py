"""The wallet's entrypoints: commands go to the committer, questions to the database."""

from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.deferred import Deferred
from chassis.events import event_handler
from chassis.health import Health
from chassis.outbox import OutboxRelay
from chassis.retention import FORGET_EVERY_S, forget, messages
from chassis.rpc import rpc
from chassis.service_database import Database
from chassis.timer import timer
from contracts.errors import Conflict
from contracts.topup import AutoTopupSettingsChanged, TopupPaid, TopupRestored, TopupReversed
from contracts.wallet import (
    Adjust,
    Affordability,
    BalanceAt,
    BatchOutcome,
    Capture,
    CheckAffordability,
    ClosedKey,
    CloseKey,
    Credit,
    CreditPage,
    Debit,
    DebitAll,
    DebitOutcomes,
    Export,
    ExportPage,
    Freeze,
    GetByKey,
    GetLevel,
    GetTransaction,
    GetWallet,
    GetWallets,
    Hold,
    KeyOutcome,
    Level,
    ListCredits,
    OpenAccount,
    PastBalance,
    PlaceHold,
    PostBatch,
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
    Verdict,
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
    verification,
)
from services.wallet.book import accounts, keys
from services.wallet.committer import Committer
from services.wallet.settings import get_settings


class WalletService:
    name = "wallet"
    database = Database()
    relay = OutboxRelay()
    committer = Committer()
    health = Health()

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
        return batches.post(self.committer.submit_all, request)

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
        return Wallets(wallets=[account.wallet() for account in found.values()])

    @rpc
    def check_affordability(self, request: CheckAffordability) -> Affordability:
        with self.database.read() as session:
            return statements.check_affordability(session, request)

    @rpc
    def statement(self, request: Statement) -> StatementPage:
        with self.database.read() as session:
            return statements.statement(session, request)

    @rpc
    def get_transaction(self, request: GetTransaction) -> Transaction:
        with self.database.read() as session:
            return statements.get_transaction(session, request.user_id, request.transaction_id)

    @rpc
    def balance_at(self, request: BalanceAt) -> PastBalance:
        with self.database.read() as session:
            return statements.balance_at(session, request)

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
    def totals(self, request: Totals) -> TotalsReport:
        with self.database.read() as session:
            return totals.report(session, request)

    @rpc
    def verify(self, _request: Verify) -> Verdict:
        with self.database.exclusively("wallet.verification") as is_ours:
            if not is_ours:
                raise Conflict("A verification is running already. Ask again when it has ended.")
            return verification.verify(self.database)

    @event_handler(TopupPaid)
    def credit_topup(self, session: Session, event: TopupPaid) -> None:
        topup_events.credit(session, utc_now(), event)

    @event_handler(TopupReversed)
    def take_back_topup(self, session: Session, event: TopupReversed) -> None:
        topup_events.take_back(session, utc_now(), event)

    @event_handler(TopupRestored)
    def restore_topup(self, session: Session, event: TopupRestored) -> None:
        topup_events.restore(session, utc_now(), event)

    @event_handler(AutoTopupSettingsChanged)
    def arm_auto_topup(self, session: Session, event: AutoTopupSettingsChanged) -> None:
        topup_events.arm_level(session, utc_now(), event)

    @timer(interval_s=5)
    def expire_holds(self) -> None:
        expiry.sweep(self.database, utc_now())

    @timer(interval_s=5)
    def seal_chain(self) -> None:
        chain.seal(self.database)

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        """Nothing of the ledger, whose keys are good for ever."""
        forget(self.database, utc_now(), messages(get_settings()))
