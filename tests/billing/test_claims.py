from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.billing import PurchaseStatus
from contracts.errors import InsufficientFunds
from contracts.wallet import Debit
from services.billing.models import PurchaseRow
from services.billing.purchases import claims, lifecycle
from services.billing.purchases.checkout import Checkout
from services.billing.purchases.claims import Claim
from tests.billing.conftest import NOW, RULES, recorded
from tests.patience import insist

LEASE = RULES.claim_lease
LATER = NOW + LEASE + timedelta(seconds=1)


def claim_next(database: Connected, now: datetime) -> Claim | None:
    with database.begin() as session:
        return claims.claim_next(session, now, LEASE)


def claim(database: Connected, now: datetime, purchase_id: UUID) -> Claim | None:
    with database.begin() as session:
        return claims.claim(session, now, LEASE, purchase_id)


def wait_for_funds(database: Connected, claimed: Claim, now: datetime = NOW) -> bool:
    with database.begin() as session:
        return lifecycle.wait_for_funds(session, now, claimed, 0, now, RULES)


def mark_owed(database: Connected, user_id: UUID, now: datetime = NOW) -> None:
    with database.begin() as session:
        claims.mark_owed(session, now, user_id)


def take_first(database: Connected, user_id: UUID, now: datetime = NOW) -> Claim | None:
    """Money comes, and who hears of it begins at once."""
    with database.begin() as session:
        return claims.take_first(claims.mark_owed(session, now, user_id), now, LEASE)


def test_a_purchase_belongs_to_its_writer_at_first(database: Connected) -> None:
    recorded(database)

    assert claim_next(database, NOW) is None


def test_a_lease_that_ran_out_is_taken_over_with_the_try_still_owed(database: Connected) -> None:
    purchase_id = recorded(database).purchase_id

    taken = claim_next(database, LATER)

    assert taken is not None
    assert (taken.purchase_id, taken.is_try_owed) == (purchase_id, True)


def test_a_worker_that_lost_its_lease_changes_nothing(database: Connected) -> None:
    lost = recorded(database)
    claim_next(database, LATER)

    wait_for_funds(database, lost, LATER)

    with database.read() as session:
        status = session.get_one(PurchaseRow, lost.purchase_id).status
    assert status == PurchaseStatus.PENDING


def postpone(database: Connected, claimed: Claim, now: datetime) -> None:
    with database.begin() as session:
        claims.postpone(session, now, claimed)


def end_stock_hold(database: Connected, claimed: Claim, now: datetime) -> None:
    checkout = Checkout(database, cast(RpcClient, None), RULES, lambda: now)
    checkout.settle(claims.Claim(claimed.row, claimed.claim_id, is_try_owed=False))


@pytest.mark.parametrize("give_up", [postpone, wait_for_funds, end_stock_hold])
def test_a_worker_that_lost_its_lease_leaves_the_claim_with_its_new_owner(
    database: Connected, give_up: Callable[[Connected, Claim, datetime], object]
) -> None:
    lost = recorded(database)
    new = claim_next(database, LATER)

    give_up(database, lost, LATER)

    assert new is not None
    with database.read() as session:
        row = session.get_one(PurchaseRow, lost.purchase_id)
    assert (row.claim_id, row.claimed_until) == (new.claim_id, LATER + LEASE)


@pytest.mark.parametrize(("stock_hold_s", "waits_for_disk"), [(900, "off"), (0, "on")])
def test_only_what_has_another_service_do_something_waits_for_the_disk(
    database: Connected, stock_hold_s: int, waits_for_disk: str
) -> None:
    claimed = recorded(database)
    rules = RULES.model_copy(update={"stock_hold_s": stock_hold_s})

    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, 0, NOW, rules)
        found = session.scalar(text("SHOW synchronous_commit"))

    assert found == waits_for_disk


def test_what_waits_for_funds_is_left_alone_until_its_stock_is_held_too_long(
    database: Connected,
) -> None:
    claimed = recorded(database)
    wait_for_funds(database, claimed)
    end_of_hold = NOW + RULES.stock_hold

    before = claim_next(database, end_of_hold - timedelta(seconds=1))
    after = claim_next(database, end_of_hold)

    assert before is None
    assert after is not None
    assert not after.is_try_owed


def test_money_makes_what_waits_due(database: Connected) -> None:
    claimed = recorded(database)
    wait_for_funds(database, claimed)

    mark_owed(database, claimed.row.user_id)

    taken = claim_next(database, NOW)
    assert taken is not None
    assert taken.is_try_owed


def test_money_that_comes_during_a_try_is_not_overlooked(database: Connected) -> None:
    claimed = recorded(database)
    mark_owed(database, claimed.row.user_id)

    money_came = wait_for_funds(database, claimed)

    assert money_came
    assert claim_next(database, NOW) is not None


def test_money_that_comes_during_a_try_does_not_start_a_second_one(database: Connected) -> None:
    claimed = recorded(database)

    mark_owed(database, claimed.row.user_id)

    assert claim(database, NOW, claimed.purchase_id) is None


