"""Pools on a real database: double entry, quotes, shares, staking; without dollars."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from chassis.database import Connected
from contracts.errors import BadRequest, Conflict, IdempotencyConflict, NotFound
from contracts.legacy import GetPoolHistory, OrderStatus, PoolChange, TakeQuote
from services.legacy.pools import benefits, opening, orders, queries, verifying
from tests.legacy.pools import COIN, NOON, Trader, empty, reserves
from tests.locks import done_after

POOL = "TFP-EUR"


@pytest.fixture
def database(legacy_database: Connected) -> Iterator[Connected]:
    with legacy_database.begin() as session:
        session.execute(text("TRUNCATE moves, lines, plans, outbox"))
        empty(session)
    yield legacy_database
    assert differences(legacy_database) == []
    with legacy_database.begin() as session:
        empty(session)


def differences(database: Connected) -> list[str]:
    """What the book's own checks find."""
    with database.snapshot() as session:
        return [each for check in verifying.CHECKS for each in session.scalars(text(check))]


@pytest.fixture
def ann(database: Connected) -> Trader:
    """Who has 1,000 of two coins, of which 100 and 200 are all that is in a pool."""
    trader = Trader(database)
    trader.has("TFP", 1_000)
    trader.has("EUR", 1_000)
    trader.takes(trader.asks_to_add(POOL, 100, 200))
    return trader


def test_a_quote_says_rate_fee_and_impact_and_is_what_comes_of_it(ann: Trader) -> None:
    quote = ann.asks(POOL, "TFP", 10)
    order = ann.takes(quote)

    # 10 less 0.03 are 9.97; 9.97 ÷ 109.97 of 200 are 18.132218.
    assert quote.change == PoolChange(base_units=-10 * COIN, other_units=18_132_217)
    assert (quote.fee_units, quote.rate, quote.impact_ppm) == (30_000, "1.81322", 90_662)
    assert (order.status, order.base_units, order.other_units) == (
        OrderStatus.DONE, -10 * COIN, 18_132_217,
    )  # fmt: skip
    assert ann.holdings == {"TFP": 890 * COIN, "EUR": 818_132_217}
    assert reserves(ann, POOL)[:2] == (110 * COIN, 181_867_783)


def test_the_history_tells_all_of_it_newest_first(ann: Trader) -> None:
    ann.takes(ann.asks(POOL, "TFP", 10))

    shares = reserves(ann, POOL)[2]
    told = [
        ("exchange", {"TFP": -10 * COIN, "EUR": 18_132_217}),
        ("add", {"TFP": -100 * COIN, "EUR": -200 * COIN, POOL: shares}),
        ("adjustment", {"EUR": 1_000 * COIN}),
        ("adjustment", {"TFP": 1_000 * COIN}),
    ]
    assert ann.history() == told
    with ann.database.read() as session:
        first = queries.history(session, GetPoolHistory(user_id=ann.user_id, limit=2))
        asked = GetPoolHistory(user_id=ann.user_id, cursor=first.next_cursor, limit=2)
        rest = queries.history(session, asked)
    assert [entry.kind for entry in [*first.entries, *rest.entries]] == [kind for kind, _ in told]
    assert rest.next_cursor is None


def test_the_same_key_is_one_exchange_and_another_body_is_refused(ann: Trader) -> None:
    quote, other = ann.asks(POOL, "TFP", 10), ann.asks(POOL, "TFP", 10)
    first = ann.takes(quote, "key")
    held = ann.holdings

    assert ann.takes(quote, "key").order_id == first.order_id
    with pytest.raises(IdempotencyConflict):
        ann.takes(other, "key")
    assert ann.holdings == held


def test_a_quote_is_taken_once(ann: Trader) -> None:
    quote = ann.asks(POOL, "TFP", 10)
    ann.takes(quote)

    with pytest.raises(Conflict, match="was taken before"):
        ann.takes(quote)


def test_a_quote_is_good_for_a_minute_to_the_instant(ann: Trader) -> None:
    first, second = ann.asks(POOL, "TFP", 1), ann.asks(POOL, "TFP", 1)
    ann.passes(seconds=60)
    ann.takes(first, slippage_bps=0)
    ann.passes(microseconds=1)

    with pytest.raises(Conflict, match="too old"):
        ann.takes(second)
    assert ann.pools.under_way is None


