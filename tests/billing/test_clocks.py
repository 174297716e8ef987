"""What has to wait for a row is of the time at which it has it: what came before it is older."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.database import Connected, lock_until_commit
from chassis.locks import locked
from contracts.billing import (
    CancelDeployment,
    CancelWhen,
    DeploymentStatus,
    MarkPayoutPaid,
    RefundPurchase,
    RenameDeployment,
    ReportDeployment,
    RequestPayout,
    SetProviderFee,
    StopDeployment,
)
from services.billing.deployments import commands, prices
from services.billing.deployments.lifecycle import report_deployment
from services.billing.models import (
    ChangeRow,
    DeploymentRow,
    FeeChangeRow,
    PayoutRow,
    ReceiptRow,
    RefundRow,
)
from services.billing.payouts import requests
from services.billing.purchases import returns
from services.billing.receipts import issuing
from services.billing.renewals import plain
from services.billing.renewals.catching_up import CaughtUp
from services.billing.sales import fees
from tests.billing.conftest import RULES, at, owed_month
from tests.billing.test_payouts import Seller
from tests.billing.test_prices import costs
from tests.billing.test_receipts import Buyer
from tests.billing.test_renewals import BOUGHT, DAY, Tenant, instant, month
from tests.locks import done_after
from tests.system import System

USD = 1_000_000
HOUR = timedelta(hours=1)


def done_an_hour_later(
    who: Any, hold: Callable[[Session], Any], act: Callable[[Session, Clock], Any]
) -> None:
    """``act`` begins now, and is done when what ``hold`` holds is free: an hour later by the clock
    of ``who``."""

    def work() -> None:
        with who.database.begin() as session:
            act(session, lambda: who.now)

    def an_hour_passes() -> None:
        who.now += HOUR

    done_after(who.database, hold, work, an_hour_passes)


class Deployed(NamedTuple):
    """Somebody's deployment."""

    tenant: Tenant
    deployment_id: UUID

    def after_an_hour(self, act: Callable[[Session, Clock], Any]) -> None:
        """``act`` has to wait that long for who holds it."""

        def hold(session: Session) -> None:
            locked(session, DeploymentRow, self.deployment_id)

        done_an_hour_later(self.tenant, hold, act)

    @property
    def row(self) -> DeploymentRow:
        with self.tenant.database.read() as session:
            return session.get_one(DeploymentRow, self.deployment_id)

    @property
    def changed_at(self) -> datetime | None:
        """As its history tells."""
        with self.tenant.database.read() as session:
            return session.scalars(
                select(ChangeRow.changed_at)
                .where(ChangeRow.deployment_id == self.deployment_id)
                .order_by(ChangeRow.change_id.desc())
            ).first()

    def wish(self, kind: type, **more: Any) -> Any:
        return kind(
            idempotency_key=f"{uuid4()}",
            user_id=self.tenant.user_id,
            deployment_id=self.deployment_id,
            **more,
        )


@pytest.fixture
def tenant(stack: System, database: Connected) -> Tenant:
    return Tenant(stack, database)


@pytest.fixture
def deployed(tenant: Tenant) -> Deployed:
    (deployment_id,) = tenant.deploys()
    tenant.now = BOUGHT + DAY
    return Deployed(tenant, deployment_id)


def rename(session: Session, clock: Clock, it: Deployed) -> None:
    commands.rename(session, clock, it.wish(RenameDeployment, name="Shop"))


def stop(session: Session, clock: Clock, it: Deployed) -> None:
    commands.stop(session, clock, it.wish(StopDeployment), RULES)


def cancel_now(session: Session, clock: Clock, it: Deployed) -> None:
    commands.cancel(session, clock, it.wish(CancelDeployment, when=CancelWhen.NOW), RULES)


def cancel_with_its_month(session: Session, clock: Clock, it: Deployed) -> None:
    commands.cancel(session, clock, it.wish(CancelDeployment), RULES)


def report(session: Session, clock: Clock, it: Deployed) -> None:
    told = ReportDeployment(deployment_id=it.deployment_id, status=DeploymentStatus.FAILED)
    report_deployment(session, clock, told, RULES)


def refund(session: Session, clock: Clock, it: Deployed) -> None:
    command = RefundPurchase(
        idempotency_key="k", purchase_id=it.row.purchase_id, reason="Slow", actor="operator-7"
    )
    returns.refund_purchase(session, clock, command, RULES)


@pytest.mark.parametrize("act", [rename, stop, cancel_now, cancel_with_its_month, report, refund])
def test_what_is_done_with_a_deployment_is_of_the_time_at_which_it_is_held(
    deployed: Deployed, act: Callable[[Session, Clock, Deployed], None]
) -> None:
    deployed.after_an_hour(lambda session, clock: act(session, clock, deployed))

    assert deployed.changed_at == BOUGHT + DAY + HOUR


