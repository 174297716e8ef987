"""What a user does with deployments at random, and what it should have cost by then.

It is reckoned from the list of prices, the records of usage and the answers that the user got,
apart from what billing has stored and from its rules, so that a fault in those shows: months by
their starts, parts of months as fractions that are rounded once, usage by the totals of each month.

Some run out of money for a while, or for good: all of it is spent elsewhere, or their wallet is
frozen. Nothing is paid then, and what falls due is owed. When something was suspended they read in
its history: what ran until then is all that is owed for it.
"""

import calendar
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import count
from typing import Any, Protocol
from uuid import UUID, uuid4

from contracts.billing import (
    CancelDeployment,
    CancelWhen,
    Deployment,
    DeploymentStatus,
    GetDeployment,
    ListResizes,
    PurchaseLine,
    PurchaseStatus,
    RecordUsage,
    RefundPurchase,
    RenameDeployment,
    ResizeDeployment,
    StartDeployment,
    StartPurchase,
    StopDeployment,
    UsageRecord,
)
from contracts.catalog import BillingPeriod, Category, CreateProduct, Meter, MeterTier, Product
from contracts.errors import AccountFrozen, InsufficientFunds
from contracts.wallet import (
    Credit,
    Freeze,
    GetWallet,
    OpenAccount,
    Statement,
    Transfer,
    Unfreeze,
)

USD = 1_000_000
DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)
UNITS_MAX = 4
FEE = Fraction(1, 10)
"""What the marketplace keeps of a price, in a new database."""

GRACE = 3 * DAY
RETRY = timedelta(hours=7)
"""By then a wallet was asked again for what it refused, which is done every six hours."""
HOUR = timedelta(hours=1)
"""When what was refused is paid, what else was used is charged so much later."""
NEVER = datetime.max.replace(tzinfo=UTC)

TIER = 500
METER = Meter(
    key="hours",
    label="Hours",
    unit="hour",
    price_micros=333,
    per_units=7,
    included_units=20,
    tiers=[MeterTier(above_units=TIER, price_micros=100)],
)


def rated_micros(quantity: int) -> int:
    """What so much of the meter costs in a month."""
    dear = max(min(quantity, TIER) - METER.included_units, 0)
    cheap = max(quantity - TIER, 0)
    cost = dear * METER.price_micros + cheap * METER.tiers[0].price_micros
    return round(Fraction(cost, METER.per_units))


def months_after(anchor: datetime, number: int) -> datetime:
    """The same day so many months later; of a month that lacks it the last."""
    years, month = divmod(anchor.month - 1 + number, 12)
    year = anchor.year + years
    last = calendar.monthrange(year, month + 1)[1]
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, last))


def month_begun(anchor: datetime, moment: datetime) -> int:
    """How many months after the anchor the one begins that runs at this moment."""
    return next(number for number in count() if months_after(anchor, number + 1) > moment)


def month_end(anchor: datetime, moment: datetime) -> datetime:
    """The end of the month that runs at this moment."""
    return months_after(anchor, month_begun(anchor, moment) + 1)


UNFINISHED = """
SELECT (SELECT count(*) FROM periods WHERE status IN ('closing', 'refunding')
        OR status = 'due' AND user_id <> ALL (:short))
    + (SELECT count(*) FROM usage_charges WHERE paid_at IS NULL
        AND (closing_since IS NOT NULL OR user_id <> ALL (:short)))
    + (SELECT count(*) FROM refunds WHERE done_at IS NULL)
    + (SELECT count(*) FROM purchases WHERE status IN ('pending', 'awaiting_funds'))
    + (SELECT count(*) FROM deployments
        WHERE status = 'active' AND monthly_cost_micros > 0 AND paid_until <= :now
        AND (short_since IS NULL OR user_id <> ALL (:short)))
    + (SELECT count(*) FROM usage_wallets WHERE used_until IS NOT NULL
        AND due_at <= CAST(:now AS timestamptz) + interval '60 seconds')
    + (SELECT count(*) FROM usage_refunds WHERE done_at IS NULL)
"""
"""How much was begun and is not done: leased, or left by somebody who died. A month that begins and
what was used are leased before a charge is written down. Who is ``short`` is waited for no longer
than until their wallet has refused."""


