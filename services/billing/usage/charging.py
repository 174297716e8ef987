"""Charging usage: once an hour for each wallet, in one transaction, with a line for each meter.

::

    leased, charge written down ─▶ wallet asked ─▶ paid
                                                └▶ too little: it stays due, and the ladder begins
    not paid, and corrected since ─▶ its key is closed ─▶ written anew, or paid before

A charge holds the difference between what the totals cost by now and what stands in charges
already; both are moved on together, and only then the wallet hears of it, under a key that names
the charge. A wallet has one unpaid charge at most: whatever crashes, repeats or runs beside it,
everything is charged once. Where corrections exceed what was used since, the difference is paid
back: see :mod:`services.billing.usage.paying_back`.

What was leased goes together, in a few statements (:mod:`services.billing.usage.charges`), which
wait for nobody: what somebody holds goes by itself after them.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected, is_lost
from chassis.leases import Leases
from chassis.locks import for_update
from contracts.errors import NO_ANSWER_CODES, ServiceError
from contracts.keys import usage_key
from contracts.wallet import ClosedKey, CloseKey, Debit, DebitAll, DebitResult, Transaction
from services.billing.deployments import shortages
from services.billing.deployments.available import Settled, settled
from services.billing.deployments.charge_limit import usage_beyond_limit
from services.billing.deployments.ladder import NO_MONEY
from services.billing.models import UsageChargeRow, UsageWalletRow
from services.billing.settings import BillingSettings
from services.billing.usage import charges, shortage

log = logging.getLogger(__name__)

ROUNDS_MAX = 50

AT_ONCE = 400
"""How many wallets one call is about."""

DUE = Leases(
    due_at=UsageWalletRow.due_at,
    owner=UsageWalletRow.user_id,
    lease=timedelta(seconds=60),
    limit=AT_ONCE,
)


SettleMonths = Callable[[Collection[UUID], datetime], set[UUID]]
"""Asks for the months of users that are due, and tells nobody: whoever asked for something else of
theirs then does. Whose there were. Raises ``ServiceError``."""


@dataclass(frozen=True)
class UsageCharges:
    """What it takes to charge usage: a database, the wallet, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Clock
    settle_months: SettleMonths

    def run(self) -> None:
        """Charge every wallet that is due."""
        for taken in DUE.rounds(self.database, self.clock, ROUNDS_MAX):
            self._write(taken)
            try:
                self._ask_wallet(taken)
            except ServiceError as error:
                log.warning("the wallet did not answer", extra={"error": f"{error.code}: {error}"})
                return

    def settle(self, user_ids: Collection[UUID], teller_at: datetime) -> set[UUID]:
        """Ask for what these users used, as far as that is due, and whose that is. They are told of
        nothing by this, but by who asked for something else of theirs then. Raises
        ``ServiceError``."""
        with self.database.read() as session:
            due = _due_of(session, self.clock(), user_ids)
        if due:
            self._write(due)
            self._ask_wallet(due, teller_at)
        return set(due)

    def _write(self, user_ids: Collection[UUID]) -> None:
        self._together(
            user_ids,
            partial(self._prepare, skip_locked=True),
            lambda session, each: self._prepare(session, [each], skip_locked=False),
        )

    def _prepare(
        self, session: Session, user_ids: Collection[UUID], *, skip_locked: bool
    ) -> set[UUID]:
        """Write down what these wallets are to pay; what is written already is paid first. Whose
        that was done for."""
        held = session.scalars(
            for_update(
                select(UsageWalletRow)
                .where(UsageWalletRow.user_id.in_(user_ids))
                .order_by(UsageWalletRow.user_id),
                skip_locked=skip_locked,
            )
        )
        wallets = {wallet.user_id: wallet for wallet in held}
        unpaid = _unpaid(session, wallets)
        asked = [charge.charge_id for charge in unpaid if charge.closing_since is None]
        corrected = charges.corrected(session, asked)
        now = self.clock()
        for charge in unpaid:
            if charge.charge_id in corrected:
                charge.closing_since = now
        owing = {charge.user_id for charge in unpaid}
        beyond = usage_beyond_limit(session, now, wallets.keys() - owing, self.rules)
        for user_id in beyond:
            wallets[user_id].due_at = now + self.rules.renewal_retry
        others = [wallet for wallet in wallets.values() if wallet.user_id not in owing | beyond]
        return owing | beyond | charges.write(session, now, others, skip_locked=skip_locked)

    def _ask_wallet(self, user_ids: Sequence[UUID], teller_at: datetime | None = None) -> None:
        """Raises ``ServiceError`` when the wallet did not answer about the debits: what is due
        stays due. ``teller_at``: nobody is told by this what they lack, but by who asked then."""
        with self.database.read() as session:
            was_due = _due_at(session, user_ids)
            unpaid = _unpaid(session, user_ids)
            asked = [charge for charge in unpaid if charge.closing_since is None]
            debits = charges.debits(session, asked)
        # Money of which it was known by then came before this.
        asked_at = self.clock()
        crash_point("billing.usage_written")
        if debits:
            self._debit_all(asked, debits, asked_at, was_due, teller_at)
        closing = [each.charge_id for each in unpaid if each.closing_since is not None]
        found = {each: closed for each in closing if (closed := self._closed(each)) is not None}
        crash_point("billing.usage_closed")
        self._each(found, lambda session, each: self._replace(session, each, found[each]))

    def _closed(self, charge_id: UUID) -> ClosedKey | None:
        """None where the wallet did not close its key: it is left to its lease."""
        try:
            return self.rpc.call(CloseKey(idempotency_key=usage_key(charge_id)))
        except ServiceError as error:
            log.warning(
                "a charge for usage has to wait",
                extra={"id": str(charge_id), "error": f"{error.code}: {error}"},
            )
            return None

    def _debit_all(
        self,
        asked: Sequence[UsageChargeRow],
        debits: Mapping[UUID, Debit],
        asked_at: datetime,
        was_due: Mapping[UUID, datetime | None],
        teller_at: datetime | None,
    ) -> None:
        outcomes = self.rpc.call(DebitAll(debits=list(debits.values())))
        crash_point("billing.usage_charged")
        answers = dict(zip(debits, outcomes.results, strict=True))
        news = [] if teller_at else [each for each in asked if _may_be_news(each, answers)]
        found = None
        try:
            if teller_at is None:
                found = self._settle_others(news, asked_at)
        except ServiceError as error:
            log.warning("the wallet did not answer", extra={"error": f"{error.code}: {error}"})
        for each in news:
            # What is told is all that is due, or nothing; and nobody is told of a shortage that
            # money has ended meanwhile. They are asked again.
            if found is None or found.is_overtaken(each.user_id, answers[each.charge_id].error):
                del answers[each.charge_id]

        def record(session: Session, charge_id: UUID) -> None:
            answer, as_of = answers[charge_id], teller_at or asked_at
            self._record(session, charge_id, answer, as_of, was_due, found)

        paid_by = {
            each: answer.transaction for each, answer in answers.items() if answer.transaction
        }
        self._together(paid_by, partial(self._paid_together, paid_by), record)
        self._each([each for each in answers if each not in paid_by], record)
        crash_point("billing.usage_settled")

    def _settle_others(self, news: Sequence[UsageChargeRow], asked_at: datetime) -> Settled:
        """Settle the months of those who may have to be told that they lack money, as where a
        month is refused first: see :mod:`services.billing.renewals.renewals`."""
        user_ids = {charge.user_id for charge in news}
        return settled(self.rpc, self.settle_months(user_ids, asked_at) if user_ids else ())

    def _paid_together(
        self, paid_by: Mapping[UUID, Transaction], session: Session, charge_ids: Collection[UUID]
    ) -> set[UUID]:
        """Record that these are paid, but for what somebody holds, and what ends a shortage. Which
        those are."""
        held = [charge for _, charge in _held(session, charge_ids, skip_locked=True)]
        short = shortage.waiting(session, [charge.charge_id for charge in held])
        simply = [
            charge
            for charge in held
            if charge.charge_id not in short and not shortages.is_part(charge)
        ]
        charges.record_paid(session, self.clock(), simply, paid_by)
        return {charge.charge_id for charge in simply}

    def _record(
        self,
        session: Session,
        charge_id: UUID,
        answer: DebitResult,
        asked_at: datetime,
        was_due: Mapping[UUID, datetime | None],
        found: Settled | None,
    ) -> None:
        held = _held(session, [charge_id])
        if not held:
            return
        now, [(wallet, charge)] = self.clock(), held
        if answer.transaction is not None:
            self._paid(session, now, charge, answer.transaction)
            return
        if wallet.due_at != was_due[wallet.user_id]:
            # Money came meanwhile: what was refused before is no news, and it is asked again.
            return
        if answer.error is not None and answer.error.code in NO_ANSWER_CODES:
            # Nothing was decided: it is left to its lease.
            return
        wallet.due_at = now + self.rules.renewal_retry
        if answer.error is not None and answer.error.code in NO_MONEY:
            shortage.begin(session, self.clock, charge, answer.error, self.rules, asked_at, found)
        elif answer.error is not None:
            log.error(
                "the wallet does not do what a charge for usage needs",
                extra={"user_id": str(charge.user_id), "error": answer.error.message},
            )

    def _paid(
        self, session: Session, now: datetime, charge: UsageChargeRow, paid_by: Transaction
    ) -> None:
        charges.record_paid(session, now, [charge], {charge.charge_id: paid_by})
        self._ended(session, now, charge)

    def _replace(self, session: Session, charge_id: UUID, found: ClosedKey) -> None:
        """Nobody pays it any more: what it was for is uncharged again, and charged as it is by
        now. What was paid before counts."""
        held = _held(session, [charge_id])
        if not held:
            return
        now, [(wallet, charge)] = self.clock(), held
        if found.transaction is not None:
            self._paid(session, now, charge, found.transaction)
            return
        self._ended(session, now, charge)
        charges.take_back(session, charge)
        wallet.due_at = now

    def _ended(self, session: Session, now: datetime, charge: UsageChargeRow) -> None:
        shortage.end(session, now, charge, self.rules)
        if shortages.is_part(charge):
            shortages.tell_less(session, now, charge.user_id)

    def _together(
        self,
        ids: Collection[UUID],
        act: Callable[[Session, Collection[UUID]], set[UUID]],
        act_alone: Callable[[Session, UUID], object],
    ) -> None:
        """Do something with all of them, waiting for nobody; with what that leaves, and with all
        where it fails, each by itself."""
        try:
            with self.database.begin() as session:
                done = act(session, ids)
        except Exception as error:
            if is_lost(error):
                raise
            log.warning("usage of wallets is dealt with one by one", exc_info=True)
            done = set()
        self._each([each for each in ids if each not in done], act_alone)

    def _each(self, ids: Iterable[UUID], act: Callable[[Session, UUID], object]) -> None:
        """Do something with each of them; one that fails is left to its lease."""
        for each in ids:
            try:
                with self.database.begin() as session:
                    act(session, each)
            except Exception as error:
                if is_lost(error):
                    raise
                log.exception("usage of a wallet is left out", extra={"id": str(each)})