def test_a_postponed_try_is_still_owed(database: Connected) -> None:
    claimed = recorded(database)
    with database.begin() as session:
        claims.postpone(session, NOW, claimed)

    too_early = claim_next(database, NOW)
    taken = claim_next(database, NOW + timedelta(seconds=1))

    assert too_early is None
    assert taken is not None
    assert taken.is_try_owed


@pytest.mark.parametrize(("tries", "delay_s"), [(1, 1), (2, 2), (4, 8), (30, 60)])
def test_each_postponement_is_longer_up_to_a_minute(
    database: Connected, tries: int, delay_s: int
) -> None:
    claimed = recorded(database)
    with database.begin() as session:
        session.get_one(PurchaseRow, claimed.purchase_id).attempts = tries

    with database.begin() as session:
        claims.postpone(session, NOW, claimed)

    with database.read() as session:
        due_at = session.get_one(PurchaseRow, claimed.purchase_id).due_at
    assert due_at == NOW + timedelta(seconds=delay_s)


def test_what_is_owed_is_tried_oldest_first(database: Connected) -> None:
    user_id = uuid4()
    made = [
        recorded(database, user_id=user_id, now=NOW + timedelta(minutes=minute))
        for minute in range(3)
    ]
    for claimed in made:
        wait_for_funds(database, claimed)

    mark_owed(database, user_id)

    with database.read() as session:
        owed = claims.owed_purchases(session, user_id)
    assert owed == [claimed.purchase_id for claimed in made]


def test_who_hears_of_money_has_the_oldest_purchase_at_once(database: Connected) -> None:
    user_id = uuid4()
    made = [
        recorded(database, user_id=user_id, now=NOW + timedelta(minutes=minute))
        for minute in range(3)
    ]
    for claimed in made:
        wait_for_funds(database, claimed)

    first = take_first(database, user_id)

    with database.read() as session:
        owed = claims.owed_purchases(session, user_id)
    assert first is not None
    assert (first.purchase_id, first.is_try_owed) == (made[0].purchase_id, True)
    assert claim(database, NOW, first.purchase_id) is None
    assert owed == [claimed.purchase_id for claimed in made[1:]]


def test_who_hears_of_money_takes_the_oldest_purchase_with_what_is_in_it(
    database: Connected,
) -> None:
    user_id = uuid4()
    for claimed in [recorded(database, user_id=user_id) for _ in range(2)]:
        wait_for_funds(database, claimed)

    with database.begin() as session:
        rows = claims.mark_owed(session, NOW, user_id)
        first = claims.take_first(rows, NOW, LEASE)

    assert first is not None
    assert first.row is rows[0]
    assert (len(first.row.lines), first.row.deployments) == (1, [])


def test_who_hears_of_money_leaves_what_somebody_works_on_to_them(database: Connected) -> None:
    claimed = recorded(database)

    first = take_first(database, claimed.row.user_id)

    assert (first, wait_for_funds(database, claimed)) == (None, True)


def test_who_hears_of_money_takes_what_somebody_left_when_their_lease_has_run_out(
    database: Connected,
) -> None:
    claimed = recorded(database)

    first = take_first(database, claimed.row.user_id, NOW + LEASE)

    assert first is not None
    assert first.purchase_id == claimed.purchase_id


def test_replicas_never_claim_the_same_purchase(database: Connected) -> None:
    made = {recorded(database).purchase_id for _ in range(20)}

    with ThreadPoolExecutor(8) as replicas:
        taken = list(replicas.map(lambda _: insist(lambda: claim_next(database, LATER)), range(40)))

    claimed = [one.purchase_id for one in taken if one is not None]
    assert (len(claimed), set(claimed)) == (20, made)


class HoldsRow:
    """The wallet's refusals, at a moment that no real wallet can be brought to: while the first
    purchase is debited, another session takes its row and does not let go."""

    def __init__(self, database: Connected, purchase_id: UUID) -> None:
        self._holder = database.engine.connect()
        self._purchase_id = purchase_id
        self.debited: list[str] = []

    def call(self, request: Any, timeout_s: float) -> Any:  # noqa: ARG002
        if isinstance(request, Debit):
            self.debited.append(request.idempotency_key)
            if len(self.debited) == 1:
                lock = text("SELECT FROM purchases WHERE purchase_id = :id FOR UPDATE")
                self._holder.execute(lock, {"id": self._purchase_id})
            raise InsufficientFunds("Too little.", "0", str(request.amount_micros))

    def close(self) -> None:
        self._holder.rollback()
        self._holder.close()


def test_a_purchase_whose_row_somebody_holds_keeps_no_other_from_the_sweep(
    database: Connected,
) -> None:
    held, free = recorded(database), recorded(database, now=NOW + timedelta(seconds=1))
    rpc = HoldsRow(database, held.purchase_id)
    later = NOW + RULES.claim_lease + timedelta(minutes=1)

    Checkout(database, cast(RpcClient, rpc), RULES, lambda: later).sweep()

    rpc.close()
    with database.read() as session:
        states = [
            session.get_one(PurchaseRow, claimed.purchase_id).status for claimed in (held, free)
        ]
    assert states == ["pending", "awaiting_funds"]