def test_a_rate_that_moved_by_more_than_is_allowed_exchanges_nothing(ann: Trader) -> None:
    quote, again = ann.asks(POOL, "TFP", 10), ann.asks(POOL, "TFP", 10)
    ann.takes(ann.asks(POOL, "TFP", 1))
    held = ann.holdings

    with pytest.raises(Conflict, match="The rate has moved"):
        ann.takes(quote, slippage_bps=100)
    assert ann.holdings == held
    # 17.80 for 18.13 are 1.8 % less.
    assert ann.takes(again, slippage_bps=200).status == OrderStatus.DONE


def test_the_least_that_is_allowed_counts_to_the_unit(ann: Trader) -> None:
    quote, again = ann.asks(POOL, "TFP", 10), ann.asks(POOL, "TFP", 10)
    ann.takes(ann.asks(POOL, "TFP", 1))
    got = ann.asks(POOL, "TFP", 10).change.other_units
    enough = next(
        bps
        for bps in range(5_000)
        if -(-quote.change.other_units * (10_000 - bps) // 10_000) <= got
    )

    with pytest.raises(Conflict, match="The rate has moved"):
        ann.takes(quote, slippage_bps=enough - 1)
    assert ann.takes(again, slippage_bps=enough).other_units == got


def test_two_who_exchange_at_the_same_moment_do_so_one_after_the_other(ann: Trader) -> None:
    ben = Trader(ann.database)
    ben.has("TFP", 10)
    first, second = ann.asks(POOL, "TFP", 10), ben.asks(POOL, "TFP", 10)
    command = TakeQuote(
        idempotency_key="first", user_id=ann.user_id, quote_id=first.quote_id, slippage_bps=0
    )

    got = done_after(
        ann.database,
        lambda session: orders.take_quote(session, ann.now, command),
        lambda: ben.takes(second, slippage_bps=5_000).other_units,
    )

    assert got < first.change.other_units
    assert reserves(ann, POOL)[1] == 200 * COIN - first.change.other_units - got


def test_what_is_somebody_elses_is_as_if_it_were_not_there(ann: Trader) -> None:
    ben = Trader(ann.database)
    ben.has("TFP", 10)
    quote = ann.asks(POOL, "TFP", 10)
    ann.takes(ann.asks(POOL, "TFP", 1), "key")

    with pytest.raises(NotFound, match="no such quote"):
        ben.takes(quote)
    with pytest.raises(Conflict, match="You have 0 shares"):
        ben.asks_to_withdraw(POOL, 1)
    # Another's key is one's own to use.
    assert ben.takes(ben.asks(POOL, "TFP", 1), "key").user_id == ben.user_id
    assert [kind for kind, _ in ben.history()] == ["exchange", "adjustment"]
    assert ben.pools.staked.units == 0
    assert {each.own_share_units for each in ben.pools.pools} == {0}


def test_nobody_gives_what_they_have_not_got(ann: Trader) -> None:
    quote = ann.asks(POOL, "TFP", 901)

    with pytest.raises(Conflict, match="You have 900 TFP, and this takes 901"):
        ann.takes(quote)
    assert ann.takes(ann.asks(POOL, "TFP", 900)).status == OrderStatus.DONE
    assert "TFP" not in ann.holdings


@pytest.mark.parametrize(
    ("pool", "give", "refusal"),
    [("TFP-GBP", "TFP", NotFound), (POOL, "USD", BadRequest), (POOL, "CAD", BadRequest)],
)
def test_what_there_is_not_is_refused(
    ann: Trader, pool: str, give: str, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        ann.asks(pool, give, 1)


def test_liquidity_is_taken_at_the_rate_of_the_pool_and_comes_back_with_its_fees(
    ann: Trader,
) -> None:
    ben = Trader(ann.database)
    ben.has("TFP", 50)
    ben.has("EUR", 500)
    added = ben.takes(ben.asks_to_add(POOL, 50, 500))

    assert (added.base_units, added.other_units) == (-50 * COIN, -100 * COIN)
    ann.takes(ann.asks(POOL, "TFP", 30))
    ann.takes(ann.asks(POOL, "EUR", ann.holdings["EUR"] / COIN - 800))
    left = ben.takes(ben.asks_to_withdraw(POOL, added.share_units))
    assert left.base_units * left.other_units > 50 * 100 * COIN**2
    assert ben.pools.pools[1].own_share_units == 0


def test_a_pool_that_was_emptied_begins_anew_at_any_rate(ann: Trader) -> None:
    ann.takes(ann.asks_to_withdraw(POOL, reserves(ann, POOL)[2]))

    assert reserves(ann, POOL) == (0, 0, 0)
    assert ann.holdings == {"TFP": 1_000 * COIN, "EUR": 1_000 * COIN}
    with pytest.raises(Conflict, match="This pool is empty"):
        ann.asks(POOL, "TFP", 1)
    ann.takes(ann.asks_to_add(POOL, 1, 7))
    assert reserves(ann, POOL)[:2] == (COIN, 7 * COIN)


def test_two_who_begin_a_pool_do_not_get_the_same_shares(ann: Trader) -> None:
    first, second = ann.asks_to_add("TFP-TFT", 1, 1), ann.asks_to_add("TFP-CAD", 1, 1)
    ann.has("TFT", 100)
    ann.has("CAD", 100)
    ann.takes(first)
    ann.takes(second)
    late = ann.asks_to_add("TFP-CAD", 2, 1)

    assert late.change.base_units == late.change.other_units == -COIN


def test_what_is_staked_is_not_free_and_comes_back_after_thirty_days(ann: Trader) -> None:
    ann.stakes(400)
    begun = ann.now

    assert ann.holdings["TFP"] == 500 * COIN
    assert ann.pools.staked.units == 400 * COIN
    with pytest.raises(Conflict, match="stays so until 28 Dec 2026, 12:00 UTC"):
        ann.unstakes(1)
    ann.passes(days=30)
    assert ann.pools.staked.free_at is None
    with pytest.raises(Conflict, match="You have 400 TFP staked"):
        ann.unstakes(401)
    ann.unstakes(400)
    assert (ann.holdings["TFP"], ann.pools.staked.units) == (900 * COIN, 0)
    ann.now = begun


def test_staking_again_begins_the_thirty_days_again(ann: Trader) -> None:
    ann.stakes(1)
    ann.passes(days=29)
    ann.stakes(1)
    ann.passes(days=29)

    with pytest.raises(Conflict, match="stays so"):
        ann.unstakes(1)


def test_staking_twice_with_the_same_key_stakes_once(ann: Trader) -> None:
    ann.stakes(1, "key")
    ann.stakes(1, "key")

    assert ann.pools.staked.units == COIN
    with pytest.raises(IdempotencyConflict):
        ann.stakes(2, "key")
    with pytest.raises(IdempotencyConflict):
        ann.unstakes(1, "key")


def heard(trader: Trader) -> list[tuple[int, int]]:
    """What billing is to take off for somebody, and the counts by which it knows the newest."""
    query = text(
        "SELECT payload FROM outbox WHERE type = 'staking_discount_changed'"
        " AND payload ->> 'user_id' = :user_id ORDER BY id"
    )
    with trader.database.read() as session:
        told = session.scalars(query, {"user_id": str(trader.user_id)}).all()
    return [(each["discount_bps"], each["position"]) for each in told]


def test_what_staking_takes_off_is_told_where_it_changes_to_the_unit(database: Connected) -> None:
    ann, ben = Trader(database), Trader(database)
    ann.has("TFP", 20_000)
    ben.has("TFP", 100)

    for coins in (99, 1, 899, 1, 8_999, 1, 1):
        ann.stakes(coins)
    ben.stakes(99)
    assert heard(ann) == [(200, 2), (500, 4), (1_000, 6)]
    assert ann.pools.staked.discount_bps == 1_000
    ann.passes(days=30)
    for coins in (1, 1, 9_899, 100):
        ann.unstakes(coins)

    assert heard(ann)[3:] == [(500, 9), (200, 10), (0, 11)]
    assert heard(ben) == []
    assert [each.discount_bps for each in ann.pools.staked.tiers] == [200, 500, 1_000]


def test_a_stake_that_is_undone_takes_nothing_off_and_what_fails_is_not_told(
    ann: Trader,
) -> None:
    with ann.database.begin() as session:
        brought = [{"coin": "TFP", "units": 150 * COIN, "is_staked": True}]
        opening.open_accounts(session, ann.now, {ann.user_id: brought})
    with pytest.raises(Conflict):
        ann.stakes(100_000)
    with ann.database.begin() as session:
        opening.close_accounts(session, ann.now, {ann.user_id: brought})

    assert heard(ann) == [(200, 1), (0, 2)]


def test_two_who_open_accounts_at_the_same_moment_do_so_one_after_the_other(
    database: Connected,
) -> None:
    """They come out of the same accounts of the house, which the second finds as the first left
    them."""
    first, second = ([Trader(database) for _ in range(3)] for _ in range(2))
    brought = [
        {"coin": coin, "units": 150 * COIN, "is_staked": is_staked}
        for coin, is_staked in (("TFP", True), ("TFP", False), ("TFT", False))
    ]

    def begin(session: Session) -> None:
        opening.open_accounts(session, NOON, {each.user_id: brought for each in first})

    def follow() -> None:
        with database.begin() as session:
            opening.open_accounts(session, NOON, {each.user_id: brought for each in second})

    done_after(database, begin, follow)

    for each in (*first, *second):
        assert each.holdings == {"TFP": 150 * COIN, "TFT": 150 * COIN}
        assert (each.pools.staked.units, heard(each)) == (150 * COIN, [(200, 1)])


def test_of_several_who_open_accounts_one_may_have_nothing(ann: Trader) -> None:
    with ann.database.begin() as session:
        opening.open_accounts(session, NOON, {ann.user_id: [], uuid4(): []})

    assert len(ann.history()) == 3


def test_what_everybodys_stake_takes_off_is_told_anew_when_an_operator_asks(
    database: Connected,
) -> None:
    traders = [Trader(database) for _ in range(3)]
    for trader, coins in zip(traders, (1_000, 10, 100), strict=True):
        trader.has("TFP", coins)
        trader.stakes(coins)
    with database.begin() as session:
        session.execute(text("TRUNCATE outbox"))

    reached, asked = None, 0
    while asked == 0 or reached is not None:
        with database.begin() as session:
            reached = benefits.announce_some(session, lambda: NOON, reached, 2)
        asked += 1

    assert [heard(each) for each in traders] == [[(500, 1)], [(0, 1)], [(200, 1)]]
    assert asked == 3


def test_what_is_told_anew_is_dated_when_the_stakes_are_held(ann: Trader) -> None:
    """Of two who tell of one position billing believes the later one."""
    ann.stakes(150)
    clock = [NOON]

    def tell() -> None:
        with ann.database.begin() as session:
            benefits.announce_some(session, lambda: clock[0], None, 2)

    def hold(session: Session) -> None:
        session.execute(text("SELECT FROM pool_accounts WHERE holder = 'stake' FOR UPDATE"))

    later = NOON + timedelta(minutes=1)
    done_after(ann.database, hold, tell, meanwhile=lambda: clock.__setitem__(0, later))

    with ann.database.read() as session:
        told = session.scalars(
            text(
                "SELECT payload ->> 'occurred_at' FROM outbox"
                " WHERE type = 'staking_discount_changed' ORDER BY id"
            )
        ).all()
    assert [datetime.fromisoformat(moment) for moment in told] == [NOON, later]


def test_nobody_stakes_more_than_they_have(ann: Trader) -> None:
    with pytest.raises(Conflict, match="You have 900 TFP, and this takes 901"):
        ann.stakes(901)
    assert ann.stakes(900).status == OrderStatus.DONE


acts = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from("boaws"), st.integers(1, 900), st.integers(1, 900)
    ),
    max_size=8,
)