def _may_be_news(charge: UsageChargeRow, answers: Mapping[UUID, DebitResult]) -> bool:
    """Whether its owner may have to be told that the wallet does not pay it."""
    error = answers[charge.charge_id].error
    is_new = charge.told_at is None or charge.money_came_at is not None
    return error is not None and error.code in NO_MONEY and is_new


AWAITS_MONEY = "EXISTS (SELECT FROM usage_charges WHERE user_id = new.user_id AND paid_at IS NULL)"
"""Whether :func:`money_came` would find any, as SQL over users named ``new``."""


def money_came(session: Session, now: datetime, user_id: UUID) -> None:
    """What this user's wallet did not pay is to be tried again at once, and told again where
    something else took the money first."""
    is_unpaid = (UsageChargeRow.user_id == user_id, UsageChargeRow.paid_at.is_(None))
    waits = select(UsageChargeRow.user_id).where(*is_unpaid)
    session.execute(
        update(UsageWalletRow)
        .where(UsageWalletRow.user_id == user_id, UsageWalletRow.user_id.in_(waits))
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(UsageChargeRow)
        .where(*is_unpaid)
        .values(money_came_at=now)
        .execution_options(synchronize_session=False)
    )


def _held(
    session: Session, charge_ids: Collection[UUID], *, skip_locked: bool = False
) -> list[tuple[UsageWalletRow, UsageChargeRow]]:
    """Those of these charges that are not paid, with their wallets; the others somebody has dealt
    with."""
    wallet, charge = UsageWalletRow, UsageChargeRow
    whose = select(charge.user_id).where(charge.charge_id.in_(charge_ids))
    held = session.scalars(
        for_update(
            select(wallet).where(wallet.user_id.in_(whose)).order_by(wallet.user_id),
            skip_locked=skip_locked,
        )
    )
    wallets = {row.user_id: row for row in held}
    unpaid = session.scalars(
        for_update(
            select(charge)
            .where(
                charge.charge_id.in_(charge_ids),
                charge.user_id.in_(wallets),
                charge.paid_at.is_(None),
            )
            .order_by(charge.charge_id),
            skip_locked=skip_locked,
        )
    )
    return [(wallets[row.user_id], row) for row in unpaid]


