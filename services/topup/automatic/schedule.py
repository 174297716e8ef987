"""What will be charged by itself over weeks, while months are paid as they become due.

The story of :mod:`services.topup.automatic.forecast`, with time that passes: it is the same rule
that decides. What a month lacks is asked for until it waits no more, and what a limit forbade once
the limit starts anew.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from heapq import heappop, heappush
from itertools import count
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts.topup import (
    ForecastSchedule,
    PlannedCharge,
    RefusalCode,
    ScheduleForecast,
    Spending,
    TopupKind,
    TopupStatus,
    Trigger,
)
from services.topup.automatic import disputes, limits, rule, triggers
from services.topup.automatic.forecast import Story, copy_of, look, planned
from services.topup.automatic.rule import Charge, Refusal
from services.topup.automatic.triggers import WAITS_AT_MOST, Pending
from services.topup.models import AutoTopupSettings, Card, Topup
from services.topup.till import Till
from services.topup.wallet_questions import Funds

CHARGES_MAX = 1_000
PASSING_WITH_TIME = (RefusalCode.DAILY_LIMIT, RefusalCode.MONTHLY_LIMIT, RefusalCode.SYSTEM_CAP)
"""What time alone ends; when an operator or a bank will end the rest, nobody knows."""

EXPIRED = "The card of auto top-up will have expired by then. Add another one in time."


@dataclass
class Months(Story):
    """``spendings`` become due, the earliest first; ``unpaid`` are those that wait for money.

    ``again`` holds when what was refused is decided about once more, and what has ended, because
    its money did not come, is ``gone``.
    """

    spendings: deque[Spending] = field(default_factory=deque)
    cards: Mapping[str, Card] = field(default_factory=dict)
    unpaid: list[Spending] = field(default_factory=list)
    again: list[tuple[datetime, int, Pending]] = field(default_factory=list)
    gone: set[UUID] = field(default_factory=set)
    _turn: Iterator[int] = field(default_factory=count)

    def play_until(self, until: datetime, *, asks_anew: bool) -> None:
        """``asks_anew``: what waits is to be decided about, as it has just said so."""
        is_news = self._fall_due() or asks_anew
        while True:
            if is_news and self.unpaid:
                self._say_short()
            self._play_on()
            at = self._next_at()
            if at is None or at >= until or self.is_cut:
                return
            self._pass_time(at)
            is_news = self._give_up()
            self._take_up_again()
            is_news = self._fall_due() or is_news

    def _next_at(self) -> datetime | None:
        moments = [each.at for each in self.spendings][:1]
        moments += [each.waits_until for each in self.unpaid if each.waits_until is not None]
        moments += [at for at, _, _ in self.again[:1]]
        return min(moments, default=None)

    def _pass_time(self, at: datetime) -> None:
        until = max(at, self.now)
        self.usage = self.usage.later(self.now, until)
        self.now = until

    def _fall_due(self) -> bool:
        """Pay what is due by now. Whether something is unpaid that was not before."""
        is_news = False
        while self.spendings and self.spendings[0].at <= self.now:
            spending = self.spendings.popleft()
            if spending.reference in self.gone:
                continue
            if spending.waits_until == spending.at:
                self._take_what_there_is(spending)
            elif not self._pays(spending):
                self.unpaid.append(spending)
                is_news = is_news or not spending.is_waiting
        return is_news

    def _take_what_there_is(self, spending: Spending) -> None:
        """Credit lapses: that waits for no money, and asks for none."""
        taken_micros = min(spending.amount_micros, self.funds.available_micros)
        if taken_micros > 0:
            self.spend(taken_micros)

    def _pays(self, spending: Spending) -> bool:
        amount_micros = spending.amount_micros
        if self.funds.is_frozen or amount_micros > self.funds.available_micros:
            return False
        self.spend(amount_micros)
        return True

    def _say_short(self) -> None:
        """Billing says what lacks for everything that is due, with the oldest of it; not where all
        that is due is owed for what does not run any more."""
        self._forget_renewals()
        needed_micros = self._needed_micros()
        if needed_micros:
            first = next(each for each in self.unpaid if each.waits_until is not None)
            reference = str(first.reference)
            self.pending.append(
                Pending(Trigger.RENEWAL, reference, needed_micros, is_due=True, raised_at=self.now)
            )

    def _needed_micros(self) -> int:
        """What is due and not paid, as far as a card is charged for it."""
        if all(each.waits_until is None for each in self.unpaid):
            return 0
        return sum(each.amount_micros for each in self.unpaid)

    def _forget_renewals(self) -> None:
        self.pending = [each for each in self.pending if each.trigger != Trigger.RENEWAL]

    def _give_up(self) -> bool:
        """What waited long enough is not paid any more, nor anything else of the same: what it owes
        is asked for at once. Whether that is unpaid and was not before."""
        over = {
            each.reference
            for each in self.unpaid
            if each.waits_until is not None and each.waits_until <= self.now
        }
        if not over:
            return False
        self.gone |= over
        asked = [_owed(each) if each.reference in over else each for each in self.unpaid]
        self.unpaid = [each for each in asked if each is not None and not self._is_settled(each)]
        self._lessen()
        return any(not each.is_waiting for each in self.unpaid if each.reference in over)

    def _is_settled(self, spending: Spending) -> bool:
        """Whether what is owed since now is paid."""
        return spending.waits_until is None and not spending.is_waiting and self._pays(spending)

    def _lessen(self) -> None:
        """What asked for more asks for what is still needed, and not before it was to."""
        needed_micros = self._needed_micros()
        if not needed_micros:
            self._forget_renewals()
        self.pending = [_lowered(each, needed_micros) for each in self.pending]
        self.again = [(at, turn, _lowered(each, needed_micros)) for at, turn, each in self.again]

    def _take_up_again(self) -> None:
        while self.again and self.again[0][0] <= self.now:
            _, _, item = heappop(self.again)
            waiting = replace(item, is_due=False)
            if waiting in self.pending:
                self.pending[self.pending.index(waiting)] = item
            elif not item.needed_micros:
                self.pending.append(item)
        # What was raised first is decided about first.
        self.pending.sort(key=lambda each: each.raised_at or self.now)

    def _refuse(self, refusal: Refusal, item: Pending) -> None:
        super()._refuse(refusal, item)
        raised_at, retry_at = item.raised_at or self.now, refusal.retry_at
        if refusal.code not in PASSING_WITH_TIME or retry_at is None:
            return
        if retry_at < raised_at + WAITS_AT_MOST[item.trigger]:
            heappush(self.again, (retry_at, next(self._turn), item))

    def _charge(self, charge: Charge, item: Pending) -> None:
        backup = self.settings.backup_payment_method_id if self.settings else None
        names = [charge.payment_method_id, *([backup] if backup else [])]
        valid = [name for name in names if not self._has_expired(name)]
        if valid:
            super()._charge(replace(charge, payment_method_id=valid[0]), item)
        else:
            super()._refuse(Refusal(RefusalCode.NO_CARD, EXPIRED), item)

    def _has_expired(self, payment_method_id: str) -> bool:
        """A card is good until the end of its month."""
        card, now = self.cards.get(payment_method_id), self.now
        return card is None or (card.exp_year, card.exp_month) < (now.year, now.month)

    def _arrive(self, amount_micros: int) -> None:
        """Credits: all that is unpaid is tried again, and what still lacks is said again."""
        available = self.funds.available_micros + amount_micros
        self.funds = replace(self.funds, available_micros=available)
        if amount_micros:
            self.unpaid = [each for each in self.unpaid if not self._pays(each)]
            self._say_short()


def _owed(spending: Spending) -> Spending | None:
    """What is owed of what is given up. It is no news where the wallet was asked for all of it."""
    if spending.waits_until is None:
        return spending
    owed_micros = spending.owed_micros
    if not owed_micros:
        return None
    is_waiting = owed_micros == spending.amount_micros
    owed = {"amount_micros": owed_micros, "waits_until": None, "is_waiting": is_waiting}
    return spending.model_copy(update=owed)


def _lowered(item: Pending, needed_micros: int) -> Pending:
    if item.trigger != Trigger.RENEWAL or item.needed_micros <= needed_micros:
        return item
    return replace(item, needed_micros=needed_micros)


def foretell(till: Till, request: ForecastSchedule) -> ScheduleForecast:
    """See :class:`contracts.topup.ForecastSchedule`."""
    user_id, now = request.user_id, till.clock()
    with till.database.read() as session:
        refusal = _switched_off(session, user_id, now, till)
    if refusal is not None:
        return ScheduleForecast(charges=[], refusal_code=refusal.code, reason=refusal.reason)
    funds, arrived = look(till, user_id)
    with till.database.snapshot() as session:
        return _foresee(session, now, request, funds, till, arrived)


def _switched_off(session: Session, user_id: UUID, now: datetime, till: Till) -> Refusal | None:
    settings = session.get(AutoTopupSettings, user_id)
    is_on = settings is not None and settings.is_enabled
    return rule.switched_off(
        settings,
        now,
        has_open_dispute=is_on and disputes.has_open(session, user_id),
        is_stopped=is_on and (till.policy.is_stopped or limits.is_stopped(session)),
    )


def _foresee(
    session: Session,
    now: datetime,
    request: ForecastSchedule,
    funds: Funds,
    till: Till,
    arrived: frozenset[UUID],
) -> ScheduleForecast:
    user_id = request.user_id
    asking = triggers.pending(session, user_id, now)
    arriving = _arriving(session, user_id, now, arrived)
    story = Months(
        policy=till.policy,
        settings=copy_of(session.get_one(AutoTopupSettings, user_id)),
        funds=funds,
        pending=[each for each in asking if each.trigger not in triggers.WAITING],
        arriving_micros=sum(each.amount_micros for each in arriving),
        now=now,
        charges_max=CHARGES_MAX,
        spendings=deque(sorted(request.spendings, key=lambda each: each.at)),
        cards={card.payment_method_id: card for card in _cards(session, user_id)},
    )
    story.usage = limits.usage(session, user_id, now, till.policy)
    renewals = [each for each in asking if each.trigger == Trigger.RENEWAL]
    story.play_until(request.until, asks_anew=any(each.is_due for each in renewals))
    charges = [planned(session, foreseen) for foreseen in story.charges]
    refusal = story.refusal
    return ScheduleForecast(
        charges=[*arriving, *charges],
        refusal_code=refusal.code if refusal else None,
        reason=refusal.reason if refusal else "",
    )


def _cards(session: Session, user_id: UUID) -> list[Card]:
    mine = (Card.user_id == user_id, Card.removed_at.is_(None))
    return list(session.scalars(select(Card).where(*mine)))


def _arriving(
    session: Session, user_id: UUID, now: datetime, arrived: frozenset[UUID]
) -> list[PlannedCharge]:
    """What is under way to the wallet, other than for a purchase, which takes it."""
    is_coming = (Topup.status == TopupStatus.PAID) | (
        (Topup.kind == TopupKind.AUTO) & Topup.status.in_(limits.IN_FLIGHT)
    )
    rows = session.scalars(
        select(Topup)
        .where(
            Topup.user_id == user_id,
            Topup.topup_id.not_in(arrived),
            is_coming,
            Topup.trigger.is_distinct_from(Trigger.PURCHASE),
            Topup.purchase_id.is_(None),
        )
        .order_by(Topup.topup_id)
    )
    return [
        PlannedCharge(
            amount_micros=topup.amount_micros,
            trigger=Trigger(topup.trigger or Trigger.BY_HAND),
            at=now,
            card_brand=topup.card_brand,
            card_last4=topup.card_last4,
        )
        for topup in rows
    ]