class World(Protocol):
    """Where users live."""

    short: dict[UUID, datetime]
    """Who has no money, and until when."""

    @property
    def now(self) -> datetime: ...

    def hears_of_money(self, user_id: UUID) -> None:
        """Billing is told that some came, where nobody else does so."""

    def insists(self, request: Any) -> Any:
        """The answer, asked for until it comes."""

    def waits(self) -> None:
        """A while passes, in which what was left undone is done."""


@dataclass
class Payment:
    """Of the month that runs: what was paid for how much, at the prices of then, less what went
    back of it; and the marketplace's fee on it."""

    paid_micros: int
    worth_micros: int
    fee_micros: Fraction
    back_micros: int = 0

    @classmethod
    def of(cls, price_micros: int) -> "Payment":
        return cls(price_micros, price_micros, FEE * price_micros)

    def gives_back(self, worth_micros: int) -> int:
        """For so much of its worth, as far as that goes; what of the worth is left."""
        left_micros = self.paid_micros - self.back_micros
        if not left_micros:
            return worth_micros
        of_it = min(worth_micros, -(-left_micros * self.worth_micros // self.paid_micros))
        part = round(Fraction(of_it * self.paid_micros, self.worth_micros))
        self.back_micros += min(part, left_micros)
        return worth_micros - of_it


@dataclass
class Unit:
    """A deployment as its owner knows it. ``coming`` is a new price, and from when; ``due_micros``
    what the month costs that has begun unpaid."""

    deployment_id: UUID
    purchase_id: UUID
    product_id: UUID
    bought_micros: int
    bought_fee_micros: Fraction
    price_micros: int
    active_at: datetime
    anchor_at: datetime
    starts_at: datetime
    paid_until: datetime
    coming: tuple[int, datetime] | None = None
    due_micros: int | None = None
    is_running: bool = True
    started_at: datetime | None = None
    is_resized: bool = False
    ends_with_month: bool = False
    is_over: bool = False
    payments: list[Payment] = field(default_factory=list)
    used: Counter[int] = field(default_factory=Counter)
    last_record: UsageRecord | None = None

    def hears_of_price(self, price_micros: int, now: datetime, notice: timedelta) -> None:
        """Dearer from the first month after a notice, cheaper from the next month."""
        told = self.price_micros if self.coming is None else self.coming[0]
        if price_micros == told:
            return
        is_dearer = price_micros > self.price_micros
        self.coming = (price_micros, now + notice if is_dearer else now)
        if price_micros == self.price_micros:
            self.coming = None

    def begins_month(self, at: datetime) -> int:
        """What the month costs that begins now."""
        if self.coming is not None and self.coming[1] <= at:
            self.price_micros, self.coming = self.coming[0], None
        self.starts_at = at
        self.payments = [Payment.of(self.price_micros)]
        return self.price_micros

    def is_paid(self) -> None:
        """The month that has begun is paid."""
        self.due_micros = None
        self.paid_until = month_end(self.anchor_at, self.paid_until)

    def ran_unpaid(self, until: datetime) -> int:
        """What is owed for the time from the end of what was paid: each month at its own price."""
        owed_micros, at = 0, self.paid_until
        price_micros = self.due_micros or 0
        while at < until:
            end = month_end(self.anchor_at, at)
            part = Fraction((min(end, until) - at) // INSTANT, (end - at) // INSTANT)
            owed_micros, at = owed_micros + round(price_micros * part), end
            if self.coming is not None and self.coming[1] <= at:
                price_micros = self.coming[0]
        self.due_micros = None
        return owed_micros

    def comes_to(self, price_micros: int, at: datetime) -> int:
        """What it is charged, or gives back of what was paid for this month, the latest first."""
        change = self.difference(price_micros, at)
        if change >= 0:
            return change
        payments = [replace(each) for each in self.payments]
        before = sum(each.back_micros for each in payments)
        worth = -change
        for payment in reversed(payments):
            worth = payment.gives_back(worth)
        return before - sum(each.back_micros for each in payments)

    def is_charged(self, micros: int, change: int) -> Fraction:
        """A resize is done, that changed the worth of the rest of the month by ``change``; what it
        changed of the marketplace's fee."""
        if micros > 0:
            self.payments.append(Payment.of(micros))
            return FEE * micros
        worth, back_micros = max(-change, 0), Fraction()
        for payment in reversed(self.payments):
            before = payment.back_micros
            worth = payment.gives_back(worth)
            part = payment.back_micros - before
            back_micros += part and payment.fee_micros * part / payment.paid_micros
        return -back_micros

    def difference(self, price_micros: int, at: datetime) -> int:
        """What another price costs for the rest of the month that is paid."""
        if at >= self.paid_until:
            return 0
        left, whole = self.paid_until - at, self.paid_until - self.starts_at
        change = price_micros - self.price_micros
        return round(Fraction(change * (left // INSTANT), whole // INSTANT))


@dataclass
class Lack:
    """A time in which nothing is paid, and what is owed in it. What was used before is paid."""

    began_at: datetime
    used_micros: int
    is_frozen: bool
    is_for_good: bool
    is_asked: bool = False
    owed: list[tuple[int, str, Fraction | None]] = field(default_factory=list)
    seen_due: dict[UUID, datetime] = field(default_factory=dict)


@dataclass
class User:
    """Somebody with money enough, or with none for a while."""

    world: World
    sizes: dict[UUID, int]
    chance: random.Random
    discount_bps: int = 0
    user_id: UUID = field(default_factory=uuid4)
    units: list[Unit] = field(default_factory=list)
    credited_micros: int = 10_000 * USD
    paid_micros: int = 0
    fee_micros: Fraction = Fraction()
    roundings: int = 0
    lack: Lack | None = None
    told_usage_at: datetime | None = None
    story: list[str] = field(default_factory=list)

    @property
    def credit(self) -> Credit:
        """What gives them their money, and a wallet."""
        return Credit(
            idempotency_key=f"credit:{self.user_id}",
            user_id=self.user_id,
            amount_micros=self.credited_micros,
            description="Credits bought",
        )

    def joins(self) -> None:
        self.world.insists(self.credit)
        self.buys()

    def lives(self, now: datetime) -> None:
        """What months cost that began by now."""
        if self.lack is not None:
            for unit in self.units:
                self.looks_at(unit, self.lack, now)
            if self.world.short[self.user_id] <= now:
                self.is_asked_again(self.lack, now)
        for unit in self.units:
            while unit.is_running and unit.paid_until <= now and self.has_begun(unit):
                pass
            if not unit.is_running and unit.paid_until < now - 29 * DAY:
                # By and by its data goes: it is left alone from here on.
                unit.is_over = True

    def has_begun(self, unit: Unit) -> bool:
        """Another month. Whether the next one is to be looked at, too."""
        if unit.ends_with_month:
            unit.is_running, unit.is_over = False, True
            return False
        if unit.due_micros is None:
            unit.due_micros = unit.begins_month(unit.paid_until)
        if self.lack is not None:
            return False
        self.pays(unit.due_micros, "month")
        unit.is_paid()
        return True

    def looks_at(self, unit: Unit, lack: Lack, now: datetime) -> None:
        """Whether it runs on in its grace, or was suspended, and when."""
        if not unit.is_running:
            return
        seen = self.sees(unit.deployment_id)
        if seen.status == DeploymentStatus.ACTIVE:
            if unit.due_micros is not None and self.world.short[self.user_id] == NEVER:
                assert now < lack.seen_due.setdefault(unit.deployment_id, now) + GRACE, self.story
            return
        fell = [each for each in seen.history if each.status == DeploymentStatus.SUSPENDED]
        if not fell or fell[0].changed_at < lack.began_at:
            # It ended with its month.
            return
        assert fell[0].changed_at >= lack.began_at + GRACE, self.story
        self.notes(f"suspended {unit.deployment_id}")
        if unit.due_micros is None and unit.paid_until < fell[0].changed_at:
            unit.due_micros = unit.begins_month(unit.paid_until)
        self.ran_until(unit, fell[0].changed_at)

    def ran_until(self, unit: Unit, at: datetime) -> None:
        """It runs no more. What it ran unpaid is owed."""
        unit.is_running = False
        if unit.due_micros is not None and (micros := unit.ran_unpaid(at)):
            self.pays(micros, "arrears")

    def acts(self) -> None:
        """One thing at random."""
        if self.lack is not None:
            self.acts_without_money(self.lack)
            return
        if self.chance.random() < 0.1 and len(self.units) < UNITS_MAX:
            self.buys()
        usual: list[Callable[[Unit], None]] = [self.uses] * 3
        rare = [self.resizes, self.stops, self.starts, self.cancels, self.corrects, self.gives_back]
        self.does([*usual, *rare, self.renames, self.runs_short])

    def acts_without_money(self, lack: Lack) -> None:
        """Nothing that brings money, unless the wallet is frozen."""
        if self.chance.random() < 0.3 and not lack.is_for_good:
            self.gets_money(lack)
            return
        usual: list[Callable[[Unit], None]] = [self.uses] * 2
        rare = [self.starts, self.renames]
        if self.world.short[self.user_id] == NEVER:
            # Once money came a month that was owed may be paid at any moment: what ends before
            # that is known owes a part of it, or nothing.
            rare += [self.stops, self.cancels, *([self.gives_back] if lack.is_frozen else [])]
        self.does([*usual, *rare])

    def does(self, acts: list[Callable[[Unit], None]]) -> None:
        unit, act = self.chance.choice(self.units), self.chance.choice(acts)
        if not unit.is_over:
            self.notes(f"{act.__name__} {unit.deployment_id}")
            act(unit)

    def runs_short(self, _: Unit) -> None:
        """For a while or for good, once what was used is paid, and no month about to begin."""
        now = self.world.now
        soon = now + timedelta(minutes=10)
        has_used = self.told_usage_at is not None and now < self.told_usage_at + 2 * HOUR
        if has_used or any(each.is_running and each.paid_until < soon for each in self.units):
            return
        is_frozen, is_for_good = self.chance.random() < 0.5, self.chance.random() < 0.3
        self.world.short[self.user_id] = NEVER
        self.lack = Lack(now, self.used_micros, is_frozen, is_for_good)
        self.notes("is frozen" if is_frozen else "spends everything")
        if is_frozen:
            why = {"reason": "A dispute", "actor": "a test"}
            self.world.insists(Freeze(idempotency_key=f"{uuid4()}", user_id=self.user_id, **why))
            return
        friend_id = uuid4()
        self.world.insists(OpenAccount(idempotency_key=f"{uuid4()}", user_id=friend_id))
        wallet = self.world.insists(GetWallet(user_id=self.user_id))
        self.world.insists(
            Transfer(
                idempotency_key=f"{uuid4()}",
                from_user_id=self.user_id,
                to_user_id=friend_id,
                amount_micros=wallet.balance_micros,
                description="All of it",
            )
        )
        self.credited_micros -= wallet.balance_micros

    def gets_money(self, lack: Lack) -> None:
        """Billing hears of what comes at once, and of a freeze that ended when it asks again."""
        if self.world.short[self.user_id] != NEVER:
            return
        self.notes("gets money")
        if lack.is_frozen:
            why = {"reason": "It ended", "actor": "a test"}
            self.world.insists(Unfreeze(idempotency_key=f"{uuid4()}", user_id=self.user_id, **why))
        else:
            self.is_credited()
        self.world.short[self.user_id] = self.world.now + RETRY

    def is_credited(self) -> None:
        more = {"idempotency_key": f"{uuid4()}", "amount_micros": 10_000 * USD}
        self.world.insists(self.credit.model_copy(update=more))
        self.credited_micros += 10_000 * USD
        self.world.hears_of_money(self.user_id)

    def is_asked_again(self, lack: Lack, now: datetime) -> None:
        """What was owed is paid: what was refused, and then the rest."""
        if not lack.is_asked:
            lack.is_asked = True
            self.world.short[self.user_id] = now + HOUR
            return
        self.lack = None
        del self.world.short[self.user_id]
        for micros, what, fee_micros in lack.owed:
            self.pays(micros, what, fee_micros)

    def buys(self) -> Unit:
        product_id = self.chance.choice(list(self.sizes))
        command = StartPurchase(
            idempotency_key=f"{uuid4()}",
            user_id=self.user_id,
            lines=[PurchaseLine(product_id=product_id)],
        )
        bought = self.world.insists(command)
        while bought.status != PurchaseStatus.COMPLETED:
            self.world.waits()
            bought = self.world.insists(command)
        price = self.sizes[product_id]
        paid = price - price * self.discount_bps // 10_000
        fee = FEE * price - (price - paid)
        self.pays(paid, "purchase", fee)
        (deployment_id,) = bought.deployment_ids
        seen = self.sees(deployment_id)
        assert seen.active_at is not None
        at, until = seen.active_at, month_end(seen.active_at, seen.active_at)
        unit = Unit(
            deployment_id, bought.purchase_id, product_id, paid, fee, price, at, at, at, until
        )
        unit.payments = [Payment(paid, price, fee)]
        self.units.append(unit)
        return unit

    def uses(self, unit: Unit, quantity: int | None = None) -> None:
        """So much that a month with a record or two goes beyond the first tier."""
        used_at = self.world.now - timedelta(seconds=1)
        if not unit.is_running or used_at <= (unit.started_at or unit.active_at):
            return
        unit.last_record = UsageRecord(
            record_id=f"{uuid4()}",
            deployment_id=unit.deployment_id,
            meter=METER.key,
            quantity=quantity or self.chance.randint(1, 2 * TIER),
            used_at=used_at,
        )
        self.tells(unit, unit.last_record)

    def corrects(self, unit: Unit, part: int | None = None) -> None:
        first, unit.last_record = unit.last_record, None
        if first is not None and first.used_at > self.world.now - 2 * DAY:
            part = part or self.chance.randint(1, first.quantity)
            more = {"record_id": f"{uuid4()}", "quantity": -part, "corrects": first.record_id}
            self.tells(unit, first.model_copy(update=more))

    def tells(self, unit: Unit, record: UsageRecord) -> None:
        (result,) = self.world.insists(RecordUsage(records=[record])).results
        assert result.answer in ("accepted", "repeated"), (result, self.story)
        unit.used[month_begun(unit.active_at, record.used_at)] += record.quantity
        self.roundings += 1
        self.told_usage_at = self.world.now

    def resizes(self, unit: Unit) -> None:
        if unit.ends_with_month:
            return
        question = ListResizes(user_id=self.user_id, deployment_id=unit.deployment_id)
        shown = self.world.insists(question)
        option = self.chance.choice(shown.options)
        price, at = self.sizes[option.product_id], shown.quoted_at
        change, micros = unit.difference(price, at), unit.comes_to(price, at)
        assert option.amount_micros == micros, self.story
        quoted = {"expected_amount_micros": micros, "quoted_at": at}
        self.wants(ResizeDeployment, unit, product_id=option.product_id, **quoted)
        self.pays(micros, "resize", unit.is_charged(micros, change))
        unit.product_id, unit.price_micros, unit.coming = option.product_id, price, None
        unit.is_resized = True

    def stops(self, unit: Unit) -> None:
        if unit.is_running and not unit.ends_with_month:
            seen = self.wants(StopDeployment, unit)
            self.ran_until(unit, ended_at(seen, DeploymentStatus.STOPPED))

    def starts(self, unit: Unit) -> None:
        if unit.is_running:
            return
        try:
            seen = self.wants(StartDeployment, unit)
        except (AccountFrozen, InsufficientFunds):
            assert self.lack is not None, self.story
            return
        unit.is_running, unit.ends_with_month = True, False
        unit.started_at = self.world.now
        if seen.paid_until != unit.paid_until:
            unit.anchor_at = seen.charges[0].starts_at
            self.pays(unit.begins_month(unit.anchor_at), "month")
            unit.paid_until = month_end(unit.anchor_at, unit.anchor_at)

    def renames(self, unit: Unit) -> None:
        self.wants(RenameDeployment, unit, name=f"Machine {self.chance.randint(1, 10**6)}")

    def cancels(self, unit: Unit) -> None:
        if unit.is_running and self.chance.random() < 0.5:
            when = self.chance.choice(list(CancelWhen))
            seen = self.wants(CancelDeployment, unit, when=when)
            unit.is_over = when is CancelWhen.NOW or unit.due_micros is not None
            unit.ends_with_month = not unit.is_over
            if unit.is_over:
                self.ran_until(unit, ended_at(seen, DeploymentStatus.CANCELLED))

    def gives_back(self, unit: Unit) -> None:
        """Support gives back what the purchase cost; months that were renewed stay paid."""
        if unit.is_resized or self.chance.random() < 0.7:
            return
        command = RefundPurchase(
            idempotency_key=f"{uuid4()}",
            purchase_id=unit.purchase_id,
            reason="It was slow",
            actor="a test",
        )
        self.world.insists(command)
        self.pays(-unit.bought_micros, "refund", -unit.bought_fee_micros)
        unit.is_over = True
        seen = self.sees(unit.deployment_id)
        self.ran_until(unit, ended_at(seen, DeploymentStatus.CANCELLED))

    def wants(self, command: type, unit: Unit, **more: Any) -> Any:
        who = {"user_id": self.user_id, "deployment_id": unit.deployment_id}
        return self.world.insists(command(idempotency_key=f"{uuid4()}", **who, **more))

    def sees(self, deployment_id: UUID) -> Deployment:
        question = GetDeployment(user_id=self.user_id, deployment_id=deployment_id)
        return self.world.insists(question)  # type: ignore[no-any-return]

    def pays(self, micros: int, what: str, fee_micros: Fraction | None = None) -> None:
        """The marketplace keeps its usual part of it, or so much. Without money it is owed."""
        if self.lack is not None and micros > 0:
            self.lack.owed.append((micros, what, fee_micros))
            self.notes(f"owes {what} {micros}")
            return
        self.paid_micros += micros
        self.fee_micros += FEE * micros if fee_micros is None else fee_micros
        self.roundings += 1
        self.notes(f"{what} {micros}")

    def notes(self, what: str) -> None:
        self.story.append(f"{self.world.now:%m-%d %H:%M:%S} {what}")

    @property
    def owes(self) -> int:
        """What all of it should have cost by now, as far as there was money."""
        return self.paid_micros + self.used_and_paid_micros

    @property
    def used_and_paid_micros(self) -> int:
        return self.used_micros if self.lack is None else self.lack.used_micros

    @property
    def used_micros(self) -> int:
        """What was used, month by month of each unit."""
        used = [each for unit in self.units for each in unit.used.values()]
        return sum(map(rated_micros, used))

    @property
    def has_paid(self) -> int:
        wallet = self.world.insists(GetWallet(user_id=self.user_id))
        return self.credited_micros - int(wallet.balance_micros)

    @property
    def statement(self) -> list[str]:
        page = self.world.insists(Statement(user_id=self.user_id, limit=200))
        told = reversed(page.transactions)
        return [f"{each.kind} {each.amount_micros} {each.description}" for each in told]


def ended_at(seen: Deployment, status: DeploymentStatus) -> datetime:
    """When it last came to this."""
    return next(each.changed_at for each in seen.history if each.status == status)


def create_sizes(world: World, seller_id: UUID) -> dict[UUID, int]:
    """Three sizes of a machine that is measured, and their prices."""
    family = f"sizes-{uuid4().hex[:12]}"

    def size(number: int) -> Product:
        command = CreateProduct(
            idempotency_key=f"{uuid4()}",
            slug=f"size-{uuid4().hex[:16]}",
            name=f"Size {number}",
            category=Category.COMPUTE,
            summary="A size",
            provider_name="Example Provider",
            provider_id=seller_id,
            price_micros=number * 7_654_321,
            billing_period=BillingPeriod.MONTH,
            meters=[METER],
            family=family,
            reason="A test",
            actor="a test",
        )
        return world.insists(command)  # type: ignore[no-any-return]

    return {each.product_id: each.price_micros for each in map(size, (1, 2, 3))}


def has_its_fees(users: list[User], fees_micros: int) -> bool:
    """Whether the marketplace kept what it should of all that they paid. Each payment, and what
    went back of it, was rounded by itself, and is a micro-dollar off at most."""
    due = sum((each.fee_micros + FEE * each.used_and_paid_micros for each in users), Fraction())
    return abs(fees_micros - due) <= 2 * sum(each.roundings for each in users)


def wrongly_charged(users: list[User]) -> list[tuple[int, list[str], list[str]]]:
    """Who paid something else than they should have: by how much, their story and statement."""
    return [
        (each.has_paid - each.owes, each.story, each.statement)
        for each in users
        if each.has_paid != each.owes
    ]
