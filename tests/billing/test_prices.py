"""A product's new price, on a clock that is set: told first, and charged when its time has come."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chassis.database import Connected
from contracts.billing import DeploymentStatus, GetDeployment, PurchaseLine, StartPurchase
from contracts.catalog import (
    BillingPeriod,
    Category,
    ChangeProduct,
    CreateProduct,
    ProductPriceChanged,
)
from contracts.wallet import Credit, OpenAccount
from services.billing.deployments import prices
from services.billing.deployments.months import cost_micros
from services.billing.models import DeploymentRow, PriceNoticeRow
from tests.billing.conftest import RULES, at
from tests.billing.test_forecast import events, foretold
from tests.billing.test_renewals import BOUGHT, DAY, PRICE, Tenant, month
from tests.locks import done_after
from tests.patience import eventually
from tests.system import System

DEARER, CHEAPER = PRICE + 4_000_000, PRICE - 4_000_000
NOTICE = RULES.price_notice
INSTANT = timedelta(microseconds=1)


@pytest.fixture
def database(database: Connected) -> Connected:
    with database.begin() as session:
        session.execute(text("TRUNCATE price_notices"))
    return database


@pytest.fixture
def tenant(stack: System, database: Connected) -> Tenant:
    tenant = Tenant(stack, database)
    tenant.gets(10 * PRICE)
    return tenant


def row_of(database: Connected, deployment_id: UUID) -> DeploymentRow:
    with database.read() as session:
        return session.get_one(DeploymentRow, deployment_id)


def costs(database: Connected, product_id: UUID, price_micros: int, changed_at: datetime) -> None:
    event = ProductPriceChanged(
        event_id=uuid4(),
        occurred_at=changed_at,
        product_id=product_id,
        old_price_micros=0,
        price_micros=price_micros,
    )
    with database.begin() as session:
        prices.note(session, changed_at, event)


def tells(database: Connected, now: datetime) -> None:
    is_due = True
    while is_due:
        with database.begin() as session:
            is_due = prices.tell_some(session, at(now), RULES)


def next_at(database: Connected) -> datetime | None:
    with database.read() as session:
        return prices.next_at(session)


class Priced:
    """A tenant with one deployment whose product gets another price."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant, self.database = tenant, tenant.database
        (self.deployment_id,) = tenant.deploys()
        self.product_id = row_of(tenant.database, self.deployment_id).product_id

    def costs(self, price_micros: int, at: datetime) -> None:
        costs(self.database, self.product_id, price_micros, at)
        tells(self.database, at)

    @property
    def told(self) -> list[tuple[int, int, str]]:
        return [
            (each["old_price_micros"], each["new_price_micros"], each["applies_from"])
            for each in self.tenant.told("price_announced")
        ]


@pytest.fixture
def priced(tenant: Tenant) -> Priced:
    return Priced(tenant)


def test_a_dearer_price_is_told_and_charged_for_the_first_month_after_the_notice(
    priced: Priced,
) -> None:
    changed_at = month(1) - 10 * DAY
    priced.tenant.lives(changed_at)
    priced.costs(DEARER, changed_at)
    priced.tenant.lives(month(3) + DAY)

    assert priced.tenant.charged == [-PRICE, -DEARER, -DEARER]
    (told,) = priced.told
    assert told[:2] == (PRICE, DEARER)
    assert datetime.fromisoformat(told[2]) == changed_at + NOTICE


@pytest.mark.parametrize(
    ("late_by", "charged"), [(timedelta(0), DEARER), (INSTANT, PRICE)], ids=["in time", "too late"]
)
def test_the_notice_has_passed_in_the_instant_in_which_it_ends(
    priced: Priced, late_by: timedelta, charged: int
) -> None:
    changed_at = month(2) - NOTICE + late_by
    priced.tenant.lives(changed_at)
    priced.costs(DEARER, changed_at)
    priced.tenant.lives(month(2))

    assert priced.tenant.charged[-1] == -charged


def test_a_cheaper_price_is_charged_for_the_next_month(priced: Priced) -> None:
    priced.costs(CHEAPER, month(1) - DAY)
    priced.tenant.lives(month(1))

    assert priced.tenant.charged == [-CHEAPER]


def test_months_that_an_outage_left_undone_cost_what_they_would_have_cost(
    priced: Priced,
) -> None:
    priced.costs(DEARER, month(2) - NOTICE)
    priced.tenant.now = month(3) + DAY
    priced.tenant.renewals.run()

    assert priced.tenant.charged == [-PRICE, -DEARER, -DEARER]


