"""Another size of a deployment, on a clock that is set, with the real wallet and catalog."""

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.billing import (
    CancelWhen,
    ChangeCause,
    Deployment,
    DeploymentStatus,
    ListResizes,
    ListSales,
    RefundPurchase,
    ResizeDeployment,
)
from contracts.catalog import (
    BillingPeriod,
    Category,
    CreateProduct,
    Product,
    RetireProduct,
)
from contracts.errors import (
    AccountFrozen,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
    PriceChanged,
)
from contracts.keys import purchase_key
from contracts.wallet import CloseKey, Debit, DebitAll, GetWallet, Refund
from services.billing.deployments import periods, resizing
from services.billing.deployments.months import cost_micros
from services.billing.deployments.periods import PeriodKind
from services.billing.deployments.queries import own_deployment
from services.billing.deployments.resizing import Size
from services.billing.models import DeploymentRow, PeriodRow, PurchaseRow, RunwayRow
from services.billing.purchases import lifecycle, returns
from services.billing.refunds.settling import Refunds
from services.billing.renewals import plain
from services.billing.renewals.renewals import DUE
from services.billing.renewals.resizes import Resizes
from services.billing.sales.discounts import price_of
from services.billing.sales.shares import shares
from services.billing.sales.statements import list_sales
from tests.billing.conftest import RULES, at, owed_month, quoted, recorded
from tests.billing.test_discounts import hears
from tests.billing.test_earnings import fails
from tests.billing.test_lost_answers import LOST, is_a
from tests.billing.test_renewals import (
    BOUGHT,
    DAY,
    PRICE,
    Tenant,
    after_the_answer,
    month,
    renames,
)
from tests.locks import done_after
from tests.system import System

HALF = BOUGHT + (month(1) - BOUGHT) / 2
"""The middle of the first month."""

INSTANT = timedelta(microseconds=1)
WHO = {"reason": "A test", "actor": "a test"}


class Sizes(NamedTuple):
    """Products of one family, at one, two and three times the price, and at half of it."""

    half: Product
    one: Product
    two: Product
    three: Product


def create(stack: System, name: str, price_micros: int, **more: Any) -> Product:
    values: dict[str, Any] = {
        "idempotency_key": f"{uuid4()}",
        "slug": f"size-{uuid4().hex[:16]}",
        "name": name,
        "category": Category.COMPUTE,
        "summary": "A size",
        "provider_name": "Example Provider",
        "price_micros": price_micros,
        "billing_period": BillingPeriod.MONTH,
        **WHO,
    }
    return stack.rpc.call(CreateProduct(**{**values, **more}))


