"""The pools in a real browser, where they are switched on: with real dollars, by real processes."""

import re
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import select

from chassis.clock import utc_now
from chassis.database import connect
from contracts.billing import GetBurnRate, GetDiscounts
from contracts.wallet import Credit, GetWallet
from deploy.parts import SERVICES
from services.gateway.models import User
from services.legacy.pools import adjusting, verifying
from tests.conftest import StackFactory
from tests.e2e.conftest import NewVisitor, visiting
from tests.e2e.visitor import Visitor
from tests.patience import eventually
from tests.system import System

PAGE = "/dashboard/pools-advanced"
COIN = 1_000_000


@pytest.fixture(scope="module")
def pools_system(service_stack: StackFactory) -> Iterator[System]:
    started = service_stack(*SERVICES, "gateway", settings={"POOLS_PAGE": "true"})
    yield started
    started.close()


@pytest.fixture
def new_trader(browser: Browser, pools_system: System) -> Iterator[NewVisitor]:
    with visiting(browser, pools_system) as make:
        yield make


def given(system: System, visitor: Visitor, coins: int, dollars: int) -> UUID:
    """Who the visitor is, with some of the old coin, and dollars in the wallet."""
    gateway, legacy = (connect(system.database_url(name)) for name in ("gateway", "legacy"))
    with gateway.read() as session:
        user_id = session.scalars(select(User.user_id).where(User.email == visitor.email)).one()
    with legacy.begin() as session:
        adjusting.adjust(session, utc_now(), user_id, "TFP", coins * COIN, "tests: given")
    credit = Credit(
        idempotency_key=f"{uuid4()}",
        user_id=user_id,
        amount_micros=dollars * COIN,
        description="Tests",
    )
    system.rpc.call(credit)
    gateway.engine.dispose()
    legacy.engine.dispose()
    return user_id


def confirm(form: Locator, page: Page, button: str) -> None:
    form.get_by_role("button", name=button).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("?")
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("main")).to_contain_text("Done.")


@pytest.mark.soak
def test_somebody_provides_liquidity_exchanges_stakes_and_leaves(
    pools_system: System, new_trader: NewVisitor
) -> None:
    someone = new_trader()
    page = someone.page
    someone.register()
    user_id = given(pools_system, someone, coins=1_500, dollars=150)

    expect(page.locator("body")).not_to_contain_text("Pools")
    someone.open(PAGE)
    expect(page.locator("main")).to_contain_text("1,500")

    page.get_by_role("link", name="TFP–USD").click()
    page.get_by_label("TFP", exact=True).fill("1000")
    page.get_by_label("USD", exact=True).fill("100")
    confirm(page.locator("section", has_text="Add liquidity"), page, "Review")
    page.get_by_role("link", name="TFP–USD").click()
    page.get_by_label("You give").select_option("TFP")
    page.get_by_label("Amount").fill("100")
    confirm(page.locator("main"), page, "Get a quote")
    # 100 less 0.3 are 99.7; 99.7 ÷ 1099.7 of 100 are 9.066108.
    history = page.get_by_role("table").last
    expect(history.locator("tbody tr").first).to_contain_text("+$9.066108")
    assert pools_system.rpc.call(GetWallet(user_id=user_id)).balance_micros == 59_066_108

    page.get_by_label("Stake TFP").fill("400")
    page.get_by_role("button", name="Stake", exact=True).click()
    expect(page.locator("main")).to_contain_text("Staked.")
    expect(page.locator("main")).to_contain_text("You can unstake from")

    page.get_by_role("link", name="TFP–USD").click()
    page.get_by_label("How much").select_option("100")
    confirm(page.locator("section", has_text="How much"), page, "Review")
    wallet = pools_system.rpc.call(GetWallet(user_id=user_id))
    assert (wallet.balance_micros, wallet.held_micros) == (150 * COIN, 0)

    someone.open("/dashboard/wallet/transactions")
    expect(page.locator("tbody tr").first).to_contain_text("Pool exchange")
    expect(page.locator("body")).not_to_contain_text(re.compile("TFP"))
    legacy = connect(pools_system.database_url("legacy"))
    assert list(verifying.verify(legacy, pools_system.rpc)) == []
    legacy.engine.dispose()


def test_what_is_staked_takes_its_part_off_a_purchase_and_each_page_says_the_same(
    pools_system: System, new_trader: NewVisitor
) -> None:
    someone = new_trader()
    page, main = someone.page, someone.page.locator("main")
    someone.register()
    user_id = given(pools_system, someone, coins=1_000, dollars=100)

    def stakes(coins: int, discount_bps: int) -> None:
        someone.open(PAGE)
        page.get_by_label("Stake TFP").fill(str(coins))
        page.get_by_role("button", name="Stake", exact=True).click()
        expect(main).to_contain_text("Staked.")
        question = GetDiscounts(user_id=user_id, provider_ids=[None])
        eventually(lambda: pools_system.rpc.call(question).discounts_bps == [discount_bps])

    stakes(100, 200)
    expect(main).to_contain_text("5% from 1,000 TFP")
    someone.open("/marketplace/vm-starter/buy")
    expect(main).to_contain_text("Staking discount, first month")
    expect(main).to_contain_text("−$0.10")
    shown = page.url
    stakes(900, 500)
    someone.open(shown.removeprefix(pools_system.base_url))
    expect(main).to_contain_text("−$0.25")
    # The form as it was shown before: nothing is bought at another price than that.
    page.locator("input[name=unit_discount_micros]").evaluate("field => field.value = '100000'")
    page.get_by_role("button", name="Buy Now for $4.75").click()
    expect(page.locator("body")).to_contain_text("Your staking discount on VM-Starter is $0.25 now")

    someone.open("/marketplace/vm-starter")
    page.get_by_role("button", name="Buy Now").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("$5.00/month")
    expect(dialog).to_contain_text("−$0.25")
    expect(dialog).to_contain_text("$95.25")
    dialog.get_by_role("button", name="Buy Now for $4.75").click()
    expect(main).to_contain_text("$4.75 was paid from your credits")
    expect(main).to_contain_text("−$0.25")

    page.get_by_role("link", name="Receipt").click()
    expect(main).to_contain_text("Staking discount")
    expect(main).to_contain_text("$4.75")
    someone.open("/dashboard/wallet/transactions")
    expect(main.locator("tbody tr").first).to_contain_text("−$4.75")

    someone.open("/marketplace/vm-starter")
    page.get_by_role("button", name="Add to cart").first.click()
    someone.open("/cart")
    expect(main).to_contain_text("Staking discount, off this purchase")
    page.get_by_role("button", name="Buy all for $4.75").click()
    expect(main).to_contain_text("$4.75 was paid from your credits")
    wallet = pools_system.rpc.call(GetWallet(user_id=user_id))
    assert wallet.balance_micros == 90_500_000
    burn = pools_system.rpc.call(GetBurnRate(user_id=user_id))
    assert burn.monthly_burn_micros == 10 * COIN