def test_what_an_outage_let_run_unpaid_costs_what_each_of_its_months_did(
    stack: System, database: Connected
) -> None:
    tenant = Tenant(stack, database)
    priced = Priced(tenant)
    priced.costs(DEARER, month(2) - NOTICE)
    tenant.runs(month(2) + DAY)
    tenant.stops(priced.deployment_id)
    tenant.gets(10 * PRICE)
    tenant.renewals.run()

    assert tenant.charged == [-PRICE - cost_micros(BOUGHT, DEARER, month(2), month(2) + DAY)]


@pytest.mark.parametrize("price_micros", [DEARER, 0])
def test_the_forecast_knows_the_price_of_each_month(priced: Priced, price_micros: int) -> None:
    priced.tenant.lives(BOUGHT + DAY)
    changed_at = month(2) - NOTICE if price_micros else BOUGHT + DAY
    priced.costs(price_micros, changed_at)

    forecast = foretold(priced.tenant, days=90)
    planned = [due.amount_micros for due in forecast.due_next]
    charged = [amount for _, kind, amount in events(forecast) if kind == "renewal"]
    priced.tenant.lives(BOUGHT + 91 * DAY - INSTANT)

    assert planned == charged == [-amount for amount in priced.tenant.charged]


def test_the_page_and_the_announcement_say_what_the_next_month_costs(priced: Priced) -> None:
    priced.costs(CHEAPER, month(1) - 5 * DAY)
    seen = priced.tenant.sees(priced.deployment_id)
    priced.tenant.lives(month(1) - DAY)

    assert (seen.monthly_cost_micros, seen.next_renewal_micros) == (PRICE, CHEAPER)
    assert (seen.new_price_micros, seen.new_price_from) == (CHEAPER, month(1) - 5 * DAY)
    assert [each["amount_micros"] for each in priced.tenant.told("renewal_announced")] == [CHEAPER]


def test_a_price_that_has_begun_is_no_news_any_more(priced: Priced) -> None:
    priced.costs(CHEAPER, month(1) - DAY)
    priced.tenant.lives(month(1))
    seen = priced.tenant.sees(priced.deployment_id)

    assert (seen.monthly_cost_micros, seen.new_price_micros, seen.new_price_from) == (
        CHEAPER,
        None,
        None,
    )


def test_what_is_told_last_counts_and_a_price_that_comes_back_is_told_too(
    priced: Priced,
) -> None:
    priced.costs(DEARER, BOUGHT + DAY)
    priced.costs(DEARER + 1, BOUGHT + 2 * DAY)
    priced.costs(PRICE, BOUGHT + 3 * DAY)
    priced.tenant.lives(month(2) + DAY)

    assert [new for _, new, _ in priced.told] == [DEARER, DEARER + 1, PRICE]
    assert priced.tenant.charged == [-PRICE, -PRICE]


def test_of_two_changes_that_arrive_in_another_order_the_later_one_counts(
    priced: Priced,
) -> None:
    costs(priced.database, priced.product_id, CHEAPER, BOUGHT + 2 * DAY)
    costs(priced.database, priced.product_id, DEARER, BOUGHT + DAY)
    tells(priced.database, BOUGHT + 3 * DAY)

    assert [new for _, new, _ in priced.told] == [CHEAPER]


def test_only_who_has_the_product_is_told_and_only_once(
    priced: Priced, stack: System, database: Connected
) -> None:
    other = Tenant(stack, database)
    (others,) = other.deploys()
    priced.costs(DEARER, BOUGHT + DAY)
    priced.costs(DEARER, BOUGHT + 2 * DAY)

    assert len(priced.told) == 1
    assert other.told("price_announced") == []
    assert row_of(database, others).new_price_micros is None


def test_what_has_ended_and_what_is_free_is_told_nothing(priced: Priced) -> None:
    with priced.database.begin() as session:
        row = session.get_one(DeploymentRow, priced.deployment_id)
        row.monthly_cost_micros = 0
    priced.costs(DEARER, BOUGHT + DAY)
    with priced.database.begin() as session:
        row = session.get_one(DeploymentRow, priced.deployment_id)
        row.monthly_cost_micros, row.status = PRICE, DeploymentStatus.CANCELLED.value
    priced.costs(DEARER + 1, BOUGHT + 2 * DAY)

    assert priced.told == []


def test_what_is_to_cost_nothing_is_neither_announced_nor_charged(
    priced: Priced, caplog: pytest.LogCaptureFixture
) -> None:
    priced.costs(0, BOUGHT + DAY)
    priced.tenant.lives(month(2))

    assert priced.tenant.charged == []
    assert priced.tenant.told("renewal_announced") == []
    assert "a deployment is left out" not in caplog.text
    seen = priced.tenant.sees(priced.deployment_id)
    assert (seen.status, seen.monthly_cost_micros, seen.next_renewal_at) == ("active", 0, None)