def test_what_support_gives_back_is_written_down_at_that_time(deployed: Deployed) -> None:
    deployed.after_an_hour(lambda session, clock: refund(session, clock, deployed))

    with deployed.tenant.database.read() as session:
        assert session.scalars(select(RefundRow.created_at)).all() == [BOUGHT + DAY + HOUR]


def test_what_is_started_again_runs_from_then_on(deployed: Deployed) -> None:
    deployed.tenant.stops(deployed.deployment_id)

    def start(_: Session, __: Clock) -> None:
        deployed.tenant.starts(deployed.deployment_id)

    deployed.after_an_hour(start)

    assert deployed.row.status_changed_at == BOUGHT + DAY + HOUR


def test_what_a_look_brings_about_is_of_then(deployed: Deployed) -> None:
    deployed.tenant.cancels(deployed.deployment_id)
    deployed.tenant.now = month(1)

    def look(session: Session, _: Clock) -> None:
        deployed.tenant.renewals._look(CaughtUp(), session, [deployed.deployment_id])

    deployed.after_an_hour(look)

    assert deployed.row.ended_at == month(1) + HOUR


def test_a_month_that_is_paid_is_told_as_of_then(deployed: Deployed) -> None:
    deployed.tenant.now = month(1)
    with deployed.tenant.database.begin() as session:
        (owed,) = owed_month(session, month(1), deployed.deployment_id)

    def run_on(session: Session, clock: Clock) -> None:
        plain.run_on(session, clock, [plain.PaidMonth(*owed, uuid4())], RULES)

    deployed.after_an_hour(run_on)

    (told,) = deployed.tenant.told("deployment_renewed")
    assert instant(told["occurred_at"]) == month(1) + HOUR


def test_a_dearer_price_is_from_a_notice_after_its_owner_was_told(deployed: Deployed) -> None:
    tenant, row = deployed.tenant, deployed.row
    costs(tenant.database, row.product_id, 2 * row.monthly_cost_micros, tenant.now)

    deployed.after_an_hour(lambda session, clock: prices.tell_some(session, clock, RULES))

    assert deployed.row.new_price_from == BOUGHT + DAY + HOUR + RULES.price_notice


def test_of_two_receipts_the_one_with_the_higher_number_is_not_the_older(
    database: Connected,
) -> None:
    buyer = Buyer(database)
    one, other = buyer.buys(), buyer.buys()
    an_hour_later = buyer.now + HOUR

    done_an_hour_later(
        buyer,
        lambda session: issuing.issue(session, at(an_hour_later), buyer.command(one), RULES),
        lambda session, clock: issuing.issue(session, clock, buyer.command(other), RULES),
    )

    with database.read() as session:
        issued = session.scalars(select(ReceiptRow.issued_at).order_by(ReceiptRow.sequence)).all()
    assert issued == [an_hour_later, an_hour_later]


def test_a_fee_is_of_the_time_at_which_the_one_before_it_is_known(tenant: Tenant) -> None:
    provider_id = uuid4()
    command = SetProviderFee(
        idempotency_key="k", provider_id=provider_id, fee_bps=500, reason="Agreed", actor="a test"
    )

    done_an_hour_later(
        tenant,
        lambda session: lock_until_commit(session, f"fee:{provider_id}"),
        lambda session, clock: fees.set_fee(session, clock, command, RULES),
    )

    with tenant.database.read() as session:
        assert session.scalars(select(FeeChangeRow.changed_at)).all() == [BOUGHT + HOUR]


def test_a_payout_is_asked_for_and_sent_at_the_time_at_which_that_is_decided(
    stack: System, database: Connected
) -> None:
    seller = Seller(stack, database)
    began_at = seller.now
    asked = RequestPayout(idempotency_key="k", user_id=seller.user_id, amount_micros=50 * USD)
    made: list[PayoutRow] = []

    done_an_hour_later(
        seller,
        lambda session: lock_until_commit(session, f"payouts:{seller.user_id}"),
        lambda session, clock: made.append(requests.request(session, clock, asked, RULES)),
    )
    (payout,) = made
    seller.payouts.carry_out(payout.payout_id)
    paid = MarkPayoutPaid(
        idempotency_key="p", payout_id=payout.payout_id, reference="SEPA 7", actor="operator-7"
    )
    done_an_hour_later(
        seller,
        lambda session: locked(session, PayoutRow, payout.payout_id),
        lambda session, clock: requests.mark_paid(session, clock, paid),
    )

    seen = seller.sees(payout.payout_id)
    assert (seen.created_at, seen.changed_at) == (began_at + HOUR, began_at + 2 * HOUR)
