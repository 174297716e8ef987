"""Carrying a purchase from its start to its end, over the catalog and the wallet.

Before each effect elsewhere, what is going to be done stands in the database; after it,
the outcome does. Each effect has a key made from the purchase, so that doing it again
changes nothing. A crash between any two lines is therefore resumed by :meth:`Checkout.sweep`
with the same calls::

    recorded ─▶ stock reserved ─▶ wallet debited ─▶ completed
                                └▶ too little ────▶ awaiting funds ─▶ (money came) ─▶ again
    closing marked ─▶ wallet's key closed ─▶ cancelled, expired or failed ─▶ stock put back

Money that comes is offered to a user's waiting purchases oldest first. One that it does
not cover keeps waiting and blocks none behind it that it does cover: the person wants both,
and a large one would otherwise hold up everything they pay for by hand. The shortfall that
is published counts all of them, so that one top-up can pay for all.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from uuid import UUID

from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected, is_lost
from chassis.locks import locked
from chassis.together import Alone, Together
from contracts.billing import (
    CancelPurchase,
    Purchase,
    PurchaseStatus,
    StartPurchase,
)
from contracts.catalog import HoldStock, ReleaseStock, ReserveStock
from contracts.errors import (
    AccountFrozen,
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    InsufficientFunds,
    KeyClosed,
    NotFound,
    OutOfStock,
    ServiceError,
    Unavailable,
)
from contracts.keys import purchase_key
from contracts.wallet import CloseKey
from services.billing.models import PurchaseRow
from services.billing.purchases import claims, lifecycle, stock
from services.billing.purchases.calls import Calls
from services.billing.purchases.claims import Claim
from services.billing.purchases.first_tries import FirstTries, debit_of, is_stocked, quote_lines
from services.billing.purchases.lifecycle import Paid
from services.billing.purchases.queries import as_purchase, own_purchase
from services.billing.purchases.replays import find_replay
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

SWEEP_MAX = 200
"""How many purchases one sweep takes up; the rest is for the next one."""

EXPIRY_GRACE = timedelta(hours=1)
"""How long past its time a purchase is still tried when a try is owed, after an outage for
example. Past that it ends, whatever keeps its tries from coming to an end."""

TRIES_IN_A_ROW_MAX = 5

OUT_OF_STOCK = "out_of_stock"
ACCOUNT_FROZEN = "account_frozen"
NOT_CHARGED = "You were not charged for it; credits that you bought stay in your wallet."


@dataclass(frozen=True)
class Checkout:
    """What it takes to carry purchases through: a database, the other services, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Clock

    def start(self, command: StartPurchase) -> Purchase:
        """Buy; see :class:`contracts.billing.StartPurchase` for the errors.

        A purchase whose outcome is not known yet is returned ``pending``.
        """
        try:
            begun = self._first_tries.begin(command)
        except ServiceError:
            # A retry gets the first answer, whatever the catalog says by now.
            known = self._replay(command)
            if known is None:
                raise
            return self._answer(known, replayed=True)
        row = self._settle_first(begun) if isinstance(begun, Claim) else begun
        row = row or self._replay(command)
        if row is None:
            raise ServiceError("The purchase was not recorded. Nothing was bought; try again.")
        return self._answer(row, replayed=begun is None)

    def cancel(self, command: CancelPurchase) -> Purchase:
        """Give up a purchase that waits. Cancelling a cancelled one returns it.

        Raises ``NotFound``, ``Conflict`` when it is paid or has ended otherwise,
        ``Unavailable`` or ``DeadlineExceeded`` when the wallet does not answer: the wish is
        stored then, and the sweeper sees to it.
        """
        with self.database.begin() as session:
            row = own_purchase(session, command.user_id, command.purchase_id, locked=True)
            if row.status == PurchaseStatus.CANCELLED:
                return as_purchase(row, self.rules, replayed=True)
            lifecycle.begin_closing(
                self.clock(),
                row,
                PurchaseStatus.CANCELLED,
                "cancelled_by_buyer",
                f"You cancelled this purchase. {NOT_CHARGED}",
            )
        crash_point("billing.closing_marked")
        row = self._close_key(command.purchase_id)
        if row.status == PurchaseStatus.COMPLETED:
            raise Conflict("This purchase was paid in the meantime, and is complete.")
        return as_purchase(row, self.rules)

    def settle_user(self, user_id: UUID, first: Claim, are_more: bool) -> None:
        """Money came: try the user's waiting purchases, oldest first; that is claimed already."""
        crash_point("billing.resuming")
        if not self.settle(first) or not are_more:
            return
        with self.database.read() as session:
            owed = claims.owed_purchases(session, user_id)
        for purchase_id in owed:
            with self.database.begin() as session:
                now = self.clock()
                claimed = claims.claim(session, now, self.rules.claim_lease, purchase_id)
            if claimed is not None and not self.settle(claimed):
                return

    def sweep(self) -> None:
        """Take up whatever is due: what a crash left, what is to be tried again, what expires.

        A purchase that fails, as when somebody holds its row, keeps none behind it: it is taken
        up again when its claim has run out.
        """
        for _ in range(SWEEP_MAX):
            with self.database.begin() as session:
                claimed = claims.claim_next(session, self.clock(), self.rules.claim_lease)
            if claimed is None:
                break
            try:
                if not self.settle(claimed):
                    break
            except Exception as error:
                if is_lost(error):
                    raise
                log.exception("a purchase was not settled", extra={"id": str(claimed.purchase_id)})
        self.release_stock()

    def settle(self, claimed: Claim) -> bool:
        """Do what a claimed purchase needs, and give the claim back.

        False when another service did not answer: it is taken up again later, and so is
        everything else that would only run into the same wall now.
        """
        try:
            self._settle(claimed)
        except ServiceError as error:
            self._postpone(claimed, error)
            return not isinstance(error, DeadlineExceeded | Unavailable)
        return True

    def release_stock(self) -> None:
        """Tell the catalog what to put back; what it does not hear stays for the next time."""
        with self.database.read() as session:
            waiting = stock.to_release(session)
        for reservation_id in waiting:
            try:
                self.rpc.call(
                    ReleaseStock(reservation_id=reservation_id),
                    timeout_s=self.rules.call_timeout_s,
                )
            except ServiceError as error:
                log.warning("stock could not be put back yet", extra={"error": str(error)})
                return
            crash_point("billing.stock_released")
            with self.database.begin() as session:
                stock.released(session, reservation_id)

    def _answer(self, row: PurchaseRow, *, replayed: bool) -> Purchase:
        """The reply to a buyer, or the error that this purchase ended with."""
        if row.status == PurchaseStatus.FAILED:
            if row.status_code == OUT_OF_STOCK:
                raise OutOfStock(row.status_reason, str(row.lines[0].product_id))
            if row.status_code == ACCOUNT_FROZEN:
                raise AccountFrozen(row.status_reason)
        return as_purchase(row, self.rules, replayed=replayed)

    @cached_property
    def _first_tries(self) -> FirstTries:
        return FirstTries(
            self.database, self._calls, self.rules, self.clock, self._complete_together
        )

    @cached_property
    def _calls(self) -> Calls:
        return Calls(self.rpc, self.rules.call_timeout_s)

    def _replay(self, command: StartPurchase) -> PurchaseRow | None:
        with self.database.read() as session:
            return find_replay(session, command)

    def _settle_first(self, claimed: Claim) -> PurchaseRow | None:
        """Settle a purchase that was just recorded; its row if it is complete now."""
        try:
            return self._settle(claimed)
        except ServiceError as error:
            self._postpone(claimed, error)
            return None

    def _settle(self, claimed: Claim) -> PurchaseRow | None:
        """The row, where it was completed here."""
        row = claimed.row
        now = self.clock()
        if row.closing_status is not None:
            self._close_key(claimed.purchase_id)
        elif claimed.is_try_owed and now < row.expires_at + EXPIRY_GRACE:
            return self._pay(claimed)
        elif row.expires_at <= now:
            self._close(
                claimed,
                PurchaseStatus.EXPIRED,
                "expired",
                f"The money for this purchase did not come in time. {NOT_CHARGED}",
            )
        else:
            self._end_stock_hold(claimed)
        return None

    def _pay(self, claimed: Claim) -> PurchaseRow | None:
        """Reserve, debit, record; again if money came during a try that fell short."""
        for _ in range(TRIES_IN_A_ROW_MAX):
            row, money_came = self._try_to_pay(claimed)
            if not money_came:
                return row
            with self.database.begin() as session:
                again = claims.claim(
                    session, self.clock(), self.rules.claim_lease, claimed.purchase_id
                )
            if again is None:
                return None
            claimed = again
        return None

    def _try_to_pay(self, claimed: Claim) -> tuple[PurchaseRow | None, bool]:
        """One try: the row where it is complete, and whether money came while it fell short."""
        row = claimed.row
        asked_at = claimed.asked_at or self.clock()
        try:
            if claimed.refusal is not None:
                raise claimed.refusal
            if not row.may_hold_stock:
                # Who has no money takes no stock, not even for the length of a try. The debit
                # is rehearsed under its own key: if it was made before a crash, it says so.
                self._debit(row, dry_run=True)
            self._reserve_stock(claimed)
            crash_point("billing.stock_reserved")
            transaction_id = self._debit(row)
        except OutOfStock:
            self._close(
                claimed,
                PurchaseStatus.FAILED,
                OUT_OF_STOCK,
                f"{lifecycle.describe(row.lines)} is no longer available. {NOT_CHARGED}",
            )
        except InsufficientFunds as refusal:
            # Never so much that the purchase would not be short.
            available_micros = min(refusal.available_micros, row.total_micros - 1)
            return None, self._wait_for_funds(claimed, available_micros, asked_at)
        except NotFound:
            # A user without a wallet has no money yet; the first credit opens one.
            return None, self._wait_for_funds(claimed, 0, asked_at)
        except AccountFrozen as refusal:
            self._close(claimed, PurchaseStatus.FAILED, ACCOUNT_FROZEN, str(refusal))
        except (KeyClosed, IdempotencyConflict) as refusal:
            # A cancellation came first. Closing the key again tells whether the money was taken.
            log.warning("a purchase's key is closed or taken", extra={"error": str(refusal)})
            self._close(claimed, PurchaseStatus.FAILED, refusal.code, NOT_CHARGED)
        else:
            crash_point("billing.wallet_debited")
            was_held = row.stock_held_until is not None
            completed = self._completions.do(Paid(row, transaction_id))
            if was_held:
                self._tell_hold(row, None)
            return completed, False
        return None, False

    def _reserve_stock(self, claimed: Claim) -> None:
        row = claimed.row
        if claimed.is_new and not is_stocked(row):
            # The catalog has just said that there is no end to it, and would take nothing.
            return
        if row.stock_held_until is not None and row.stock_held_until > self.clock():
            # An earlier try reserved it, and only who holds the claim may let it go.
            return
        request = ReserveStock(reservation_id=row.reservation_id, lines=quote_lines(row.lines))
        try:
            self.rpc.call(request, timeout_s=self.rules.call_timeout_s)
        except NotFound as gone:
            raise OutOfStock(str(gone)) from None

    def _debit(self, row: PurchaseRow, *, dry_run: bool = False) -> UUID | None:
        if row.total_micros == 0:
            return None
        debit = debit_of(row, dry_run=dry_run)
        if dry_run:
            return self.rpc.call(debit, timeout_s=self.rules.call_timeout_s).transaction_id
        return self._calls.debit(debit).transaction_id

    @cached_property
    def _completions(self) -> Together[Paid, PurchaseRow]:
        return Together(
            self._complete_together,
            lambda paid: self._complete(paid.row.purchase_id, paid.transaction_id),
        )

    def _complete(self, purchase_id: UUID, transaction_id: UUID | None) -> PurchaseRow:
        with self.database.begin() as session:
            row = lifecycle.complete(session, self.clock(), purchase_id, transaction_id, self.rules)
            session.flush()
            crash_point("billing.completing")
        crash_point("billing.completed")
        return row

    def _complete_together(self, paid: Sequence[Paid]) -> list[PurchaseRow | Alone]:
        with self.database.begin() as session:
            rows = lifecycle.complete_together(session, self.clock(), paid, self.rules)
            crash_point("billing.completing")
        crash_point("billing.completed")
        return rows

    def _wait_for_funds(self, claimed: Claim, available_micros: int, asked_at: datetime) -> bool:
        with self.database.begin() as session:
            money_came = lifecycle.wait_for_funds(
                session, self.clock(), claimed, available_micros, asked_at, self.rules
            )
        crash_point("billing.awaiting_funds")
        self.release_stock()
        if claimed.row.may_hold_stock and is_stocked(claimed.row):
            with self.database.read() as session:
                row = session.get_one(PurchaseRow, claimed.purchase_id)
            if row.status == PurchaseStatus.AWAITING_FUNDS and row.stock_held_until is not None:
                self._tell_hold(row, row.stock_held_until)
        return money_came

    def _tell_hold(self, row: PurchaseRow, until: datetime | None) -> None:
        """Tell the catalog until when stock is set aside for this purchase, or that it is sold.

        Nothing hangs on it but what who looks at the product is told: what the catalog does not
        hear is not said again.
        """
        if not is_stocked(row):
            return
        try:
            self.rpc.call(
                HoldStock(reservation_id=row.reservation_id, until=until),
                timeout_s=self.rules.call_timeout_s,
            )
        except ServiceError as error:
            log.warning("the catalog did not hear what is held", extra={"error": str(error)})

    def _close(self, claimed: Claim, to: PurchaseStatus, code: str, reason: str) -> None:
        """End a claimed purchase without a payment, and for good."""
        with self.database.begin() as session:
            row = locked(session, PurchaseRow, claimed.purchase_id)
            lifecycle.begin_closing(self.clock(), row, to, code, reason)
        crash_point("billing.closing_marked")
        self._close_key(claimed.purchase_id)

    def _close_key(self, purchase_id: UUID) -> PurchaseRow:
        """Close the wallet's key, so that a late debit does nothing; then end the purchase.

        If it turns out that the money was taken, the purchase is completed instead.
        """
        found = self.rpc.call(
            CloseKey(idempotency_key=purchase_key(purchase_id)),
            timeout_s=self.rules.call_timeout_s,
        )
        crash_point("billing.key_closed")
        if found.transaction is not None:
            return self._complete(purchase_id, found.transaction.transaction_id)
        with self.database.begin() as session:
            row = lifecycle.end_unpaid(session, self.clock(), purchase_id)
        crash_point("billing.ended")
        self.release_stock()
        return row

    def _end_stock_hold(self, claimed: Claim) -> None:
        """Stock was held long enough for somebody who has not paid."""
        with self.database.begin() as session:
            lifecycle.end_stock_hold(session, self.clock(), claimed)
        self.release_stock()

    def _postpone(self, claimed: Claim, error: ServiceError) -> None:
        log.warning(
            "a purchase has to wait for another service",
            extra={"purchase_id": str(claimed.purchase_id), "error": f"{error.code}: {error}"},
        )
        with self.database.begin() as session:
            claims.postpone(session, self.clock(), claimed)