@given(acts)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_any_order_nothing_is_made_or_lost_and_the_last_can_leave(
    database: Connected, wanted: list[tuple[int, str, int, int]]
) -> None:
    """By the same entrypoints as users; the database and the checks of the book look as well."""
    traders = [Trader(database) for _ in range(3)]
    for trader in traders:
        trader.has("TFP", 1_000)
        trader.has("TFT", 1_000)
    pool = "TFP-TFT"
    before = total(database)
    for who, what, one, two in wanted:
        trader = traders[who]
        try:
            if what in "bo":
                trader.takes(trader.asks(pool, "TFP" if what == "b" else "TFT", one))
            elif what == "a":
                trader.takes(trader.asks_to_add(pool, one, two))
            elif what == "s":
                trader.stakes(one)
            else:
                own = trader.pools.pools[3].own_share_units
                trader.takes(trader.asks_to_withdraw(pool, max(own * one // 900, 1)))
        except Conflict:
            continue

    for trader in traders:
        if own := trader.pools.pools[3].own_share_units:
            trader.takes(trader.asks_to_withdraw(pool, own))
    assert reserves(traders[0], pool) == (0, 0, 0)
    assert total(database) == before
    assert differences(database) == []
    with database.begin() as session:
        empty(session)


def total(database: Connected) -> dict[str, int]:
    """What users and pools have of each coin."""
    with database.read() as session:
        rows = session.execute(
            text(
                "SELECT coin, sum(balance_units) FROM pool_accounts"
                " WHERE holder IN ('user', 'stake', 'pool') AND coin IN ('TFP', 'TFT')"
                " GROUP BY coin"
            )
        )
        return {row.coin: int(row.sum) for row in rows}


def entries(coin: str, who: str, **units: int) -> str:
    """Entries as they would have to be, of the accounts of these holders."""
    moved = ", ".join(f"('{holder}', {amount})" for holder, amount in units.items())
    return (
        "INSERT INTO pool_entries SELECT account_id, entry_count + 1, :new, units,"  # noqa: S608
        f" balance_units + units FROM pool_accounts JOIN (VALUES {moved})"
        f" AS moved (holder, units) USING (holder) WHERE coin = '{coin}' AND {who}"
    )


IN_A_POOL = "(user_id = :user OR pool = 'TFP-EUR')"
BY_HAND = "(user_id = :user OR user_id IS NULL)"
FORGERIES = {
    "an entry alone": (entries("TFP", "user_id = :user", user=1), "do not sum to zero"),
    "coins out of a pool": (entries("EUR", IN_A_POOL, user=1, pool=-1), "is worth less"),
    "shares for nothing": (entries("TFP-EUR", IN_A_POOL, user=1, pool=-1), "is worth less"),
    "an entry that does not follow": (
        entries("EUR", BY_HAND, user=1, adjustments=-1).replace("count + 1", "count + 2"),
        "does not follow",
    ),
    "more than somebody has": (
        entries("EUR", BY_HAND, user=-800_000_001, adjustments=800_000_001),
        "only_the_house_is_below_zero",
    ),
    "a balance by hand": (
        "UPDATE pool_accounts SET balance_units = 5 WHERE user_id = :user",
        "moves only by entries",
    ),
    "an entry changed": (
        "UPDATE pool_entries SET amount_units = amount_units + 1",
        "append-only",
    ),
    "an entry deleted": ("DELETE FROM pool_entries", "append-only"),
    "a transaction changed": ("UPDATE pool_transactions SET note = 'x'", "append-only"),
    "all of it": ("TRUNCATE pool_transactions, pool_entries", "append-only"),
    "an account deleted": ("DELETE FROM pool_accounts", "append-only"),
    "an account that begins with coins": (
        "INSERT INTO pool_accounts (holder, coin, entry_count) VALUES ('adjustments', 'x', 1)",
        "moves only by entries",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_database_refuses(ann: Trader, forgery: str) -> None:
    given_ids = {"new": uuid4(), "user": ann.user_id}
    with ann.database.rehearse() as session:
        session.execute(
            text(
                "INSERT INTO pool_transactions (transaction_id, user_id, kind, pool, note,"
                " recorded_at) VALUES (:new, :user, 'adjustment', '', 'forged', now())"
            ),
            given_ids,
        )
        with pytest.raises(DBAPIError) as refused:
            session.execute(text(FORGERIES[forgery][0]), given_ids)
    assert FORGERIES[forgery][1] in str(refused.value)


def test_entries_that_come_after_their_transaction_are_refused(ann: Trader) -> None:
    late = entries("CAD", BY_HAND, user=1, adjustments=-1).replace(
        ":new", "(SELECT min(transaction_id::text)::uuid FROM pool_transactions)"
    )
    ann.has("CAD", 1)
    with ann.database.rehearse() as session, pytest.raises(IntegrityError, match="come after"):
        session.execute(text(late), {"user": ann.user_id})


DAMAGES = {
    "UPDATE pool_accounts SET balance_units = balance_units + 1 WHERE user_id = :user": (
        "and its entries come to"
    ),
    "UPDATE pool_entries SET amount_units = amount_units + 1": "its entries in",
    "UPDATE pool_entries SET balance_after_units = 0": "does not follow",
    "DELETE FROM pool_entries": "has no entries",
    "UPDATE pool_orders SET status = 'declined'": "and was exchanged",
    "UPDATE pool_accounts SET coin = 'TFT' WHERE user_id = :user AND coin = 'EUR'": (
        "all accounts of TFT come to"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found(ann: Trader, damage: str) -> None:
    with ann.database.rehearse() as session:
        for table in ("accounts", "entries", "transactions"):
            session.execute(text(f"ALTER TABLE pool_{table} DISABLE TRIGGER USER"))
        session.execute(text(damage), {"user": ann.user_id})
        found = [each for check in verifying.CHECKS for each in session.scalars(text(check))]

    assert any(DAMAGES[damage] in each for each in found), found
