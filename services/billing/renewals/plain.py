"""Months that simply follow each other, as nearly all do: many of them in a statement each.

Plain is what runs, owes nothing, keeps its price and goes on after its month. It is no row of the
ORM: its month is written down, and when the wallet has paid that, it runs on, if it still is what
it was. Whatever else is due, or has become of it meanwhile, goes the way of
:mod:`services.billing.renewals.rungs` and :mod:`services.billing.renewals.outcomes`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import and_, bindparam, select, text
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk, array
from chassis.clock import Clock
from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.billing import DeploymentRenewed, DeploymentStatus
from services.billing.deployments import ladder, periods
from services.billing.deployments.charge_limit import DAY
from services.billing.deployments.months import month_end
from services.billing.deployments.periods import Owed, PeriodKind, PeriodStatus
from services.billing.models import DeploymentRow
from services.billing.sales import records
from services.billing.sales.records import SaleKind
from services.billing.settings import BillingSettings


class Plain(NamedTuple):
    """A deployment whose next month is due."""

    deployment_id: UUID
    user_id: UUID
    name: str
    monthly_cost_micros: int
    provider_id: UUID | None
    fee_bps: int | None
    period_anchor_at: datetime
    paid_until: datetime
    due_at: datetime | None


class Month(NamedTuple):
    """The month of a plain deployment, which is written down."""

    deployment: Plain
    owed: Owed


class PaidMonth(NamedTuple):
    """One that the wallet has paid."""

    deployment: Plain
    owed: Owed
    transaction_id: UUID


_IS_PLAIN = (
    f"deployments.status = '{DeploymentStatus.ACTIVE}' AND NOT deployments.ends_with_month"
    " AND deployments.short_since IS NULL AND deployments.usage_short_since IS NULL"
)
_OPEN = ", ".join(f"'{status}'" for status in periods.OPEN)
# A statement of its own, once the rows are held: it sees their periods as they are by then.
_WITH_OTHERS = text(
    "SELECT d.deployment_id FROM deployments AS d"  # noqa: S608 - our words
    " WHERE d.deployment_id = ANY(CAST(:ids AS uuid[]))"
    # One look for each, by its key; as two conditions it may become a scan of all periods.
    " AND (SELECT count(*) FILTER (WHERE p.created_at > :yesterday) >= :charges_max OR"
    f" count(*) FILTER (WHERE p.starts_at >= d.paid_until OR p.status IN ({_OPEN})) > 0"
    " FROM periods AS p WHERE p.deployment_id = d.deployment_id)"
)
# Numbers come back, which are read in no time, and not ids.
_HOLD = Bulk(
    f"""
    SELECT new.number FROM {{rows}} JOIN deployments USING (deployment_id)
    WHERE deployments.paid_until = new.starts_at AND {_IS_PLAIN}
    ORDER BY deployment_id FOR UPDATE OF deployments
    """,  # noqa: S608 - our words
    number="integer",
    deployment_id="uuid",
    starts_at="timestamptz",
)
_RUN_ON = Bulk(
    f"""
    WITH paid AS (
        UPDATE periods AS p SET status = '{PeriodStatus.PAID}',
            transaction_id = new.transaction_id, changed_at = new.changed_at
        FROM {{rows}} WHERE p.deployment_id = new.deployment_id AND p.starts_at = new.starts_at
            AND p.kind = '{PeriodKind.MONTH}'
            -- So that each is found by its key, and not among all that are open.
            AND p.status IS NOT DISTINCT FROM '{PeriodStatus.DUE}'
            -- What the wallet is to be asked otherwise does not wait until the month ends.
            AND (SELECT count(*) FILTER (WHERE o.status IN ({_OPEN}) AND o.kind <> p.kind)
                FROM periods AS o WHERE o.deployment_id = p.deployment_id) = 0
        RETURNING p.deployment_id, p.ends_at, new.due_at, new.number
    )
    UPDATE deployments AS d SET paid_until = paid.ends_at, due_at = paid.due_at,
        announced = '{ladder.Announced.NOTHING}', announced_at = NULL
    FROM paid WHERE d.deployment_id = paid.deployment_id RETURNING paid.number
    """,  # noqa: S608 - our words
    number="integer",
    deployment_id="uuid",
    starts_at="timestamptz",
    transaction_id="uuid",
    changed_at="timestamptz",
    due_at="timestamptz",
)


def _told_by_lease() -> tuple[Any, ...]:
    row = DeploymentRow
    is_plain = and_(
        text(_IS_PLAIN),
        row.paid_until <= bindparam("now", type_=row.paid_until.type),
        row.monthly_cost_micros > 0,
        row.new_price_micros.is_(None),
        row.period_anchor_at.is_not(None),
    )
    return is_plain, *(getattr(row, name) for name in Plain._fields[2:])


TOLD_BY_LEASE = _told_by_lease()
"""What the lease of a deployment tells of it: whether a month of it is due and it is plain, as far
as its row says, and the fields of ``Plain``, but for the two that each lease tells."""


def owe(
    session: Session, now: datetime, leased: Iterable[Sequence[Any]], rules: BillingSettings
) -> list[Month]:
    """Write down the months that are due of those that are plain, and were not charged too often
    today. The others are left as they are. They are held since they were leased."""
    found = [
        Plain(deployment_id, user_id, *told)
        for deployment_id, user_id, _, is_plain, *told in leased
        if is_plain
    ]
    if not found:
        return []
    asked = {
        "ids": array("uuid", (each.deployment_id for each in found)),
        "yesterday": now - DAY,
        "charges_max": rules.charges_per_day_max,
    }
    with_others = set(session.scalars(_WITH_OTHERS, asked))
    months = [
        Month(each, _owed(now, each)) for each in found if each.deployment_id not in with_others
    ]
    written = periods.owe(session, [month.owed for month in months])
    return [month for month in months if month.owed.deployment_id in written]


def _owed(now: datetime, row: Plain) -> Owed:
    return Owed(
        row.deployment_id,
        row.paid_until,
        PeriodKind.MONTH,
        month_end(row.period_anchor_at, row.paid_until),
        row.user_id,
        row.monthly_cost_micros,
        row.provider_id,
        row.fee_bps,
        PeriodStatus.DUE,
        now,
        row.name,
    )


def run_on(
    session: Session, clock: Clock, paid: Sequence[PaidMonth], rules: BillingSettings
) -> set[UUID]:
    """Let run on what is as it was when its month was written down. Which those are."""
    same = _HOLD.scalars(session, [(number, *each.owed[:2]) for number, each in enumerate(paid)])
    if not same:
        return set()
    now = clock()
    done = _RUN_ON.scalars(session, [(each, *_row(now, paid[each], rules)) for each in same])
    renewed = [paid[each] for each in done]
    publish(session, *[_event(now, each) for each in renewed])
    _book_sales(session, now, [each for each in renewed if periods.price(each.owed).earner_id])
    return {each.owed.deployment_id for each in renewed}


def _row(now: datetime, paid: PaidMonth, rules: BillingSettings) -> Sequence[Any]:
    due_at = ladder.announces_at(paid.owed.ends_at, rules)
    return paid.owed.deployment_id, paid.owed.starts_at, paid.transaction_id, now, due_at


def _event(now: datetime, paid: PaidMonth) -> DeploymentRenewed:
    price = periods.price(paid.owed)
    return DeploymentRenewed(
        event_id=new_id(),
        occurred_at=now,
        user_id=paid.owed.user_id,
        deployment_id=paid.owed.deployment_id,
        name=paid.deployment.name,
        amount_micros=paid.owed.amount_micros,
        starts_at=paid.owed.starts_at,
        ends_at=paid.owed.ends_at,
        transaction_id=paid.transaction_id,
        fee_micros=price.fee_micros if price.earner_id else 0,
    )


def _book_sales(session: Session, now: datetime, earned: Sequence[PaidMonth]) -> None:
    """Who sells sees what was charged."""
    if not earned:
        return
    row = DeploymentRow
    query = select(row.deployment_id, row.purchase_id, row.product_id, row.product_name)
    ids = [each.owed.deployment_id for each in earned]
    sold = {
        each.deployment_id: each
        for each in session.execute(query.where(row.deployment_id.in_(ids)))
    }
    names = records.product_names(session, (each.purchase_id for each in sold.values()))
    with Batch(session) as writes:
        records.write(
            writes,
            [
                sale
                for _, owed, _ in earned
                for product in [sold[owed.deployment_id]]
                for sale in records.sale(
                    periods.key(owed),
                    SaleKind.RENEWAL,
                    now,
                    periods.price(owed),
                    buyer_id=owed.user_id,
                    product_id=product.product_id,
                    product_name=product.product_name or names.get(product.product_id, ""),
                    units=1,
                )
            ],
        )
