"""What will be charged by itself: the rule of :mod:`services.topup.automatic.rule`, played forward.

Pages, the API and dry runs ask here before a person confirms anything, and here alone, so that
what they announce is what is charged then. The story that is played: the money is spent, a
charge arrives, purchases that wait take it from the oldest on, the balance falls below the
threshold, the cool-down passes, and so on until nothing is due or a reason stops it that does
not pass within minutes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from contracts.keys import topup_key
from contracts.topup import (
    ChargeForecast,
    ChargeForecasts,
    ForecastCharges,
    ForecastChargesOfMany,
    PlannedCharge,
    RefusalCode,
    Trigger,
)
from services.topup.automatic import limits, rule, triggers
from services.topup.automatic.limits import Usage
from services.topup.automatic.rule import Charge, Refusal, Situation
from services.topup.automatic.triggers import Pending
from services.topup.models import AutoTopupSettings, Card
from services.topup.policy import Policy
from services.topup.till import Till
from services.topup.wallet_questions import Funds

CHARGES_MAX = 20
PASSING = (RefusalCode.COOL_DOWN, RefusalCode.IN_FLIGHT)

# What is under way is what :func:`limits.arriving_micros` and :func:`triggers.pending` find. As
# text, because every purchase asks: what builds a statement costs more than the answer to it.
_STANDING = Bulk(
    """
    SELECT new.user_id, new.own, settings.is_enabled, settings.threshold_micros,
        EXISTS (
            SELECT FROM topups WHERE user_id = new.user_id AND (status = 'paid' OR kind = 'auto'
                AND status IN ('created', 'processing', 'unknown', 'action_required'))
        ) OR EXISTS (
            SELECT FROM triggers WHERE user_id = new.user_id AND ended_at IS NULL AND (
                trigger IN ('purchase', 'renewal') AND needed_micros > 0
                    AND raised_at > new.since AND reference <> new.own
                OR trigger IN ('low_balance', 'settings_saved')
                AND (due_at IS NOT NULL OR refusal_code = 'idle'))
        ) AS is_under_way
    FROM {rows} LEFT JOIN auto_topup_settings AS settings ON settings.user_id = new.user_id
    """,
    user_id="uuid",
    since="timestamptz",
    own="text",
)


@dataclass(frozen=True)
class Foreseen:
    """A charge, what sets it off, and from when on it can be made."""

    charge: Charge
    trigger: Trigger
    at: datetime


@dataclass
class Story:
    """How things stand while the rule is played forward.

    ``pending`` are the triggers that may lead to a charge, oldest first, and ``own`` the
    reference of the purchase that is asked about. ``usage`` is counted when something is to be
    decided.
    """

    policy: Policy
    settings: AutoTopupSettings | None
    funds: Funds
    pending: list[Pending]
    arriving_micros: int
    now: datetime
    own: str = ""
    charges_max: int = CHARGES_MAX
    usage: Usage = field(init=False)
    charges: list[Foreseen] = field(default_factory=list)
    refusal: Refusal | None = None
    is_cut: bool = False

    @property
    def waits(self) -> bool:
        """Whether the purchase that is asked about is not paid yet."""
        return any(self._is_own(item) for item in self.pending)

    def _is_own(self, item: Pending) -> bool:
        return item.needed_micros > 0 and item.reference == self.own

    def spend(self, amount_micros: int) -> None:
        """Money leaves the wallet, which speaks when it falls below the threshold.

        An account that was idle is not any more.
        """
        self.pending = [
            item if item.needed_micros else replace(item, is_due=True) for item in self.pending
        ]
        before, after = self.funds.available_micros, self.funds.available_micros - amount_micros
        self.funds = replace(self.funds, available_micros=after, is_idle=False)
        threshold_micros = self.settings.threshold_micros if self.settings else 0
        if after < threshold_micros <= before:
            low = Pending(Trigger.LOW_BALANCE, "", 0, is_due=True, raised_at=self.now)
            self.pending.append(low)

    def wait_for(self, amount_micros: int) -> None:
        """The purchase that is asked about waits for money, and says so again."""
        own = Pending(Trigger.PURCHASE, self.own, amount_micros, is_due=True)
        references = [item.reference for item in self.pending]
        if self.own in references:
            self.pending[references.index(self.own)] = own
        else:
            self.pending.append(own)

    def forget_own(self) -> None:
        self.pending = [item for item in self.pending if item.reference != self.own]

    def play(self, count_usage: Callable[[], Usage]) -> None:
        """Until nothing is due any more."""
        if not self.arriving_micros and not any(item.is_due for item in self.pending):
            return
        self.usage = count_usage()
        self._play_on()

    def _play_on(self) -> None:
        while len(self.charges) < self.charges_max:
            item = next((item for item in self.pending if item.is_due), None)
            if item is not None:
                self._decide(item)
            elif self.arriving_micros:
                self._receive()
            else:
                return
        self.is_cut = True

    def _decide(self, item: Pending) -> None:
        is_own = self._is_own(item)
        decision = rule.decide(
            Situation(
                policy=self.policy,
                settings=self.settings,
                usage=self.usage if is_own else replace(self.usage, card_page_until=None),
                funds=self.funds,
                trigger=item.trigger,
                waiting_micros=triggers.to_charge_for(self.pending),
                now=self.now,
                needed_micros=item.needed_micros,
            )
        )
        if isinstance(decision, Charge):
            self._charge(decision, item)
        elif decision.code in PASSING and item.trigger != Trigger.BY_HAND:
            self._wait(decision)
        else:
            self._refuse(decision, item)

    def _refuse(self, refusal: Refusal, item: Pending) -> None:
        """This trigger comes to nothing now; the others are decided about by themselves."""
        if refusal.code != RefusalCode.NOT_NEEDED:
            self.refusal = refusal if self._is_own(item) else self.refusal or refusal
        self._put_off(item)
        self._arrive(0)

    def _put_off(self, item: Pending) -> None:
        """A purchase waits on; a look at the balance was taken."""
        place = self.pending.index(item)
        if item.needed_micros:
            self.pending[place] = replace(item, is_due=False)
        else:
            del self.pending[place]

    def _charge(self, charge: Charge, item: Pending) -> None:
        self.charges.append(Foreseen(charge, item.trigger, self.now))
        self.usage = self.usage.with_charge(charge.amount_micros)
        if self.settings is not None:
            self.settings.cool_down_until = self.now + self.policy.cool_down
            self.settings.declined_payment_method_id = None
        if item.trigger == Trigger.BY_HAND or not charge.is_part:
            self._put_off(item)
        self._arrive(charge.amount_micros)

    def _wait(self, refusal: Refusal) -> None:
        """The cool-down passes, and what was under way has arrived by then."""
        cool = (self.settings.cool_down_until if self.settings else None) or self.now
        until = max(cool, self.now)
        if refusal.code == RefusalCode.IN_FLIGHT:
            until = max(until, self.now + triggers.PURCHASES_FIRST)
        self.usage = self.usage.later(self.now, until)
        self.now = until
        self._receive()

    def _receive(self) -> None:
        """What was charged or paid before arrives."""
        self.usage = replace(self.usage, in_flight_topup_id=None, is_credit_on_its_way=False)
        arrived_micros, self.arriving_micros = self.arriving_micros, 0
        self._arrive(arrived_micros)

    def _arrive(self, amount_micros: int) -> None:
        """Credits: purchases that wait take them, the oldest that is covered first. None takes
        any from a frozen wallet.

        Those that still fall short say so anew, unless a card page is to pay for them.
        """
        available = self.funds.available_micros + amount_micros
        self.funds = replace(self.funds, available_micros=available)
        if self.funds.is_frozen:
            return
        for item in [item for item in self.pending if item.needed_micros]:
            if item.needed_micros <= self.funds.available_micros:
                self.pending.remove(item)
                self.spend(item.needed_micros)
            elif amount_micros and not item.has_card_page:
                self.pending[self.pending.index(item)] = replace(item, is_due=True)


def foretell(till: Till, request: ForecastCharges) -> ChargeForecast:
    """What will be charged by itself, beginning now: see :class:`ForecastCharges`.

    Errors: ``Unavailable``, ``DeadlineExceeded`` of the wallet.
    """
    quiet = _foretell_nothing(till, request)
    if quiet is not None:
        return quiet
    funds, arrived = look(till, request.user_id)
    # All of one moment: a charge that begins meanwhile is not counted in one place alone.
    with till.database.snapshot() as session:
        return foresee(session, till.clock(), request, funds, till.policy, arrived)


def foretell_many(till: Till, request: ForecastChargesOfMany) -> ChargeForecasts:
    """The answers for whom nothing is under way and nothing becomes due; None for the others.

    Errors: ``Unavailable``, ``DeadlineExceeded`` of the wallet.
    """
    questions, now = request.questions, till.clock()
    with till.database.read() as session:
        standings = _standings(session, [_whose(each, now) for each in questions])
    held = till.wallet.balances_of(list({each.user_id for each in questions}))
    return ChargeForecasts(
        forecasts=[
            _unless_due(question, standing, held.get(question.user_id, Funds(0)))
            for question, standing in zip(questions, standings, strict=True)
        ]
    )


def _foretell_nothing(till: Till, request: ForecastCharges) -> ChargeForecast | None:
    """The answer for whom nothing is under way and nothing becomes due; None for anybody else.

    Hardly anybody who buys sets off a charge, and every purchase asks: this is a fraction of what
    it costs to play the rule.
    """
    if request.is_by_hand:
        return None
    standing = till.database.answer(_standings, _whose(request, till.clock()))
    if standing.is_under_way:
        return None
    return _unless_due(request, standing, till.wallet.balance(request.user_id))


def _unless_due(request: ForecastCharges, standing: Any, funds: Funds) -> ChargeForecast | None:
    if request.is_by_hand or standing.is_under_way:
        return None
    spent_micros = request.spend_micros
    before = funds.available_micros + (spent_micros if request.is_spent else 0)
    after = before - spent_micros
    waits = not request.is_spent and spent_micros and (after < 0 or funds.is_frozen)
    if waits or after < (standing.threshold_micros or 0) <= before:
        return None
    return ChargeForecast(
        charges=[],
        balance_after_micros=after,
        threshold_micros=standing.threshold_micros if standing.is_enabled else None,
    )


def _whose(request: ForecastCharges, now: datetime) -> tuple[UUID, datetime, str]:
    """Of whom to look what is under way, since when, and the purchase that waits no more, though
    the news of that may be on its way."""
    own = str(request.purchase_id) if request.is_spent and request.purchase_id else ""
    return request.user_id, triggers.waits_since(now), own


def _standings(session: Session, questions: Sequence[tuple[UUID, datetime, str]]) -> list[Any]:
    found = {(row.user_id, row.own): row for row in _STANDING.execute(session, set(questions))}
    return [found[user_id, own] for user_id, _, own in questions]


def look(till: Till, user_id: UUID) -> tuple[Funds, frozenset[UUID]]:
    """The wallet, and which paid top-ups are in it though the news of that is still on its way.

    Both at one moment: where credits came in between, the wallet is asked again. Errors:
    ``Unavailable``, ``DeadlineExceeded`` of the wallet.
    """
    funds = till.wallet.funds(user_id, till.clock())
    while True:
        with till.database.read() as session:
            paid = limits.paid_topups(session, user_id)
        if not paid:
            return funds, frozenset()
        arrived = frozenset(topup for topup in paid if till.wallet.entry(topup_key(topup)))
        again = till.wallet.funds(user_id, till.clock())
        if again == funds:
            return funds, arrived
        funds = again


def foresee(
    session: Session,
    now: datetime,
    request: ForecastCharges,
    funds: Funds,
    policy: Policy,
    arrived: frozenset[UUID] = frozenset(),
) -> ChargeForecast:
    """The same, played by the rule. ``arrived``: see :func:`look`."""
    stored = session.get(AutoTopupSettings, request.user_id)
    arriving_micros = limits.arriving_micros(session, request.user_id, arrived)
    story = Story(
        policy=policy,
        settings=copy_of(stored) if stored else None,
        funds=funds,
        pending=triggers.pending(session, request.user_id, now),
        arriving_micros=arriving_micros,
        now=now,
        own=str(request.purchase_id or ""),
    )
    _begin(story, request)
    story.play(lambda: limits.usage(session, request.user_id, now, policy, story.own))
    in_flight = limits.in_flight_topup(session, request.user_id) if arriving_micros else None
    refusal = story.refusal
    return ChargeForecast(
        charges=[planned(session, foreseen) for foreseen in story.charges],
        more_follow=story.is_cut,
        is_covered=not story.waits,
        balance_after_micros=story.funds.available_micros,
        refusal_code=refusal.code if refusal else None,
        reason=refusal.reason if refusal else "",
        retry_at=refusal.retry_at if refusal else None,
        threshold_micros=stored.threshold_micros if stored and stored.is_enabled else None,
        in_flight_topup_id=in_flight.topup_id if in_flight else None,
        in_flight_micros=in_flight.amount_micros if in_flight else 0,
    )


def _begin(story: Story, request: ForecastCharges) -> None:
    """How it begins: asked for by hand, paid before, paid at once, or waiting for money."""
    amount_micros, available_micros = request.spend_micros, story.funds.available_micros
    if request.is_by_hand:
        story.pending.insert(0, Pending(Trigger.BY_HAND, "", 0, is_due=True))
    if request.is_spent:
        story.forget_own()
        before_micros = available_micros + amount_micros
        story.funds = replace(story.funds, available_micros=before_micros)
        story.spend(amount_micros)
    elif amount_micros and amount_micros <= available_micros and not story.funds.is_frozen:
        story.forget_own()
        story.spend(amount_micros)
    elif amount_micros:
        story.wait_for(amount_micros)


def planned(session: Session, foreseen: Foreseen) -> PlannedCharge:
    card = session.get(Card, foreseen.charge.payment_method_id)
    return PlannedCharge(
        amount_micros=foreseen.charge.amount_micros,
        trigger=foreseen.trigger,
        at=foreseen.at,
        card_brand=card.brand if card else "",
        card_last4=card.last4 if card else "",
    )


def copy_of(settings: AutoTopupSettings) -> AutoTopupSettings:
    """Of no session's, so that playing changes nothing that is stored."""
    names = [column.key for column in AutoTopupSettings.__table__.columns]
    return AutoTopupSettings(**{name: getattr(settings, name) for name in names})