def _due_of(session: Session, now: datetime, user_ids: Collection[UUID]) -> list[UUID]:
    """Those of these users whose hour is over, or who have not paid for one, whoever is about to
    ask for it: who leased it and has not written a charge, or died before that, has it until the
    end of a lease. What is due sooner than that is asked for with it."""
    wallet, charge = UsageWalletRow, UsageChargeRow
    owes = select(charge.user_id).where(charge.user_id.in_(user_ids), charge.paid_at.is_(None))
    query = select(wallet.user_id).where(
        wallet.user_id.in_(user_ids),
        (wallet.due_at <= now + DUE.lease) | wallet.user_id.in_(owes),
    )
    return list(session.scalars(query.order_by(wallet.user_id)))


def _unpaid(session: Session, user_ids: Collection[UUID]) -> Sequence[UsageChargeRow]:
    return session.scalars(
        select(UsageChargeRow).where(
            UsageChargeRow.user_id.in_(user_ids), UsageChargeRow.paid_at.is_(None)
        )
    ).all()


def _due_at(session: Session, user_ids: Sequence[UUID]) -> dict[UUID, datetime | None]:
    """When these wallets are due: at the end of their leases, unless money has just come."""
    query = select(UsageWalletRow.user_id, UsageWalletRow.due_at)
    rows = session.execute(query.where(UsageWalletRow.user_id.in_(user_ids)))
    return {row.user_id: row.due_at for row in rows}