@pytest.fixture(scope="module")
def sizes(stack: System) -> Sizes:
    family = f"sizes-{uuid4().hex[:12]}"
    prices = {"Half": PRICE // 2, "One": PRICE, "Two": 2 * PRICE, "Three": 3 * PRICE}
    return Sizes(*(create(stack, name, price, family=family) for name, price in prices.items()))


class Owner(Tenant):
    """A tenant who really paid, of whom one deployment is of the size that was bought."""

    def __init__(self, stack: System, database: Connected, sizes: Sizes) -> None:
        super().__init__(stack, database)
        self.sizes = sizes
        self.resizes = Resizes(self.renewals)

    def buys(
        self, product: Product, provider_id: UUID | None = None, discount_bps: int = 0
    ) -> UUID:
        hears(self.database, self.user_id, discount_bps)
        line = quoted(product.price_micros, name=product.name)
        product = product.model_copy(update={"provider_id": provider_id})
        line = line.model_copy(update={"product": product})
        claimed = recorded(self.database, line, user_id=self.user_id, now=self.now)
        (bought,) = claimed.row.lines
        paid = self._rpc.call(
            Debit(
                idempotency_key=purchase_key(claimed.purchase_id),
                user_id=self.user_id,
                amount_micros=bought.amount_micros,
                description=product.name,
                shares=shares([price_of(bought)]),
            )
        )
        with self.database.begin() as session:
            row = lifecycle.complete(
                session, self.now, claimed.purchase_id, paid.transaction_id, self.rules
            )
        return row.deployments[0].deployment_id

    def command(self, deployment_id: UUID, to: Product, **more: Any) -> ResizeDeployment:
        return ResizeDeployment(
            **{
                "idempotency_key": f"{uuid4()}",
                "user_id": self.user_id,
                "deployment_id": deployment_id,
                "product_id": to.product_id,
                **more,
            }
        )

    def resize(self, deployment_id: UUID, to: Product, **more: Any) -> Deployment:
        return self.resizes.resize(self.command(deployment_id, to, **more))


@pytest.fixture
def owner(stack: System, database: Connected, sizes: Sizes) -> Owner:
    owner = Owner(stack, database, sizes)
    owner.gets(10 * PRICE)
    return owner


@pytest.fixture
def deployment_id(owner: Owner) -> UUID:
    return owner.buys(owner.sizes.one)


@pytest.mark.parametrize(
    ("size", "difference"),
    [("half", -PRICE // 4), ("two", PRICE // 2), ("three", PRICE)],
)
def test_the_rest_of_the_month_costs_its_share_at_each_price(
    owner: Owner, deployment_id: UUID, size: str, difference: int
) -> None:
    to = getattr(owner.sizes, size)
    owner.lives(HALF)
    before = owner.balance

    resized = owner.resize(deployment_id, to)

    assert before - owner.balance == difference
    assert (resized.product_id, resized.monthly_cost_micros, resized.name) == (
        to.product_id,
        to.price_micros,
        to.name,
    )
    assert resized.paid_until == resized.next_renewal_at == month(1)
    assert resized.history[0].cause is ChangeCause.RESIZED
    assert resized.owed_micros == 0


def test_in_the_instant_of_its_purchase_it_costs_the_whole_difference_there_and_back(
    owner: Owner, deployment_id: UUID
) -> None:
    before = owner.balance

    owner.resize(deployment_id, owner.sizes.two)
    larger = owner.balance
    owner.resize(deployment_id, owner.sizes.one)

    assert (before - larger, before - owner.balance) == (PRICE, 0)


def test_the_next_month_costs_the_new_price_and_ends_where_it_would_have(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.lives(HALF)
    owner.resize(deployment_id, owner.sizes.two)
    owner.lives(month(2) + DAY)

    assert owner.charged == [-PRICE // 2, -2 * PRICE, -2 * PRICE]
    assert owner.sees(deployment_id).paid_until == month(3)


def test_whoever_runs_it_hears_of_the_size_and_nobody_else_is_resized(
    owner: Owner, deployment_id: UUID
) -> None:
    other = owner.buys(owner.sizes.one)
    owner.resize(deployment_id, owner.sizes.two)

    (told,) = owner.told("deployment_changed")
    assert (told["cause"], told["status"], told["product_id"]) == (
        "resized",
        "active",
        str(owner.sizes.two.product_id),
    )
    assert told["monthly_cost_micros"] == owner.sizes.two.price_micros
    assert owner.sees(other).product_id == owner.sizes.one.product_id


def test_a_name_of_its_owners_stays(owner: Owner, deployment_id: UUID) -> None:
    with owner.database.begin() as session:
        session.get_one(DeploymentRow, deployment_id).name = "Shop"

    assert owner.resize(deployment_id, owner.sizes.two).name == "Shop"


def test_up_and_down_again_costs_the_time_of_each_size(owner: Owner, deployment_id: UUID) -> None:
    quarter = (month(1) - BOUGHT) / 4
    before = owner.balance
    for number, size in enumerate(("two", "three", "half"), 1):
        owner.lives(BOUGHT + number * quarter)
        owner.resize(deployment_id, getattr(owner.sizes, size))

    # A quarter of a month each at one, two, three and half of the price: one was paid before.
    assert before - owner.balance == (PRICE + 2 * PRICE + 3 * PRICE + PRICE // 2) // 4 - PRICE
    # The last one gave back of what "three" and "two" had cost, and nothing of the month itself.
    back = select(PeriodRow.amount_micros).where(
        PeriodRow.deployment_id == deployment_id, PeriodRow.kind == PeriodKind.CREDIT
    )
    with owner.database.read() as session:
        assert sorted(session.scalars(back)) == [PRICE // 8, PRICE // 2]


def test_what_goes_back_is_of_what_this_one_cost(
    stack: System, owner: Owner, deployment_id: UUID
) -> None:
    """Others began their months at the same moment, and cost more."""
    for someone in (owner, Owner(stack, owner.database, owner.sizes)):
        someone.gets(10 * PRICE)
        other_id = someone.buys(owner.sizes.one)
        someone.lives(HALF)
        someone.resize(other_id, owner.sizes.three)
    paid_before = owner.balance

    owner.resize(deployment_id, owner.sizes.half)

    assert owner.balance - paid_before == PRICE // 4
    credit = select(PeriodRow.transaction_id).where(
        PeriodRow.deployment_id == deployment_id, PeriodRow.kind == PeriodKind.CREDIT
    )
    month_of = select(PurchaseRow.transaction_id).join(
        DeploymentRow, DeploymentRow.purchase_id == PurchaseRow.purchase_id
    )
    with owner.database.read() as session:
        paid_by = session.scalars(month_of.where(DeploymentRow.deployment_id == deployment_id))
        assert session.scalars(credit).all() == paid_by.all()


def test_a_resize_makes_billing_look_how_long_credits_last(
    owner: Owner, deployment_id: UUID
) -> None:
    with owner.database.begin() as session:
        session.execute(delete(RunwayRow).where(RunwayRow.user_id == owner.user_id))
    owner.lives(HALF)

    owner.resize(deployment_id, owner.sizes.two)

    with owner.database.read() as session:
        assert session.get_one(RunwayRow, owner.user_id).due_at is not None


@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_resizes_costs_what_each_size_ran_for(
    owner: Owner, deployment_id: UUID, seed: int
) -> None:
    chance = random.Random(seed)
    before, at, price = owner.balance, BOUGHT, PRICE
    exact = 0.0
    length = (month(1) - BOUGHT).total_seconds()
    moments = sorted(chance.uniform(0, length) for _ in range(8))
    for seconds in moments:
        moment = BOUGHT + timedelta(seconds=seconds)
        exact += price * (moment - at).total_seconds() / length
        to = chance.choice([each for each in owner.sizes if each.price_micros != price])
        owner.lives(moment)
        owner.resize(deployment_id, to)
        at, price = moment, to.price_micros
    exact += price * (month(1) - at).total_seconds() / length

    assert abs(before - owner.balance + PRICE - exact) <= len(moments)


def test_a_month_that_was_bought_with_a_discount_goes_back_as_it_was_paid(
    stack: System, owner: Owner
) -> None:
    seller = Tenant(stack, owner.database)
    family = f"less-{uuid4().hex[:12]}"
    small, large = (
        create(stack, name, price, family=family, provider_id=seller.user_id)
        for name, price in (("Small", PRICE), ("Large", 2 * PRICE))
    )
    before = owner.balance
    deployment_id = owner.buys(large, seller.user_id, discount_bps=500)
    paid = before - owner.balance
    earned = seller.balance
    owner.lives(HALF)
    question = ListResizes(user_id=owner.user_id, deployment_id=deployment_id)
    options = owner.resizes.options(question).options
    shown = {each.product_id: each.amount_micros for each in options}

    owner.resize(deployment_id, small, expected_amount_micros=shown[small.product_id])
    back = before - paid - owner.balance
    owner.resize(deployment_id, large)

    # Half of the price for half of the month, with 5 % off as it was bought.
    assert (paid, back) == (2 * PRICE * 95 // 100, -PRICE // 2 * 95 // 100)
    assert earned == 2 * PRICE * 9 // 10
    # A larger size is charged at its price, and who sells has what they would have without it.
    assert abs(before - owner.balance - (paid + PRICE // 2 * 5 // 100)) <= 1
    assert abs(seller.balance - earned) <= 2


def test_who_sells_gives_back_in_proportion_and_gets_in_proportion(
    stack: System, owner: Owner
) -> None:
    seller = Tenant(stack, owner.database)
    family = f"sold-{uuid4().hex[:12]}"
    small, large = (
        create(stack, name, price, family=family, provider_id=seller.user_id)
        for name, price in (("Small", PRICE), ("Large", 3 * PRICE))
    )
    deployment_id = owner.buys(small, seller.user_id)
    owner.lives(HALF)
    earned = [seller.balance]
    for to in (large, small):
        owner.resize(deployment_id, to)
        earned.append(seller.balance)
        owner.lives(HALF + INSTANT)

    ninety = PRICE * 9 // 10
    assert earned[:2] == [ninety, 2 * ninety]
    assert abs(earned[2] - ninety) <= 2


# What is refused.


def test_what_the_wallet_does_not_cover_changes_nothing_and_the_same_key_works_later(
    stack: System, database: Connected, sizes: Sizes
) -> None:
    owner = Owner(stack, database, sizes)
    owner.gets(PRICE + PRICE // 2 - 1)
    deployment_id = owner.buys(sizes.one)
    owner.lives(HALF)

    with pytest.raises(InsufficientFunds, match="It was not resized"):
        owner.resize(deployment_id, sizes.two, idempotency_key="a")
    seen = owner.sees(deployment_id)
    owner.runs(HALF + timedelta(minutes=1))
    refused = (seen.product_id, seen.owed_micros, owner.charged)
    owner.gets(PRICE)
    owner.runs(HALF + timedelta(minutes=2))
    later = owner.sees(deployment_id).product_id
    owner.resize(deployment_id, sizes.two, idempotency_key="a")

    assert refused == (sizes.one.product_id, 0, [])
    assert later == sizes.one.product_id
    assert owner.sees(deployment_id).product_id == sizes.two.product_id


def test_a_frozen_wallet_pays_for_no_larger_size(owner: Owner, deployment_id: UUID) -> None:
    owner.freezes()

    with pytest.raises(AccountFrozen):
        owner.resize(deployment_id, owner.sizes.two)
    assert owner.sees(deployment_id).product_id == owner.sizes.one.product_id


def test_what_is_no_other_size_is_refused(stack: System, owner: Owner, deployment_id: UUID) -> None:
    family = owner.sizes.one.family
    strangers = [
        create(stack, "Of no family", PRICE),
        create(stack, "Of another", PRICE, family="another-one"),
        create(stack, "Of another provider", PRICE, family=family, provider_id=uuid4()),
        create(stack, "Once", PRICE, family=family, billing_period=BillingPeriod.ONCE),
        create(stack, "Free", 0, family=family),
    ]
    retired = create(stack, "Retired", PRICE, family=family)
    stack.rpc.call(
        RetireProduct(idempotency_key=f"{uuid4()}", product_id=retired.product_id, **WHO)
    )
    stocked = create(stack, "Stocked", PRICE, family=family, stock=5)

    for stranger in strangers:
        with pytest.raises(BadRequest, match="no other size"):
            owner.resize(deployment_id, stranger)
    for other, reason in (
        (retired, "no longer sold"),
        (stocked, "an end to the stock"),
        (owner.sizes.one, "already"),
    ):
        with pytest.raises(Conflict, match=reason):
            owner.resize(deployment_id, other)
    offered = owner.resizes.options(ListResizes(user_id=owner.user_id, deployment_id=deployment_id))
    others = (owner.sizes.half, owner.sizes.two, owner.sizes.three)
    assert [each.product_id for each in offered.options] == [each.product_id for each in others]


def test_anothers_deployment_is_not_found(stack: System, owner: Owner, deployment_id: UUID) -> None:
    other = Owner(stack, owner.database, owner.sizes)

    with pytest.raises(NotFound):
        other.resize(deployment_id, owner.sizes.two)
    with pytest.raises(NotFound):
        other.resizes.options(ListResizes(user_id=other.user_id, deployment_id=deployment_id))


def test_what_has_ended_or_owes_its_month_is_not_resized(
    stack: System, database: Connected, sizes: Sizes
) -> None:
    owner = Owner(stack, database, sizes)
    owner.gets(PRICE)
    deployment_id = owner.buys(sizes.one)
    owner.lives(month(1))

    with pytest.raises(Conflict, match="Its month is due"):
        owner.resize(deployment_id, sizes.two)
    owner.cancels(deployment_id, CancelWhen.NOW)
    with pytest.raises(Conflict, match="cancelled"):
        owner.resize(deployment_id, sizes.two)


def test_the_instant_before_its_month_ends_it_is_resized_and_at_its_end_it_is_not(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.now = month(1) - INSTANT
    owner.resize(deployment_id, owner.sizes.two)
    owner.now = month(1)

    with pytest.raises(Conflict, match="Its month is due"):
        owner.resize(deployment_id, owner.sizes.one)


# What does not run.


def test_a_stopped_one_pays_for_the_month_that_it_may_still_run(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.lives(HALF)
    owner.stops(deployment_id)
    resized = owner.resize(deployment_id, owner.sizes.two)
    owner.starts(deployment_id)

    assert resized.status is DeploymentStatus.STOPPED
    assert owner.charged == [-PRICE // 2]


def test_after_its_month_a_stopped_one_changes_its_price_alone(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.stops(deployment_id)
    owner.lives(month(1) + DAY)
    owner.resize(deployment_id, owner.sizes.two)
    before = owner.charged
    owner.starts(deployment_id)

    assert (before, owner.charged) == ([], [-2 * PRICE])


def test_what_a_stopped_one_paid_for_its_size_is_no_part_of_what_its_start_was_seen_to_cost(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.stops(deployment_id)
    owner.lives(HALF)
    before = owner.balance
    owner.resize(deployment_id, owner.sizes.two)
    paid = before - owner.balance
    owner.lives(month(1) + DAY)

    with pytest.raises(PriceChanged):
        owner.starts(deployment_id, expected_micros=2 * PRICE + paid)

    assert (paid, before - owner.balance) == (PRICE // 2, PRICE // 2)


def test_a_suspended_one_changes_its_price_alone(
    stack: System, database: Connected, sizes: Sizes
) -> None:
    owner = Owner(stack, database, sizes)
    owner.gets(PRICE)
    deployment_id = owner.buys(sizes.one)
    owner.lives(month(1) + 5 * DAY)
    owed = owner.sees(deployment_id).owed_micros
    resized = owner.resize(deployment_id, sizes.two)

    assert resized.status is DeploymentStatus.SUSPENDED
    assert (resized.owed_micros, resized.monthly_cost_micros) == (owed, 2 * PRICE)
    assert owner.charged == []


# Repeated, lost, and at once.


def test_the_same_command_again_changes_nothing(owner: Owner, deployment_id: UUID) -> None:
    owner.lives(HALF)
    for _ in range(2):
        owner.resize(deployment_id, owner.sizes.two, idempotency_key="a")

    assert owner.charged == [-PRICE // 2]
    with pytest.raises(IdempotencyConflict):
        owner.resize(deployment_id, owner.sizes.three, idempotency_key="a")


@pytest.mark.parametrize("when", LOST)
def test_a_charge_whose_answer_is_lost_is_asked_about_again_and_made_once(
    owner: Owner, deployment_id: UUID, when: str
) -> None:
    owner.lives(HALF)
    owner.wire.lose(is_a(DebitAll), when)

    with pytest.raises(DeadlineExceeded):
        owner.resize(deployment_id, owner.sizes.two)
    before = owner.sees(deployment_id)
    owner.runs(HALF + DUE.lease - INSTANT)
    early = owner.sees(deployment_id).product_id
    owner.runs(HALF + DUE.lease)

    assert (before.product_id, before.owed_micros, early) == (
        owner.sizes.one.product_id,
        0,
        owner.sizes.one.product_id,
    )
    assert owner.sees(deployment_id).product_id == owner.sizes.two.product_id
    assert owner.charged == [-PRICE // 2]


@pytest.mark.parametrize("when", LOST)
def test_the_same_command_asks_about_a_charge_that_was_lost(
    owner: Owner, deployment_id: UUID, when: str
) -> None:
    owner.lives(HALF)
    owner.wire.lose(is_a(DebitAll), when)
    with pytest.raises(DeadlineExceeded):
        owner.resize(deployment_id, owner.sizes.two, idempotency_key="a")

    with pytest.raises(Conflict, match="being resized already"):
        owner.resize(deployment_id, owner.sizes.three)
    resized = owner.resize(deployment_id, owner.sizes.two, idempotency_key="a")

    assert resized.product_id == owner.sizes.two.product_id
    assert owner.charged == [-PRICE // 2]


def test_a_resize_whose_key_did_something_else_meanwhile_is_done_once_it_is_paid(
    owner: Owner, deployment_id: UUID
) -> None:
    other_id = owner.buys(owner.sizes.one)
    owner.lives(HALF)
    owner.wire.lose(is_a(DebitAll), "after it was done")
    with pytest.raises(DeadlineExceeded):
        owner.resize(deployment_id, owner.sizes.two, idempotency_key="k")
    renames(owner, other_id, key="k")

    owner.lives(owner.now + DUE.lease)

    resized = owner.sees(deployment_id)
    assert (resized.product_id, owner.charged) == (owner.sizes.two.product_id, [-PRICE // 2])
    assert resized.history[0].cause == ChangeCause.RESIZED
    with pytest.raises(IdempotencyConflict):
        owner.resize(deployment_id, owner.sizes.two, idempotency_key="k")
    assert owner.charged == [-PRICE // 2]


@pytest.mark.parametrize("when", LOST)
def test_what_goes_back_goes_back_once_though_the_answer_is_lost(
    owner: Owner, deployment_id: UUID, when: str
) -> None:
    owner.lives(HALF)
    before = owner.balance
    owner.wire.lose(is_a(Refund), when)

    resized = owner.resize(deployment_id, owner.sizes.half)
    owner.runs(HALF + DUE.lease)

    assert resized.product_id == owner.sizes.half.product_id
    assert owner.balance - before == PRICE // 4


@pytest.mark.parametrize("when", LOST)
def test_a_refusal_whose_closing_is_lost_leaves_nothing_to_be_charged(
    stack: System, database: Connected, sizes: Sizes, when: str
) -> None:
    owner = Owner(stack, database, sizes)
    owner.gets(PRICE)
    deployment_id = owner.buys(sizes.one)
    owner.wire.lose(is_a(CloseKey), when)

    with pytest.raises(InsufficientFunds):
        owner.resize(deployment_id, sizes.two)
    owner.gets(10 * PRICE)
    owner.runs(BOUGHT + 2 * DUE.lease)

    assert (owner.charged, owner.sees(deployment_id).product_id) == ([], sizes.one.product_id)


def test_what_was_paid_by_a_try_before_is_no_refusal_of_the_next_one(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.lives(HALF)
    owner.wire.lose(is_a(DebitAll), "after it was done")
    with pytest.raises(DeadlineExceeded):
        owner.resize(deployment_id, owner.sizes.two, idempotency_key="a")
    rules = RULES.model_copy(update={"charges_per_day_max": 0})
    none_today = replace(owner.renewals, rules=rules)

    command = owner.command(deployment_id, owner.sizes.two, idempotency_key="a")
    resized = Resizes(none_today).resize(command)

    assert (resized.product_id, owner.charged) == (owner.sizes.two.product_id, [-PRICE // 2])


@pytest.mark.parametrize("when", LOST)
def test_a_month_waits_until_it_is_known_which_size_it_is_for(
    owner: Owner, deployment_id: UUID, when: str
) -> None:
    owner.lives(month(1) - timedelta(seconds=30))
    owner.now = month(1) - timedelta(seconds=20)
    owner.wire.lose(is_a(DebitAll), when)
    with pytest.raises(DeadlineExceeded):
        owner.resize(deployment_id, owner.sizes.two)

    owner.lives(month(1) + 2 * DUE.lease)

    difference = cost_micros(BOUGHT, PRICE, month(1) - timedelta(seconds=20), month(1))
    assert owner.charged == [-difference, -2 * PRICE]


def test_a_month_is_not_written_down_beside_a_resize_that_is_being_committed(
    owner: Owner, deployment_id: UUID
) -> None:
    size = Size(owner.sizes.two.product_id, "Two", 2 * PRICE)
    owner.lives(month(1) - timedelta(seconds=30))
    begun_at = month(1) - timedelta(seconds=20)

    def resizes(session: Session) -> None:
        row = own_deployment(session, owner.user_id, deployment_id, locked=True)
        command = owner.command(deployment_id, owner.sizes.two)
        resizing.begin(session, begun_at, row, size, command, RULES)
        row.due_at = begun_at + DUE.lease

    with owner.database.begin() as holder:
        resizes(holder)
        holder.flush()
        with owner.database.begin() as session:
            assert owed_month(session, month(1), deployment_id) == []
    owner.lives(begun_at + 2 * DUE.lease)
    difference = cost_micros(BOUGHT, PRICE, begun_at, month(1))
    assert owner.charged == [-difference, -2 * PRICE]


def test_a_month_that_somebody_has_written_down_is_no_other_ones_to_charge(owner: Owner) -> None:
    deployment_id = owner.buys(owner.sizes.one)

    def owes_again() -> list[plain.Month]:
        with owner.database.begin() as session:
            return owed_month(session, month(1), deployment_id)

    with owner.database.begin() as holder:
        assert owed_month(holder, month(1), deployment_id)
        beside = owes_again()

    assert (beside, owes_again()) == ([], [])


def test_a_resize_that_waits_for_its_row_is_of_the_time_at_which_it_has_it(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.lives(month(1) - timedelta(seconds=30))

    def hold(session: Session) -> None:
        session.get_one(DeploymentRow, deployment_id, with_for_update=True)

    def month_ends() -> None:
        owner.now = month(1)

    with pytest.raises(Conflict, match="Its month is due"):
        done_after(
            owner.database, hold, lambda: owner.resize(deployment_id, owner.sizes.two), month_ends
        )

    assert owner.charged == []


def test_a_resize_beside_a_month_that_is_paid_does_not_wait_for_the_next_one(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.lives(month(1) - timedelta(seconds=30))
    command = owner.command(deployment_id, owner.sizes.two)

    def resizes() -> None:
        with owner.database.begin() as session:
            row = session.get_one(DeploymentRow, deployment_id)
            at = month(1) - timedelta(seconds=20)
            size = Size(owner.sizes.two.product_id, "Two", 2 * PRICE)
            session.execute(delete(PeriodRow).where(PeriodRow.deployment_id == deployment_id))
            resizing.begin(session, at, row, size, command, RULES)
            session.flush()
            periods.owe_month(session, owner.now, row, month(1))

    after_the_answer(owner, resizes)
    owner.runs(month(1))

    assert owner.sees(deployment_id).product_id == owner.sizes.two.product_id


@pytest.mark.parametrize("when", LOST)
def test_what_is_cancelled_before_it_is_known_whether_it_was_paid_costs_nothing(
    owner: Owner, deployment_id: UUID, when: str
) -> None:
    owner.lives(HALF)
    before = owner.balance
    owner.wire.lose(is_a(DebitAll), when)
    with pytest.raises(DeadlineExceeded):
        owner.resize(deployment_id, owner.sizes.two)

    owner.cancels(deployment_id, CancelWhen.NOW)
    owner.runs(HALF + 2 * DUE.lease)

    assert owner.balance == before
    assert owner.sees(deployment_id).product_id == owner.sizes.one.product_id


@pytest.mark.parametrize("act", ["cancels", "starts"])
def test_what_its_owner_does_with_its_month_puts_off_no_answer_that_was_lost(
    owner: Owner, deployment_id: UUID, act: str
) -> None:
    owner.lives(HALF)
    if act == "starts":
        owner.cancels(deployment_id)
    owner.wire.lose(is_a(DebitAll), "after it was done")
    with pytest.raises(DeadlineExceeded):
        owner.resize(deployment_id, owner.sizes.two)

    getattr(owner, act)(deployment_id)
    owner.runs(HALF + DUE.lease)

    assert owner.sees(deployment_id).product_id == owner.sizes.two.product_id


@pytest.mark.parametrize("when", LOST)
def test_what_goes_back_for_a_smaller_size_comes_though_it_was_cancelled_meanwhile(
    owner: Owner, deployment_id: UUID, when: str
) -> None:
    owner.lives(HALF)
    before = owner.balance
    owner.wire.lose(is_a(Refund), when)
    owner.resize(deployment_id, owner.sizes.half)

    owner.cancels(deployment_id, CancelWhen.NOW)
    owner.runs(HALF + DUE.lease)

    assert owner.balance - before == PRICE // 4


def test_what_ran_unpaid_costs_what_it_did_though_it_is_resized_before_that_is_charged(
    stack: System, database: Connected, sizes: Sizes
) -> None:
    owner = Owner(stack, database, sizes)
    owner.gets(PRICE)
    deployment_id = owner.buys(sizes.one)
    owner.runs(month(1))
    owner.now = month(1) + DAY
    owner.stops(deployment_id)
    owner.gets(10 * PRICE)

    owner.resize(deployment_id, sizes.three)
    owner.renewals.run()

    assert owner.charged == [-cost_micros(BOUGHT, PRICE, month(1), month(1) + DAY)]


@pytest.mark.parametrize("when", LOST)
def test_what_goes_back_for_a_smaller_size_comes_though_it_failed_meanwhile(
    owner: Owner, deployment_id: UUID, when: str
) -> None:
    owner.lives(HALF)
    before = owner.balance
    owner.wire.lose(is_a(Refund), when)
    owner.resize(deployment_id, owner.sizes.half)

    fails(owner, deployment_id)
    owner.runs(HALF + DUE.lease)
    Refunds(owner.database, cast(RpcClient, owner.wire), RULES, lambda: owner.now).run()

    assert owner.balance - before == PRICE


def test_of_two_at_once_one_waits_and_sees_what_the_other_made(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.lives(HALF)

    def hold(session: Any) -> None:
        row = session.get_one(DeploymentRow, deployment_id, with_for_update=True)
        row.product_id = owner.sizes.three.product_id

    with pytest.raises(Conflict, match="by somebody else"):
        done_after(owner.database, hold, lambda: owner.resize(deployment_id, owner.sizes.two))

    assert owner.charged == []


# The amount that was shown.


def test_an_amount_that_was_shown_is_charged_as_it_was(owner: Owner, deployment_id: UUID) -> None:
    owner.lives(HALF)
    shown = owner.resizes.options(ListResizes(user_id=owner.user_id, deployment_id=deployment_id))
    option = next(each for each in shown.options if each.product_id == owner.sizes.two.product_id)
    owner.now = HALF + timedelta(minutes=10) - INSTANT
    owner.resize(
        deployment_id,
        owner.sizes.two,
        expected_amount_micros=option.amount_micros,
        quoted_at=shown.quoted_at,
    )

    assert owner.charged == [-option.amount_micros] == [-PRICE // 2]


def test_an_amount_that_is_another_by_now_is_not_charged(owner: Owner, deployment_id: UUID) -> None:
    owner.lives(HALF)

    with pytest.raises(PriceChanged, match="Nothing was changed"):
        owner.resize(deployment_id, owner.sizes.two, expected_amount_micros=1)
    assert (owner.charged, owner.sees(deployment_id).product_id) == (
        [],
        owner.sizes.one.product_id,
    )


@pytest.mark.parametrize(
    "quoted_at",
    [HALF - timedelta(minutes=10), HALF + INSTANT, BOUGHT],
    ids=["too long ago", "in the future", "a month ago"],
)
def test_an_amount_of_another_time_is_not_taken(
    owner: Owner, deployment_id: UUID, quoted_at: datetime
) -> None:
    owner.lives(HALF)

    with pytest.raises(Conflict, match="out of date"):
        owner.resize(deployment_id, owner.sizes.two, quoted_at=quoted_at)
    assert owner.charged == []


def test_an_amount_from_before_another_resize_is_not_taken(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.lives(HALF)
    owner.resize(deployment_id, owner.sizes.two)
    owner.now = HALF + timedelta(minutes=1)

    with pytest.raises(Conflict, match="out of date"):
        owner.resize(deployment_id, owner.sizes.one, quoted_at=HALF)


def test_a_wallet_is_asked_for_nothing_else(owner: Owner, deployment_id: UUID) -> None:
    """The balance moves by the difference alone, also of who has other deployments."""
    owner.buys(owner.sizes.one)
    owner.lives(HALF)
    before = owner.balance
    owner.resize(deployment_id, owner.sizes.three)

    assert before - owner._rpc.call(GetWallet(user_id=owner.user_id)).balance_micros == PRICE


# Given back with the purchase.


@pytest.fixture
def seller_id() -> UUID:
    return uuid4()


@pytest.mark.parametrize("after", [timedelta(), 40 * DAY], ids=["at once", "a renewal later"])
@pytest.mark.parametrize("is_smaller_again", [False, True])
def test_what_a_larger_size_cost_in_the_month_of_the_purchase_goes_back_with_it(
    owner: Owner, seller_id: UUID, is_smaller_again: bool, after: timedelta
) -> None:
    before = owner.balance
    deployment_id = owner.buys(owner.sizes.one, seller_id)
    owner.lives(HALF)
    owner.resize(deployment_id, owner.sizes.three)
    if is_smaller_again:
        owner.lives(HALF + 2 * DAY)
        owner.resize(deployment_id, owner.sizes.two)
    owner.lives(HALF + 3 * DAY + after)
    renewed = [micros for micros in owner.charged if micros == -owner_price(owner, deployment_id)]

    refund_of(owner, deployment_id)

    # Months that were renewed, and a larger size in them, are no part of the purchase.
    assert before - owner.balance == -sum(renewed)
    assert bool(renewed) is bool(after)
    with owner.database.read() as session:
        sales = list_sales(session, ListSales(user_id=seller_id)).sales
    assert sum(sale.gross_micros - sale.refunded_micros for sale in sales) == -sum(renewed)
    wallet = owner._rpc.call(GetWallet(user_id=seller_id))
    assert wallet.balance_micros == sum(sale.net_micros for sale in sales)


def test_a_larger_size_in_a_month_that_was_renewed_is_no_part_of_the_purchase(
    owner: Owner, deployment_id: UUID
) -> None:
    owner.lives(month(1) + DAY)
    owner.resize(deployment_id, owner.sizes.two)
    before = owner.balance

    refund_of(owner, deployment_id)

    assert owner.balance - before == PRICE


def owner_price(owner: Owner, deployment_id: UUID) -> int:
    return owner.sees(deployment_id).monthly_cost_micros


def refund_of(owner: Owner, deployment_id: UUID) -> None:
    """Support gives the purchase back, and the timers do what is due."""
    command = RefundPurchase(
        idempotency_key=f"{uuid4()}",
        purchase_id=owner.sees(deployment_id).purchase_id,
        **WHO,
    )
    with owner.database.begin() as session:
        returns.refund_purchase(session, at(owner.now), command, owner.rules)
    owner.now += timedelta(minutes=2)
    rpc = cast(RpcClient, owner.wire)
    Refunds(owner.database, rpc, owner.rules, lambda: owner.now).run()
    owner.renewals.run()
    assert owner.sees(deployment_id).status == DeploymentStatus.CANCELLED
