"""Months that simply follow each other, as nearly all do: many of them in a statement each.

Plain is what runs, owes nothing, keeps its price and goes on after its month. It is no row of the
ORM: its month is written down, and when the wallet has paid that, it runs on, if it still is what
it was. Whatever else is due, or has become of it meanwhile, goes the way of
:mod:`services.billing.renewals.rungs` and :mod:`services.billing.renewals.outcomes`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
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
from services.billing.sales import records
from services.billing.sales.records import SaleKind
from services.billing.settings import BillingSettings


class Plain(NamedTuple):
    """A deployment whose next month is due."""

    deployment_id: UUID
    user_id: UUID
    purchase_id: UUID
    name: str
    product_id: UUID
    product_name: str | None
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
    f"d.status = '{DeploymentStatus.ACTIVE}' AND NOT d.ends_with_month"
    " AND d.short_since IS NULL AND d.usage_short_since IS NULL"
)
_OPEN = ", ".join(f"'{status}'" for status in periods.OPEN)
_FIND = text(
    f"SELECT {', '.join(f'd.{name}' for name in Plain._fields)} FROM deployments AS d"  # noqa: S608 - our words
    f" WHERE d.deployment_id = ANY(CAST(:ids AS uuid[])) AND {_IS_PLAIN} AND d.paid_until <= :now"
    " AND d.monthly_cost_micros > 0 AND d.new_price_micros IS NULL"
    " AND d.period_anchor_at IS NOT NULL ORDER BY d.deployment_id FOR UPDATE"
)
# A statement of its own: one that waits for a row sees its periods as they were before it waited.
_WITHOUT_OTHERS = text(
    "SELECT d.deployment_id FROM deployments AS d"  # noqa: S608 - our words
    " WHERE d.deployment_id = ANY(CAST(:ids AS uuid[]))"
    # One look for each, by its key; as two conditions it may become a scan of all periods.
    " AND (SELECT count(*) FILTER (WHERE p.created_at > :yesterday) < :charges_max AND"
    f" count(*) FILTER (WHERE p.starts_at >= d.paid_until OR p.status IN ({_OPEN})) = 0"
    " FROM periods AS p WHERE p.deployment_id = d.deployment_id)"
)
_HOLD = text(
    "SELECT d.deployment_id, d.paid_until FROM deployments AS d"  # noqa: S608 - our words
    f" WHERE d.deployment_id = ANY(CAST(:ids AS uuid[])) AND {_IS_PLAIN}"
    " ORDER BY d.deployment_id FOR UPDATE"
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
        RETURNING p.deployment_id, p.ends_at, new.due_at
    )
    UPDATE deployments AS d SET paid_until = paid.ends_at, due_at = paid.due_at,
        announced = '{ladder.Announced.NOTHING}', announced_at = NULL
    FROM paid WHERE d.deployment_id = paid.deployment_id RETURNING d.deployment_id
    """,  # noqa: S608 - our words
    deployment_id="uuid",
    starts_at="timestamptz",
    transaction_id="uuid",
    changed_at="timestamptz",
    due_at="timestamptz",
)


def owe(
    session: Session, now: datetime, deployment_ids: Iterable[UUID], rules: BillingSettings
) -> list[Month]:
    """Write down the months that are due of those that are plain, and were not charged too often
    today. The others are left as they are."""
    due = {"ids": array("uuid", deployment_ids), "now": now}
    found = [Plain(*row) for row in session.execute(_FIND, due)]
    asked = {
        "ids": array("uuid", (each.deployment_id for each in found)),
        "yesterday": now - DAY,
        "charges_max": rules.charges_per_day_max,
    }
    without_others = set(session.scalars(_WITHOUT_OTHERS, asked))
    months = [
        Month(each, _owed(now, each)) for each in found if each.deployment_id in without_others
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
    session: Session, clock: Clock, paid: Iterable[PaidMonth], rules: BillingSettings
) -> set[UUID]:
    """Let run on what is as it was when its month was written down. Which those are."""
    by_id = {each.owed.deployment_id: each for each in paid}
    held = session.execute(_HOLD, {"ids": array("uuid", by_id)})
    same = [by_id[row.deployment_id] for row in held if _is_same(row, by_id)]
    if not same:
        return set()
    now = clock()
    done = set(_RUN_ON.scalars(session, [_row(now, each, rules) for each in same]))
    renewed = [each for each in same if each.owed.deployment_id in done]
    publish(session, *[_event(now, each) for each in renewed])
    _book_sales(session, now, [each for each in renewed if periods.price(each.owed).earner_id])
    return done


def _is_same(row: Any, by_id: Mapping[UUID, PaidMonth]) -> bool:
    starts_at: datetime = by_id[row.deployment_id].owed.starts_at
    return bool(row.paid_until == starts_at)


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
    names = records.product_names(session, (each.deployment.purchase_id for each in earned))
    with Batch(session) as writes:
        records.write(
            writes,
            [
                sale
                for deployment, owed, _ in earned
                for sale in records.sale(
                    periods.key(owed),
                    SaleKind.RENEWAL,
                    now,
                    periods.price(owed),
                    buyer_id=deployment.user_id,
                    product_id=deployment.product_id,
                    product_name=deployment.product_name or names.get(deployment.product_id, ""),
                    units=1,
                )
            ],
        )
