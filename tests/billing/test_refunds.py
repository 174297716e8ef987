"""Refunds of purchases, unit by unit: with the real wallet and catalog, on a clock that is set."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.billing import (
    CancelDeployment,
    CancelWhen,
    ChangeCause,
    DeploymentStatus,
    GetPurchase,
    Purchase,
    RefundPurchase,
    ReportDeployment,
    ReturnPurchase,
)
from contracts.catalog import ReturnStock
from contracts.errors import Conflict, DeadlineExceeded, IdempotencyConflict, NotFound
from contracts.wallet import Debit, Freeze, HouseAccount, Refund, Statement, TransactionKind
from services.billing.deployments import commands
from services.billing.deployments.lifecycle import report_deployment
from services.billing.models import DebtRow, DeploymentRow, PurchaseLineRow, RefundRow
from services.billing.purchases import returns
from services.billing.purchases.queries import get_purchase
from services.billing.refunds import debts, settling
from services.billing.refunds.debts import Debts
from services.billing.refunds.settling import Refunds
from services.billing.service import await_money
from services.catalog.seed import product_id_of
from tests.billing.conftest import EXTERNAL, RULES, at, quoted, recorded, row_of
from tests.billing.test_checkout import in_catalog, stock_of
from tests.billing.test_earnings import Market, fails
from tests.billing.test_lost_answers import LOST, is_a
from tests.billing.test_purchases import events
from tests.billing.test_renewals import Tenant, month
from tests.crashes import Died, dies_at
from tests.drawn import drawn
from tests.locks import done_after
from tests.system import System

Status = DeploymentStatus
USD = 1_000_000
FEES, REVENUE = HouseAccount.FEES, HouseAccount.MARKETPLACE_REVENUE
ADVANCES = HouseAccount.ADVANCES


class Desk(Market):
    """A market whose purchases are given back; a provisioner outside makes what is bought."""

    def __init__(self, stack: System, database: Connected) -> None:
        super().__init__(stack, database)
        self.rules = EXTERNAL

    @property
    def refunds(self) -> Refunds:
        return Refunds(self.database, cast(RpcClient, self.wire), self.rules, lambda: self.now)

    def runs(self, later: timedelta = timedelta()) -> None:
        self.now += later
        self.refunds.run()

    def claims_debts(self, later: timedelta = timedelta()) -> None:
        self.now += later
        Debts(self.database, cast(RpcClient, self.wire), self.rules, lambda: self.now).run()

    def support(self, purchase_id: UUID, line: int | None = None, key: str | None = None) -> UUID:
        command = RefundPurchase(
            idempotency_key=key or f"{uuid4()}",
            purchase_id=purchase_id,
            line=line,
            reason="It was slow",
            actor="operator-7",
        )
        with self.database.begin() as session:
            refund_id = returns.refund_purchase(
                session, at(self.now), command, self.rules
            ).refund_id
        self.refunds.try_to_settle(refund_id)
        return refund_id

    def returns(self, purchase_id: UUID, key: str = "k", user_id: UUID | None = None) -> UUID:
        command = ReturnPurchase(
            idempotency_key=f"{purchase_id}:{key}",
            user_id=user_id or self.buyer_id,
            purchase_id=purchase_id,
        )
        with self.database.begin() as session:
            refund_id = returns.return_purchase(
                session, at(self.now), command, self.rules
            ).refund_id
        self.refunds.try_to_settle(refund_id)
        return refund_id

    def units(self, purchase_id: UUID) -> list[DeploymentRow]:
        return row_of(self.database, purchase_id).deployments

    def reports(self, deployment_id: UUID, status: Status, reason: str = "") -> None:
        command = ReportDeployment(deployment_id=deployment_id, status=status, reason=reason)
        with self.database.begin() as session:
            report_deployment(session, at(self.now), command, self.rules)

    def cancels(self, unit: DeploymentRow, when: CancelWhen = CancelWhen.PERIOD_END) -> None:
        command = CancelDeployment(
            idempotency_key=f"{unit.deployment_id}",
            user_id=unit.user_id,
            deployment_id=unit.deployment_id,
            when=when,
        )
        with self.database.begin() as session:
            commands.cancel(session, at(self.now), command, self.rules)

    def sees(self, purchase_id: UUID) -> Purchase:
        question = GetPurchase(user_id=self.buyer_id, purchase_id=purchase_id)
        with self.database.read() as session:
            return get_purchase(session, question, self.rules)

    def moved(self, user_id: UUID, *kinds: TransactionKind) -> list[int]:
        page = self.rpc.call(Statement(user_id=user_id, kinds=list(kinds), limit=200))
        return [each.amount_micros for each in reversed(page.transactions)]

    @property
    def back(self) -> list[int]:
        """What came back to the buyer."""
        return self.moved(self.buyer_id, TransactionKind.REFUND)

    def spends(self, user_id: UUID, amount_micros: int) -> None:
        debit = Debit(
            idempotency_key=f"{uuid4()}",
            user_id=user_id,
            amount_micros=amount_micros,
            description="Spent",
        )
        self.rpc.call(debit)


@pytest.fixture
def desk(stack: System, database: Connected) -> Desk:
    return Desk(stack, database)


# By support.


def test_a_line_comes_back_from_who_sold_it_and_from_nobody_else(desk: Desk) -> None:
    ann, ben = uuid4(), uuid4()
    purchase_id = desk.buys(
        quoted(10 * USD, provider_id=ann), quoted(20 * USD, provider_id=ben), quoted(5 * USD)
    )

    desk.support(purchase_id, line=1)

    assert desk.back == [20 * USD]
    assert (desk.balance(ann), desk.balance(ben)) == (9 * USD, 0)
    assert desk.sees(purchase_id).refunded_micros == 20 * USD


def test_what_the_marketplace_sells_itself_comes_back_from_its_revenue(desk: Desk) -> None:
    ann = uuid4()
    purchase_id = desk.buys(quoted(10 * USD, provider_id=ann), quoted(5 * USD))

    desk.support(purchase_id, line=1)

    assert (desk.back, desk.balance(ann)) == ([5 * USD], 9 * USD)


def test_a_whole_purchase_comes_back_with_every_fee(desk: Desk) -> None:
    ann, ben = uuid4(), uuid4()
    purchase_id = desk.buys(
        quoted(3_333_335, 3, provider_id=ann), quoted(7, 2, provider_id=ben), quoted(5 * USD)
    )
    balance = desk.balance(desk.buyer_id)
    total = desk.sees(purchase_id).total_micros

    desk.support(purchase_id)

    assert desk.balance(desk.buyer_id) == balance + total
    assert (desk.balance(ann), desk.balance(ben)) == (0, 0)
    assert desk.sees(purchase_id).refunded_micros == total
    with desk.database.read() as session:
        unfinished = session.scalars(select(RefundRow).where(RefundRow.done_at.is_(None))).all()
    assert unfinished == []


def test_what_is_refunded_runs_no_more_and_its_history_says_why(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD), quoted(20 * USD))
    first, second = desk.units(purchase_id)
    desk.reports(first.deployment_id, Status.ACTIVE)

    desk.support(purchase_id, line=0)

    assert [unit.status for unit in desk.units(purchase_id)] == [Status.CANCELLED, second.status]
    with desk.database.read() as session:
        changes = session.execute(
            text(
                "SELECT cause, actor FROM deployment_changes WHERE deployment_id = :id"
                " ORDER BY change_id DESC"
            ),
            {"id": first.deployment_id},
        ).all()
    assert tuple(changes[0]) == (ChangeCause.REFUNDED, "support")


def test_what_was_refunded_before_is_left_out_and_refused_where_nothing_is_left(
    desk: Desk,
) -> None:
    purchase_id = desk.buys(quoted(10 * USD), quoted(20 * USD))
    desk.support(purchase_id, line=0)

    desk.support(purchase_id)

    assert desk.back == [10 * USD, 20 * USD]
    with pytest.raises(Conflict, match="All of this was refunded before"):
        desk.support(purchase_id)


def test_the_same_key_refunds_once_and_another_wish_under_it_is_refused(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD), quoted(20 * USD))
    first = desk.support(purchase_id, line=0, key="once")

    again = desk.support(purchase_id, line=0, key="once")

    assert (again, desk.back) == (first, [10 * USD])
    with pytest.raises(IdempotencyConflict):
        desk.support(purchase_id, line=1, key="once")


def test_two_at_once_refund_once(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD))
    command = RefundPurchase(
        idempotency_key="first", purchase_id=purchase_id, reason="It was slow", actor="operator-7"
    )

    def second() -> str:
        try:
            desk.support(purchase_id)
        except Conflict as refusal:
            return str(refusal)
        return "refunded"

    said = done_after(
        desk.database,
        lambda session: returns.refund_purchase(session, at(desk.now), command, desk.rules),
        second,
    )

    assert said == "All of this was refunded before."


def test_the_same_key_twice_at_once_is_one_refund_to_both(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD))
    command = RefundPurchase(
        idempotency_key="both", purchase_id=purchase_id, reason="It was slow", actor="operator-7"
    )
    made: list[UUID] = []

    def first(session: Session) -> None:
        made.append(returns.refund_purchase(session, at(desk.now), command, desk.rules).refund_id)

    second = done_after(desk.database, first, lambda: desk.support(purchase_id, key="both"))

    assert (made, desk.back) == ([second], [10 * USD])


def test_a_unit_that_fails_while_support_refunds_it_comes_back_once(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD))
    (unit,) = desk.units(purchase_id)
    command = RefundPurchase(
        idempotency_key="first", purchase_id=purchase_id, reason="It was slow", actor="operator-7"
    )

    def fails() -> str:
        try:
            desk.reports(unit.deployment_id, Status.FAILED)
        except Conflict as refusal:
            return str(refusal)
        return ""

    said = done_after(
        desk.database,
        lambda session: returns.refund_purchase(session, at(desk.now), command, desk.rules),
        fails,
    )
    desk.runs(settling.DUE.lease)

    assert "is cancelled" in said
    assert desk.back == [10 * USD]


@pytest.mark.parametrize("line", [1, 49])
def test_a_line_that_is_not_there_is_not_found(desk: Desk, line: int) -> None:
    purchase_id = desk.buys(quoted(10 * USD))

    with pytest.raises(NotFound):
        desk.support(purchase_id, line=line)


def test_what_was_not_paid_is_not_refunded(desk: Desk) -> None:
    waiting = recorded(desk.database, quoted(10 * USD))

    with pytest.raises(Conflict, match="nothing was paid"):
        desk.support(waiting.purchase_id)
    with pytest.raises(NotFound):
        desk.support(uuid4())


def test_what_costs_nothing_ends_without_a_payment(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(0))

    desk.support(purchase_id)

    assert (desk.back, desk.units(purchase_id)[0].status) == ([], Status.CANCELLED)


# By the buyer.


def test_a_buyer_gives_back_what_has_not_run(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD, 2), quoted(5 * USD))
    before = desk.sees(purchase_id)

    desk.returns(purchase_id)

    assert before.returnable_until == desk.now + RULES.return_window
    assert desk.back == [10 * USD, 10 * USD, 5 * USD]
    seen = desk.sees(purchase_id)
    assert (seen.refunded_micros, seen.returnable_until) == (25 * USD, None)
    assert {unit.status for unit in desk.units(purchase_id)} == {Status.CANCELLED}


@pytest.mark.parametrize(("late", "is_possible"), [(-1, True), (0, False)])
def test_a_buyer_gives_back_within_the_time_and_not_after_it(
    desk: Desk, late: int, is_possible: bool
) -> None:
    purchase_id = desk.buys(quoted(10 * USD))
    desk.now += RULES.return_window + timedelta(microseconds=late)

    if is_possible:
        desk.returns(purchase_id)
    else:
        with pytest.raises(Conflict, match="cannot be returned"):
            desk.returns(purchase_id)

    assert desk.back == ([10 * USD] if is_possible else [])


def test_a_buyer_keeps_what_has_run(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD, 2))
    desk.reports(desk.units(purchase_id)[0].deployment_id, Status.ACTIVE)

    with pytest.raises(Conflict):
        desk.returns(purchase_id)

    assert desk.sees(purchase_id).returnable_until is None


def test_with_the_time_of_nothing_no_buyer_gives_back(desk: Desk) -> None:
    desk.rules = EXTERNAL.model_copy(update={"return_window_s": 0})
    purchase_id = desk.buys(quoted(10 * USD))

    with pytest.raises(Conflict):
        desk.returns(purchase_id)


def test_anothers_purchase_is_not_found(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD))

    with pytest.raises(NotFound):
        desk.returns(purchase_id, user_id=uuid4())

    assert desk.back == []


def test_a_buyer_whose_answer_was_lost_hears_it_again(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD))

    first, again = desk.returns(purchase_id), desk.returns(purchase_id)

    assert (first, desk.back) == (again, [10 * USD])
    with pytest.raises(Conflict):
        desk.returns(purchase_id, key="another")


# By itself.


def test_a_unit_that_fails_comes_back_by_itself_and_the_others_stay(desk: Desk) -> None:
    ann = uuid4()
    purchase_id = desk.buys(quoted(10 * USD, 2, provider_id=ann))
    failed, other = desk.units(purchase_id)

    desk.reports(failed.deployment_id, Status.FAILED, "There is no capacity.")
    desk.reports(failed.deployment_id, Status.FAILED, "There is no capacity.")
    desk.runs()

    assert (desk.back, desk.balance(ann)) == ([10 * USD], 9 * USD)
    assert [unit.status for unit in desk.units(purchase_id)] == [Status.FAILED, other.status]
    (told,) = events(desk.database, "purchase_refunded")
    assert (told["cause"], told["reason"]) == ("failed", "There is no capacity.")


def test_what_is_being_set_up_is_cancelled_with_its_money_back(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD, 2))
    unit, other = desk.units(purchase_id)

    desk.cancels(unit)
    desk.cancels(unit)
    desk.runs()

    assert desk.back == [10 * USD]
    assert [each.status for each in desk.units(purchase_id)] == [Status.CANCELLED, other.status]
    with pytest.raises(Conflict):
        desk.reports(unit.deployment_id, Status.ACTIVE)


def test_what_has_run_is_cancelled_without_its_money(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD))
    (unit,) = desk.units(purchase_id)
    desk.reports(unit.deployment_id, Status.ACTIVE)

    desk.cancels(unit, CancelWhen.NOW)
    desk.runs()

    assert desk.back == []


def test_what_fails_in_its_first_month_comes_back_and_what_was_paid_once_does_not(
    desk: Desk,
) -> None:
    purchase_id = desk.buys(quoted(10 * USD), quoted(5 * USD, period="once"))
    for unit in desk.units(purchase_id):
        desk.reports(unit.deployment_id, Status.ACTIVE)
    desk.now += timedelta(days=20)

    for unit in desk.units(purchase_id):
        desk.reports(unit.deployment_id, Status.FAILED)
    desk.runs()

    assert desk.back == [10 * USD]


@pytest.fixture
def tenant(stack: System, database: Connected) -> Tenant:
    return Tenant(stack, database)


def test_of_what_fails_later_the_month_that_runs_comes_back(tenant: Tenant, desk: Desk) -> None:
    ann = uuid4()
    (deployment_id,) = tenant.deploys(10 * USD, provider_id=ann)
    tenant.gets(100 * USD)
    tenant.lives(month(2) + timedelta(days=3))

    fails(tenant, deployment_id)
    tenant.lives(month(4))
    desk.runs()

    assert tenant.charged == [-10 * USD, -10 * USD, 10 * USD]
    assert desk.moved(ann) == [9 * USD, 9 * USD, -9 * USD]


def test_of_what_fails_in_its_grace_the_days_that_ran_are_owed(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys(31 * USD)
    tenant.lives(month(1))
    tenant.now += timedelta(days=1)

    fails(tenant, deployment_id)
    tenant.lives(month(1) + timedelta(days=2))

    seen = tenant.sees(deployment_id)
    assert (seen.status, seen.owed_micros) == (Status.FAILED, USD)


def test_of_what_fails_in_a_month_that_nobody_has_charged_yet_the_days_that_ran_are_owed(
    tenant: Tenant,
) -> None:
    (deployment_id,) = tenant.deploys(31 * USD)
    tenant.gets(100 * USD)
    tenant.now = month(1) + timedelta(days=2)

    fails(tenant, deployment_id)
    tenant.lives(month(2))

    assert tenant.charged == [-2 * USD]


def test_a_month_of_who_has_spent_it_comes_back_and_he_owes_it(tenant: Tenant, desk: Desk) -> None:
    ann = uuid4()
    (deployment_id,) = tenant.deploys(10 * USD, provider_id=ann)
    tenant.gets(100 * USD)
    tenant.lives(month(1) + timedelta(days=3))
    desk.spends(ann, 9 * USD)

    fails(tenant, deployment_id)
    tenant.lives(month(1) + timedelta(days=4))

    assert tenant.charged == [-10 * USD, 10 * USD]
    with desk.database.read() as session:
        assert debts.owed_micros(session, [ann])[ann] == 9 * USD


def test_a_month_that_the_wallet_does_not_give_back_is_asked_for_later_and_not_at_once(
    tenant: Tenant, desk: Desk
) -> None:
    (deployment_id,) = tenant.deploys(10 * USD)
    tenant.gets(100 * USD)
    tenant.lives(month(1) + timedelta(days=3))
    page = desk.rpc.call(Statement(user_id=tenant.user_id, kinds=[TransactionKind.RENEWAL]))
    by_hand = Refund(
        idempotency_key=f"by hand:{deployment_id}",
        user_id=tenant.user_id,
        transaction_id=page.transactions[0].transaction_id,
        description="By hand",
    )
    desk.rpc.call(by_hand)

    fails(tenant, deployment_id)
    tenant.runs(tenant.now)

    with desk.database.read() as session:
        due_at = session.get_one(DeploymentRow, deployment_id).due_at
    assert due_at == tenant.now + RULES.renewal_retry
    assert tenant.charged == [-10 * USD, 10 * USD]


# Whatever crashes.


@pytest.mark.parametrize("when", LOST)
@pytest.mark.parametrize("choice", [is_a(Refund), is_a(ReturnStock)], ids=["refund", "stock"])
def test_an_answer_that_is_lost_comes_to_one_refund(
    desk: Desk, stack: System, choice: Callable[[Any], bool], when: str
) -> None:
    purchase_id = desk.buys(quoted(10 * USD, 2, provider_id=uuid4()))
    _is_stocked(desk, purchase_id)
    before = _stock(stack)
    desk.wire.lose(choice, when)

    desk.support(purchase_id)
    first = _done(desk)
    desk.runs(settling.DUE.lease - timedelta(microseconds=1))
    still = _done(desk)
    desk.runs(timedelta(microseconds=1))
    desk.runs(timedelta(days=1))

    assert (first, still, _done(desk)) == (False, False, True)
    assert (desk.back, _stock(stack)) == ([10 * USD] * 2, before + 2)
    assert len(events(desk.database, "purchase_refunded")) == 1


@pytest.mark.parametrize(
    "point",
    [
        "billing.unit_refunded",
        "billing.unit_refund_noted",
        "billing.stock_returned",
        "billing.refund_done",
    ],
)
def test_a_crash_at_any_point_comes_to_one_refund(
    desk: Desk, stack: System, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    ann = uuid4()
    purchase_id = desk.buys(quoted(10 * USD, 2, provider_id=ann))
    _is_stocked(desk, purchase_id)
    before = _stock(stack)
    dies_at(monkeypatch, settling, point)

    with pytest.raises(Died):
        desk.support(purchase_id)
    desk.runs(settling.DUE.lease)

    assert (desk.back, desk.balance(ann), _done(desk)) == ([10 * USD] * 2, 0, True)
    assert (_stock(stack), desk.sees(purchase_id).refunded_micros) == (before + 2, 20 * USD)
    assert len(events(desk.database, "purchase_refunded")) == 1
    assert len(events(desk.database, "sale_refunded")) == 1


def test_a_claim_that_a_crash_ended_takes_it_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = owing(desk)
    desk.gets(ann, 20 * USD)
    dies_at(monkeypatch, debts, "billing.debt_claimed")

    with pytest.raises(Died):
        desk.claims_debts()
    desk.claims_debts(debts.DUE.lease)

    assert desk.balance(ann) == 11 * USD


def _is_stocked(desk: Desk, purchase_id: UUID) -> None:
    """Its line becomes one of a product of which there is an end."""
    with desk.database.begin() as session:
        line = session.get_one(PurchaseLineRow, (purchase_id, 0))
        line.product_id, line.is_stocked = product_id_of("vm-starter"), True


@pytest.fixture(autouse=True)
def stocked(stack: System) -> Any:
    change = "UPDATE products SET stock = :stock WHERE slug = 'vm-starter'"
    in_catalog(stack, change, stock=10)
    yield
    in_catalog(stack, change, stock=None)


def _stock(stack: System) -> int:
    return cast(int, stock_of(stack, "vm-starter"))


def _done(desk: Desk) -> bool:
    with desk.database.read() as session:
        return all(row.done_at is not None for row in session.scalars(select(RefundRow)))


def test_a_refund_that_cannot_be_made_keeps_none_behind_it(desk: Desk) -> None:
    bad, good = desk.buys(quoted(10 * USD)), desk.buys(quoted(20 * USD))
    transaction_id = row_of(desk.database, bad).transaction_id
    assert transaction_id is not None
    whole = Refund(
        idempotency_key=f"by hand:{bad}",
        user_id=desk.buyer_id,
        transaction_id=transaction_id,
        description="By hand",
    )
    desk.rpc.call(whole)

    for purchase_id in (bad, good):
        (unit,) = desk.units(purchase_id)
        desk.reports(unit.deployment_id, Status.FAILED)
    desk.runs()

    assert desk.back == [10 * USD, 20 * USD]
    assert desk.sees(bad).refunded_micros == 0
    assert desk.sees(good).refunded_micros == 20 * USD


def test_while_the_wallet_is_away_a_refund_waits(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD))
    (unit,) = desk.units(purchase_id)
    desk.wire.lose(is_a(Refund), "before it was heard")

    desk.reports(unit.deployment_id, Status.FAILED)
    desk.runs()
    waiting = desk.back
    desk.runs(settling.DUE.lease)

    assert (waiting, desk.back) == ([], [10 * USD])


def test_two_workers_note_a_unit_once(desk: Desk) -> None:
    purchase_id = desk.buys(quoted(10 * USD, provider_id=uuid4()))
    refund_id = desk.support(purchase_id)
    with desk.database.begin() as session:
        refund = session.get_one(RefundRow, refund_id)
        refund.done_at, refund.due_at = None, desk.now
        session.execute(text("UPDATE refunded_units SET done_at = NULL, transaction_id = NULL"))
        session.execute(text("DELETE FROM sales WHERE kind = 'refund'"))
        session.execute(text("UPDATE purchases SET refunded_micros = 0"))

    def settles() -> None:
        desk.refunds.settle(refund_id)

    def notes(session: Any) -> None:
        session.execute(text("SELECT FROM refunded_units FOR UPDATE"))
        session.execute(
            text("UPDATE refunded_units SET done_at = now(), transaction_id = deployment_id")
        )

    done_after(desk.database, notes, settles)

    assert desk.sees(purchase_id).refunded_micros == 0
    assert desk.back == [10 * USD]


def test_two_workers_who_come_to_the_end_together_tell_it_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    purchase_id = desk.buys(quoted(10 * USD))
    inner = Refunds(desk.database, cast(RpcClient, desk.wire), desk.rules, lambda: desk.now)

    def overtaken(name: str) -> None:
        if name == "billing.unit_refund_noted":
            monkeypatch.undo()
            with desk.database.read() as session:
                (refund_id,) = session.scalars(select(RefundRow.refund_id))
            inner.settle(refund_id)

    monkeypatch.setattr(settling, "crash_point", overtaken)
    desk.support(purchase_id)

    assert len(events(desk.database, "purchase_refunded")) == 1


# What a provider owes.


def test_a_buyers_refund_does_not_wait_for_a_provider_who_has_spent_it(desk: Desk) -> None:
    ann = uuid4()
    purchase_id = desk.buys(quoted(10 * USD, provider_id=ann))
    desk.spends(ann, 5 * USD)

    desk.support(purchase_id)

    assert (desk.back, desk.balance(ann)) == ([10 * USD], 0)
    with desk.database.read() as session:
        assert debts.owed_micros(session, [ann])[ann] == 5 * USD
    (told,) = events(desk.database, "sale_refunded")
    assert (told["user_id"], told["net_micros"], told["owed_micros"]) == (
        str(ann),
        9 * USD,
        5 * USD,
    )


def test_a_frozen_provider_owes_all_of_it_and_keeps_what_he_has(desk: Desk) -> None:
    ann = uuid4()
    purchase_id = desk.buys(quoted(10 * USD, provider_id=ann))
    freeze = Freeze(idempotency_key=f"{uuid4()}", user_id=ann, reason="-", actor="a test")
    desk.rpc.call(freeze)

    desk.support(purchase_id)
    desk.claims_debts()

    assert (desk.back, desk.balance(ann)) == ([10 * USD], 9 * USD)
    with desk.database.read() as session:
        assert debts.owed_micros(session, [ann])[ann] == 9 * USD


def owing(desk: Desk) -> UUID:
    """A provider who owes $9 for a refund, and has nothing."""
    provider_id = uuid4()
    purchase_id = desk.buys(quoted(10 * USD, provider_id=provider_id))
    desk.spends(provider_id, 9 * USD)
    desk.support(purchase_id)
    return provider_id


def earns(desk: Desk, provider_id: UUID, amount_micros: int) -> None:
    desk.gets(provider_id, amount_micros)
    with desk.database.begin() as session:
        debts.money_came(session, desk.now, provider_id)


def test_what_is_owed_is_taken_when_money_comes_and_from_nobody_else(desk: Desk) -> None:
    ann, ben = owing(desk), owing(desk)
    desk.claims_debts()

    earns(desk, ann, 9 * USD - 1)
    desk.claims_debts()
    too_little = desk.balance(ann)
    earns(desk, ann, 2)
    desk.claims_debts()

    assert (too_little, desk.balance(ann)) == (9 * USD - 1, 1)
    with desk.database.read() as session:
        assert debts.owed_micros(session, [ann])[ann] == 0
        assert debts.owed_micros(session, [ben])[ben] == 9 * USD


def test_money_of_one_who_owes_has_no_others_wallet_asked(desk: Desk) -> None:
    ann, ben = owing(desk), owing(desk)
    desk.claims_debts()

    earns(desk, ann, USD)

    with desk.database.read() as session:
        assert await_money(session, [uuid4(), ann]) == [False, True]
        due = {row.provider_id: row.due_at for row in session.scalars(select(DebtRow))}
    assert due == {ann: desk.now, ben: desk.now + debts.RETRY}


def test_what_is_owed_is_asked_for_once_a_day(desk: Desk) -> None:
    ann = owing(desk)
    desk.claims_debts()
    desk.gets(ann, 9 * USD)

    desk.claims_debts(debts.RETRY - timedelta(microseconds=1))
    early = desk.balance(ann)
    desk.claims_debts(timedelta(microseconds=1))

    assert (early, desk.balance(ann)) == (9 * USD, 0)


@pytest.mark.parametrize("when", LOST)
def test_a_claim_whose_answer_is_lost_takes_it_once(desk: Desk, when: str) -> None:
    ann = owing(desk)
    desk.claims_debts()
    earns(desk, ann, 20 * USD)
    desk.wire.lose(is_a(Debit), when)

    desk.claims_debts()
    desk.claims_debts(debts.DUE.lease)
    desk.claims_debts(debts.RETRY)

    assert desk.balance(ann) == 11 * USD


def test_money_that_comes_during_a_claim_has_it_asked_again_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = owing(desk)
    desk.claims_debts()
    call = desk.wire.call
    asked: list[Any] = []

    def comes_late(request: Any, timeout_s: float = 10.0) -> Any:
        asked.append(request)
        try:
            return call(request, timeout_s)
        finally:
            if len(asked) == 1:
                earns(desk, ann, 9 * USD)

    monkeypatch.setattr(desk.wire, "call", comes_late)
    with desk.database.begin() as session:
        debts.money_came(session, desk.now, ann)
    desk.claims_debts()

    assert (len(asked), desk.balance(ann)) == (2, 0)


# What is told, and the books.


def test_buyer_and_provider_hear_of_it_once(desk: Desk) -> None:
    ann, ben = uuid4(), uuid4()
    purchase_id = desk.buys(
        quoted(10 * USD, 2, name="VM", provider_id=ann), quoted(5 * USD, provider_id=ben)
    )

    refund_id = desk.support(purchase_id, line=0)
    desk.runs(timedelta(days=1))

    (told,) = events(desk.database, "purchase_refunded")
    assert told["user_id"] == str(desk.buyer_id)
    assert (told["refund_id"], told["amount_micros"]) == (str(refund_id), 20 * USD)
    assert (told["cause"], told["reason"], told["description"]) == ("support", "It was slow", "VM")
    (to_provider,) = events(desk.database, "sale_refunded")
    assert to_provider["user_id"] == str(ann)
    assert (to_provider["units"], to_provider["net_micros"]) == (2, 18 * USD)
    assert (to_provider["owed_micros"], to_provider["product_names"]) == (0, ["VM"])


def test_the_books_count_a_refund_on_its_day(desk: Desk) -> None:
    ann = uuid4()
    purchase_id = desk.buys(quoted(10 * USD, 2, provider_id=ann))
    desk.now += timedelta(days=1)
    (unit, _) = desk.units(purchase_id)

    desk.reports(unit.deployment_id, Status.FAILED)
    desk.runs()

    today, yesterday = desk.sales(ann)
    assert (yesterday.units, yesterday.net_micros) == (2, 18 * USD)
    assert (today.units, today.units_refunded, today.refunded_micros) == (0, 1, 10 * USD)
    assert (today.fee_micros, today.net_micros) == (-USD, -9 * USD)


# Whatever happens.

ACTS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "line", "whole", "fail", "cancel", "spend", "lose"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)
LINES = st.lists(
    st.tuples(st.integers(1, 10**7), st.integers(1, 3), st.sampled_from([None, 0, 1])),
    min_size=1,
    max_size=3,
)


@settings(max_examples=drawn(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS, lines=LINES, fee_bps=st.integers(0, 10_000))
def test_earnings_and_fees_are_purchases_less_refunds_whatever_happens(
    stack: System, database: Connected, acts: Any, lines: Any, fee_bps: int
) -> None:
    desk = Desk(stack, database)
    sellers = [uuid4(), uuid4(), uuid4()]
    desk.agrees(sellers[0], fee_bps)
    for seller in sellers:
        desk.gets(seller, 1)
    bystander = desk.buys(quoted(USD, provider_id=sellers[2]))
    bought, spent = [bystander], [0, 0, 0]
    for act, number in acts:
        if act == "buy":
            basket = [
                quoted(price, count, provider_id=None if who is None else sellers[who])
                for price, count, who in lines
            ]
            bought.append(desk.buys(*basket))
        elif act == "spend":
            who = number % 2
            amount = desk.balance(sellers[who]) // 2
            if amount:
                desk.spends(sellers[who], amount)
                spent[who] += amount
        elif act == "lose":
            desk.wire.lose(is_a(Refund), LOST[number % 2])
        elif len(bought) > 1:
            _gives_back(desk, act, bought[1:][number % (len(bought) - 1)], number)
    desk.runs(settling.DUE.lease)
    desk.runs(settling.DUE.lease)

    charged = -sum(desk.moved(desk.buyer_id, TransactionKind.PURCHASE)) - sum(desk.back)
    seen = [desk.sees(purchase_id) for purchase_id in bought]
    assert charged == sum(each.total_micros - each.refunded_micros for each in seen)
    legs: dict[UUID | HouseAccount, int] = {}
    for who, micros in _all_legs(desk, bought):
        legs[who] = legs.get(who, 0) + micros
    assert -legs.pop(desk.buyer_id) == charged
    assert sum(legs.values()) == charged
    with desk.database.read() as session:
        owed = debts.owed_micros(session, sellers)
    assert legs.get(ADVANCES, 0) == -owed.total()
    for place, seller in enumerate(sellers):
        books = sum(each.net_micros for each in desk.sales(seller))
        assert books == legs.get(seller, 0) - owed[seller]
        assert desk.balance(seller) == legs.get(seller, 0) + 1 - spent[place]
    assert desk.balance(sellers[2]) == 900_001


def _gives_back(desk: Desk, act: str, purchase_id: UUID, number: int) -> None:
    units = desk.units(purchase_id)
    unit = units[number % len(units)]
    try:
        if act == "line":
            desk.support(purchase_id, line=unit.line_position)
        elif act == "whole":
            desk.support(purchase_id)
        elif act == "fail":
            desk.reports(unit.deployment_id, Status.FAILED)
        elif unit.status == Status.REQUESTED:
            desk.cancels(unit)
    except (Conflict, DeadlineExceeded):
        pass
    desk.runs()


def _all_legs(desk: Desk, bought: list[UUID]) -> list[tuple[UUID | HouseAccount, int]]:
    with desk.database.read() as session:
        refunds = session.scalars(
            text(
                "SELECT transaction_id FROM refunded_units WHERE transaction_id IS NOT NULL"
                " AND refund_id IN (SELECT refund_id FROM refunds WHERE user_id = :id)"
            ),
            {"id": desk.buyer_id},
        ).all()
    made = [row_of(desk.database, purchase_id).transaction_id for purchase_id in bought]
    return [leg for each in [*made, *refunds] for leg in desk.legs(each).items()]
