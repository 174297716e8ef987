"""What one user has or does is no other user's: neither of one who came before nor after."""

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest

from chassis.database import Connected
from contracts.billing import GetPurchase, ListDeployments, ListPurchases
from contracts.catalog import QuotedLine
from contracts.errors import NotFound
from services.billing.deployments.queries import list_deployments, what_burns
from services.billing.models import PurchaseRow
from services.billing.purchases import allowances, claims, lifecycle, refusals
from services.billing.purchases.queries import get_purchase, list_purchases
from services.billing.service import await_money
from services.billing.settings import BillingSettings
from tests.billing.conftest import NOW, RULES, quote_of, quoted, recorded
from tests.billing.test_allowances import stocked
from tests.billing.test_purchases import events

ONE_WAITS = BillingSettings(amqp_uri="", database_url="", waiting_purchases_max=1)


class Users(NamedTuple):
    """Three users, made in this order."""

    before: UUID
    mine: UUID
    after: UUID

    @property
    def others(self) -> tuple[UUID, UUID]:
        return self.before, self.after


@pytest.fixture
def users() -> Users:
    return Users(*(uuid4() for _ in range(3)))


def each_buys(database: Connected, users: Users, price_micros: int = 5_000_000) -> list[UUID]:
    """A purchase of each user that waits for money, in the order of the users."""
    made = []
    for minute, user_id in enumerate(users):
        at = NOW + timedelta(minutes=minute)
        claimed = recorded(database, quoted(price_micros), user_id=user_id, now=at)
        with database.begin() as session:
            lifecycle.wait_for_funds(session, at, claimed, 0, at, RULES)
        made.append(claimed.purchase_id)
    return made


def each_gets(database: Connected, users: Users, price_micros: int = 5_000_000) -> list[UUID]:
    """A deployment of each user, in the order of the users."""
    made = []
    for purchase_id in each_buys(database, users, price_micros):
        with database.begin() as session:
            row = lifecycle.complete(session, NOW, purchase_id, uuid4(), RULES)
            made += [deployment.deployment_id for deployment in row.deployments]
    return made


def test_purchases_listed_are_the_users_own(database: Connected, users: Users) -> None:
    _, mine, _ = each_buys(database, users)

    with database.read() as session:
        page = list_purchases(session, ListPurchases(user_id=users.mine), RULES)

    assert [purchase.purchase_id for purchase in page.purchases] == [mine]


def test_deployments_listed_are_the_users_own(database: Connected, users: Users) -> None:
    _, mine, _ = each_gets(database, users)

    with database.read() as session:
        page = list_deployments(session, NOW, ListDeployments(user_id=users.mine), RULES)

    assert [one.deployment_id for one in page.deployments] == [mine]


def test_what_burns_is_the_users_own(database: Connected, users: Users) -> None:
    _, mine, _ = each_gets(database, users)

    with database.read() as session:
        burning = what_burns(session, users.mine, limit=10, usage={})

    assert (burning.total, burning.monthly_micros) == (1, 5_000_000)
    assert [row.deployment_id for row in burning.dearest] == [mine]


def test_a_purchase_is_found_by_its_own_user_only(database: Connected, users: Users) -> None:
    made = each_buys(database, users)

    with database.read() as session:
        found = get_purchase(session, GetPurchase(user_id=users.mine, purchase_id=made[1]), RULES)
        for others in (made[0], made[2]):
            with pytest.raises(NotFound):
                get_purchase(session, GetPurchase(user_id=users.mine, purchase_id=others), RULES)

    assert found.purchase_id == made[1]


def test_money_makes_the_users_own_purchases_due(database: Connected, users: Users) -> None:
    made = each_buys(database, users)

    with database.begin() as session:
        awaited = await_money(session, [users.mine, uuid4()])
        count = len(claims.mark_owed(session, NOW, users.mine))

    with database.read() as session:
        owed = [session.get_one(PurchaseRow, one).try_owed_since is not None for one in made]
    assert (awaited, count, owed) == ([True, False], 1, [False, True, False])


def test_what_is_owed_a_try_is_the_users_own(database: Connected, users: Users) -> None:
    _, mine, _ = each_buys(database, users)
    with database.begin() as session:
        for user_id in users:
            claims.mark_owed(session, NOW, user_id)

    with database.read() as session:
        assert claims.owed_purchases(session, users.mine) == [mine]


def test_an_explanation_is_told_on_the_users_own_purchases(
    database: Connected, users: Users
) -> None:
    made = each_buys(database, users)

    with database.begin() as session:
        later = NOW + timedelta(hours=1)
        refusals.explain(session, later, users.mine, "card_declined", "Your card was declined.")

    with database.read() as session:
        codes = [session.get_one(PurchaseRow, one).status_code for one in made]
    assert codes == ["", "card_declined", ""]


def wait_for_money(database: Connected, user_id: UUID) -> None:
    recorded(database, user_id=user_id, rules=ONE_WAITS)


def free_on_their_way(database: Connected, user_id: UUID) -> None:
    with database.read() as session:
        allowances.refuse_too_many_free(session, user_id, quote_of(quoted(0, quantity=6)), RULES)


@pytest.mark.parametrize(
    ("others_have", "allowance"),
    [(quoted(5_000_000), wait_for_money), (quoted(0, quantity=5), free_on_their_way)],
    ids=["waiting", "free"],
)
def test_what_others_wait_for_takes_nothing_from_the_users_allowance(
    database: Connected,
    users: Users,
    others_have: QuotedLine,
    allowance: Callable[[Connected, UUID], None],
) -> None:
    for user_id in users.others:
        recorded(database, others_have, user_id=user_id)

    allowance(database, users.mine)


def test_free_things_that_others_have_take_nothing_from_the_users_allowance(
    database: Connected, users: Users
) -> None:
    for user_id in users.others:
        claimed = recorded(database, quoted(0, quantity=10), user_id=user_id)
        with database.begin() as session:
            lifecycle.complete(session, NOW, claimed.purchase_id, None, RULES)

    assert recorded(database, quoted(0, quantity=10), user_id=users.mine) is not None


def test_stock_that_others_hold_takes_nothing_from_the_users_allowance(
    database: Connected, users: Users
) -> None:
    line = stocked(100, 3)
    for user_id in users.others:
        recorded(database, line, user_id=user_id)

    with database.read() as session:
        may_hold = allowances.may_hold_stock(session, NOW, users.mine, quote_of(line), RULES)

    assert may_hold


def test_the_total_shortfall_is_of_the_users_own_purchases(
    database: Connected, users: Users
) -> None:
    each_buys(database, users)

    totals = [
        event["total_shortfall_micros"] for event in events(database, "purchase_short_of_funds")
    ]
    assert totals == [5_000_000, 5_000_000, 5_000_000]