@pytest.mark.parametrize(("after", "charged"), [(NOTICE, DEARER), (NOTICE - INSTANT, PRICE)])
def test_who_starts_it_again_pays_what_a_month_costs_by_then(
    priced: Priced, after: timedelta, charged: int
) -> None:
    stopped_at = month(1) - DAY
    priced.tenant.lives(stopped_at)
    priced.costs(DEARER, stopped_at)
    priced.tenant.stops(priced.deployment_id)
    priced.tenant.now = stopped_at + after
    assert priced.tenant.now > month(1)
    priced.tenant.starts(priced.deployment_id)

    assert priced.tenant.charged == [-charged]


def test_a_purchase_that_is_completed_behind_whoever_told_the_others_is_told_later(
    priced: Priced,
) -> None:
    priced.costs(DEARER, BOUGHT + DAY)
    (late,) = priced.tenant.deploys()
    with priced.database.begin() as session:
        session.get_one(DeploymentRow, late).product_id = priced.product_id
    again_at = next_at(priced.database)
    assert again_at == BOUGHT + DAY + RULES.purchase_lifetime + prices.PURCHASES_END_WITHIN

    tells(priced.database, again_at - INSTANT)
    before = row_of(priced.database, late).new_price_micros
    tells(priced.database, again_at)

    assert (before, row_of(priced.database, late).new_price_micros) == (None, DEARER)
    assert len(priced.told) == 2
    assert next_at(priced.database) is None


def test_many_are_told_a_few_at_a_time_and_a_crash_between_tells_nobody_twice(
    priced: Priced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "AT_ONCE", 2)
    more = priced.tenant.deploys(quantity=4)
    with priced.database.begin() as session:
        for deployment_id in more:
            session.get_one(DeploymentRow, deployment_id).product_id = priced.product_id
    costs(priced.database, priced.product_id, DEARER, BOUGHT + DAY)

    counts = []
    for _ in range(3):
        with priced.database.begin() as session:
            prices.tell_some(session, at(BOUGHT + DAY), RULES)
        counts.append(len(priced.told))

    assert counts == [2, 4, 5]


def test_who_tells_waits_for_whoever_changes_a_deployment(priced: Priced) -> None:
    costs(priced.database, priced.product_id, DEARER, BOUGHT + DAY)

    def renames(session: Any) -> None:
        row = session.get_one(DeploymentRow, priced.deployment_id, with_for_update=True)
        row.monthly_cost_micros = DEARER

    def tell() -> None:
        with priced.database.begin() as session:
            prices.tell_some(session, at(BOUGHT + DAY), RULES)

    done_after(priced.database, renames, tell)

    assert priced.told == []


def test_two_never_tell_of_one_product_at_once(priced: Priced) -> None:
    costs(priced.database, priced.product_id, DEARER, BOUGHT + DAY)

    with priced.database.begin() as session:
        session.get_one(PriceNoticeRow, priced.product_id, with_for_update=True)
        with priced.database.begin() as other:
            assert not prices.tell_some(other, at(BOUGHT + DAY), RULES)

    assert priced.told == []


def test_who_has_a_product_hears_from_the_catalog_that_its_price_changes(stack: System) -> None:
    user_id = uuid4()
    stack.rpc.call(OpenAccount(idempotency_key=f"open:{user_id}", user_id=user_id))
    stack.rpc.call(
        Credit(
            idempotency_key=f"credit:{user_id}",
            user_id=user_id,
            amount_micros=PRICE,
            description="Credits",
        )
    )
    who = {"reason": "A test", "actor": "a test"}
    product = stack.rpc.call(
        CreateProduct(
            idempotency_key=f"{uuid4()}",
            slug=f"vm-{uuid4().hex[:12]}",
            name="VM",
            category=Category.COMPUTE,
            summary="A machine",
            provider_name="Example Provider",
            price_micros=PRICE,
            billing_period=BillingPeriod.MONTH,
            **who,
        )
    )
    line = PurchaseLine(product_id=product.product_id)
    bought = stack.rpc.call(
        StartPurchase(idempotency_key=f"{uuid4()}", user_id=user_id, lines=[line])
    )

    stack.rpc.call(
        ChangeProduct(
            idempotency_key=f"{uuid4()}",
            product_id=product.product_id,
            price_micros=DEARER,
            **who,
        )
    )

    question = GetDeployment(user_id=user_id, deployment_id=bought.deployment_ids[0])
    seen = eventually(lambda: stack.rpc.call(question), lambda it: it.new_price_micros)
    assert (seen.monthly_cost_micros, seen.new_price_micros) == (PRICE, DEARER)
