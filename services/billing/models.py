"""Billing's tables."""

from datetime import date, datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, ForeignKey, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from contracts.billing import DeploymentStatus, PurchaseStatus, PurchaseWay


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True), str: Text()}


WAITING = (PurchaseStatus.PENDING.value, PurchaseStatus.AWAITING_FUNDS.value)
"""The states of a purchase that has not ended."""
HAS_WAITING = (
    "EXISTS (SELECT FROM purchases WHERE user_id = new.user_id"
    " AND status IN ('pending', 'awaiting_funds'))"
)
"""Whether any purchase of a user's does, as SQL over users named ``new``."""

OVER = (DeploymentStatus.FAILED.value, DeploymentStatus.CANCELLED.value)
"""The states of a deployment that has."""


class PurchaseRow(Base):
    """One purchase, from before its first effect to its end.

    ``due_at`` says when somebody should work on it next, ``claimed_until`` until when
    somebody does, ``try_owed_since`` that a payment is to be tried: see
    :mod:`services.billing.purchases.claims`. ``closing_status`` is the end it is being brought
    to without a payment; it is written before the wallet is told.
    ``may_hold_stock`` says whether stock stays set aside for it while it is not paid, ``short_at``
    when the wallet had too little for it first. ``way`` is how it was ordered, where that is known.
    """

    __tablename__ = "purchases"

    purchase_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    idempotency_key: Mapped[str]
    body_hash: Mapped[str]
    status: Mapped[str]
    status_code: Mapped[str]
    status_reason: Mapped[str]
    explained_at: Mapped[datetime | None]
    total_micros: Mapped[int] = mapped_column(BigInteger)
    shortfall_micros: Mapped[int] = mapped_column(BigInteger)
    refunded_micros: Mapped[int] = mapped_column(BigInteger, default=0)
    transaction_id: Mapped[UUID | None]
    reservation_id: Mapped[UUID]
    may_hold_stock: Mapped[bool]
    stock_held_until: Mapped[datetime | None]
    short_at: Mapped[datetime | None]
    closing_status: Mapped[str | None]
    closing_code: Mapped[str]
    closing_reason: Mapped[str]
    attempts: Mapped[int] = mapped_column(Integer)
    due_at: Mapped[datetime | None]
    try_owed_since: Mapped[datetime | None]
    claim_id: Mapped[UUID | None]
    claimed_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    way: Mapped[str | None]

    lines: Mapped[list["PurchaseLineRow"]] = relationship(
        order_by="PurchaseLineRow.position", lazy="selectin"
    )
    deployments: Mapped[list["DeploymentRow"]] = relationship(
        order_by="[DeploymentRow.line_position, DeploymentRow.unit_number]", lazy="selectin"
    )

    @property
    def purchase_way(self) -> PurchaseWay | None:
        return PurchaseWay(self.way) if self.way else None


class PurchaseLineRow(Base):
    """A line of a purchase, with the price at which it was made.

    ``name`` is what its buyer called it, empty where after the product.
    ``is_stocked``: there was an end to the product's stock. ``choices`` is what its buyer said,
    ``meters`` what is charged by use, at the prices of then.
    ``fee_bps`` is what the marketplace keeps of what somebody else sells; without one all of it.
    ``unit_price_micros`` is what was charged for each, after ``unit_discount_micros`` was off.
    """

    __tablename__ = "purchase_lines"

    purchase_id: Mapped[UUID] = mapped_column(ForeignKey("purchases.purchase_id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    product_id: Mapped[UUID]
    product_name: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    provider_id: Mapped[UUID | None]
    category: Mapped[str]
    billing_period: Mapped[str]
    quantity: Mapped[int] = mapped_column(Integer)
    unit_price_micros: Mapped[int] = mapped_column(BigInteger)
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    is_stocked: Mapped[bool]
    choices: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict)
    meters: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    fee_bps: Mapped[int | None] = mapped_column(Integer)
    unit_discount_micros: Mapped[int] = mapped_column(BigInteger, default=0)

    @property
    def list_price_micros(self) -> int:
        """What the catalog asked for one."""
        return self.unit_price_micros + self.unit_discount_micros


class DeploymentRow(Base):
    """One unit of a purchased line. ``period_anchor_at`` is the instant its months count from.

    ``paid_until`` is the end of the month that is paid; both are NULL for what is paid once.
    ``due_at`` is when somebody should look at it next, see :mod:`services.billing.renewals`;
    ``short_since`` when the wallet first had too little for the month that is due,
    ``usage_short_since`` when for its usage;
    ``ends_with_month`` says that it is not to be renewed, ``announced`` what was last announced
    of what is going to happen. The first month that begins at ``new_price_from`` or later costs
    ``new_price_micros``. ``access`` is how it is reached, as its provisioner told. Who sells
    it, and at which fee, is its line's for good.
    """

    __tablename__ = "deployments"

    deployment_id: Mapped[UUID] = mapped_column(primary_key=True)
    purchase_id: Mapped[UUID] = mapped_column(ForeignKey("purchases.purchase_id"))
    line_position: Mapped[int] = mapped_column(Integer)
    unit_number: Mapped[int] = mapped_column(Integer)
    user_id: Mapped[UUID]
    product_id: Mapped[UUID]
    name: Mapped[str]
    category: Mapped[str]
    billing_period: Mapped[str]
    monthly_cost_micros: Mapped[int] = mapped_column(BigInteger)
    provider_id: Mapped[UUID | None]
    fee_bps: Mapped[int | None] = mapped_column(Integer)
    status: Mapped[str]
    status_reason: Mapped[str]
    created_at: Mapped[datetime]
    status_changed_at: Mapped[datetime]
    active_at: Mapped[datetime | None]
    period_anchor_at: Mapped[datetime | None]
    paid_until: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    short_since: Mapped[datetime | None]
    usage_short_since: Mapped[datetime | None]
    ends_with_month: Mapped[bool] = mapped_column(default=False)
    announced: Mapped[str] = mapped_column(default="")
    announced_at: Mapped[datetime | None]
    product_name: Mapped[str | None]
    new_price_micros: Mapped[int | None] = mapped_column(BigInteger)
    new_price_from: Mapped[datetime | None]
    access: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    ended_at: Mapped[datetime | None]


class ChangeRow(Base):
    """Something that happened to a deployment: the history that its owner reads.

    One that a command made carries its key and the hash of what it asked; one of its size, what a
    month costs since then.
    """

    __tablename__ = "deployment_changes"

    change_id: Mapped[UUID] = mapped_column(primary_key=True)
    deployment_id: Mapped[UUID] = mapped_column(ForeignKey("deployments.deployment_id"))
    user_id: Mapped[UUID]
    changed_at: Mapped[datetime]
    status: Mapped[str]
    cause: Mapped[str]
    actor: Mapped[str]
    idempotency_key: Mapped[str | None]
    body_hash: Mapped[str]
    resized_to_micros: Mapped[int | None] = mapped_column(BigInteger)


class PeriodRow(Base):
    """A time for which a deployment is charged, other than the month that its purchase paid.

    ``kind`` is ``month``, paid ahead, ``arrears``: time that ran and was not paid for, ``resize``:
    the rest of a month in another size, whose wish stands in ``resize`` (for the month of a start
    its command's key and hash do), or ``credit``: a part of a
    payment that goes back for a smaller one. Its
    states and their moves stand in :mod:`services.billing.deployments.periods`. ``money_came_at``:
    since its owner was told that it lacks money; where it still does, they are told again. So they
    are of what was refused while somebody else was to tell of it, if nobody told anything since.
    ``told_at``: as of when its owner was told last; of arrears that is noted since version 0028.
    ``name`` is its deployment's as it was written down; rows from before it was kept have none.
    """

    __tablename__ = "periods"

    deployment_id: Mapped[UUID] = mapped_column(
        ForeignKey("deployments.deployment_id"), primary_key=True
    )
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    ends_at: Mapped[datetime]
    user_id: Mapped[UUID]
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    provider_id: Mapped[UUID | None]
    fee_bps: Mapped[int | None] = mapped_column(Integer)
    status: Mapped[str]
    transaction_id: Mapped[UUID | None]
    resize: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    money_came_at: Mapped[datetime | None]
    told_at: Mapped[datetime | None]
    name: Mapped[str | None]


class FeeChangeRow(Base):
    """A fee that was agreed with a provider, by whom and why; the last one holds.

    ``fee_bps`` None: the default holds again.
    """

    __tablename__ = "fee_changes"

    change_id: Mapped[UUID] = mapped_column(primary_key=True)
    provider_id: Mapped[UUID]
    fee_bps: Mapped[int | None] = mapped_column(Integer)
    reason: Mapped[str]
    actor: Mapped[str]
    changed_at: Mapped[datetime]
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    body_hash: Mapped[str]


class DiscountRow(Base):
    """What somebody's staking takes off what they buy, by the event with the highest ``position``,
    and the last of several with it; see :mod:`services.billing.sales.discounts`. Who never staked
    has none."""

    __tablename__ = "discounts"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    discount_bps: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(BigInteger)
    told_at: Mapped[datetime | None]


class SaleRow(Base):
    """A line in the books of who sells; see :mod:`services.billing.sales.records`."""

    __tablename__ = "sales"

    sale_key: Mapped[str] = mapped_column(primary_key=True)
    provider_id: Mapped[UUID]
    product_id: Mapped[UUID]
    product_name: Mapped[str]
    kind: Mapped[str]
    units: Mapped[int] = mapped_column(Integer)
    gross_micros: Mapped[int] = mapped_column(BigInteger)
    fee_micros: Mapped[int] = mapped_column(BigInteger)
    sold_at: Mapped[datetime]
    is_own: Mapped[bool]
    day: Mapped[date]


class RefundRow(Base):
    """A refund of units of one purchase, from before its first effect to its end.

    ``due_at`` is when somebody should work on it next, None once it is done. One that a command
    asked for carries its key and the hash of what it asked.
    """

    __tablename__ = "refunds"

    refund_id: Mapped[UUID] = mapped_column(primary_key=True)
    purchase_id: Mapped[UUID] = mapped_column(ForeignKey("purchases.purchase_id"))
    user_id: Mapped[UUID]
    cause: Mapped[str]
    reason: Mapped[str]
    actor: Mapped[str]
    idempotency_key: Mapped[str | None]
    body_hash: Mapped[str]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    done_at: Mapped[datetime | None]


class RefundedUnitRow(Base):
    """A unit that is given back, once: its price, and what of it who sold it and the marketplace
    give. ``advanced_micros`` is what the house gave in the place of who sold it."""

    __tablename__ = "refunded_units"

    deployment_id: Mapped[UUID] = mapped_column(
        ForeignKey("deployments.deployment_id"), primary_key=True
    )
    refund_id: Mapped[UUID] = mapped_column(ForeignKey("refunds.refund_id"))
    line_position: Mapped[int] = mapped_column(Integer)
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    provider_id: Mapped[UUID | None]
    fee_micros: Mapped[int] = mapped_column(BigInteger)
    advanced_micros: Mapped[int] = mapped_column(BigInteger)
    transaction_id: Mapped[UUID | None]
    done_at: Mapped[datetime | None]


class DebtRow(Base):
    """What a provider owes for a refund that was advanced for them; see
    :mod:`services.billing.refunds.debts`."""

    __tablename__ = "debts"

    refund_key: Mapped[str] = mapped_column(primary_key=True)
    provider_id: Mapped[UUID]
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    transaction_id: Mapped[UUID | None]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    paid_at: Mapped[datetime | None]


class PriceNoticeRow(Base):
    """A product's last change of its price, about which owners are told one after the other.

    ``reached`` is the deployment that was told last, ``due_at`` when to go on with the next ones.
    ``is_repeated``: all were told once, and it is the turn of those that came meanwhile.
    """

    __tablename__ = "price_notices"

    product_id: Mapped[UUID] = mapped_column(primary_key=True)
    price_micros: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[datetime]
    reached: Mapped[UUID | None]
    is_repeated: Mapped[bool] = mapped_column(default=False)
    due_at: Mapped[datetime | None]


class PayoutRow(Base):
    """What a provider asks to be paid, from before the wallet hears of it to its end.

    ``due_at`` is when somebody should work on it next. ``closing_key`` is of the command that had
    it paid or refused.
    """

    __tablename__ = "payouts"

    payout_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str]
    status_code: Mapped[str]
    hold_id: Mapped[UUID | None]
    reference: Mapped[str]
    reason: Mapped[str]
    actor: Mapped[str]
    idempotency_key: Mapped[str]
    body_hash: Mapped[str]
    closing_key: Mapped[str | None]
    closing_hash: Mapped[str]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    due_at: Mapped[datetime | None]


class RunwayRow(Base):
    """When a user is looked at next, to be warned before credits run out; see
    :mod:`services.billing.forecast.runways`.

    ``warned_days`` is the last warning of this dip; None: everything due is covered, or was.
    """

    __tablename__ = "runways"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    due_at: Mapped[datetime | None]
    warned_days: Mapped[int | None] = mapped_column(Integer)


class ShortageRow(Base):
    """When it was last counted what a user lacks, or no longer does: see
    :mod:`services.billing.deployments.shortages`."""

    __tablename__ = "shortages"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    counted_at: Mapped[datetime]


class UsageRecordRow(Base):
    """So much of a meter was used; see :mod:`services.billing.usage.taking`.

    ``record_id`` is its caller's choice. One with a negative quantity corrects another one.
    """

    __tablename__ = "usage_records"

    deployment_id: Mapped[UUID] = mapped_column(
        ForeignKey("deployments.deployment_id"), primary_key=True
    )
    record_id: Mapped[str] = mapped_column(primary_key=True)
    meter: Mapped[str]
    month_starts_at: Mapped[datetime]
    used_at: Mapped[datetime]
    quantity: Mapped[int] = mapped_column(BigInteger)
    corrects: Mapped[str | None]
    recorded_at: Mapped[datetime]


class UsageTotalRow(Base):
    """What was used of a meter in one month of a deployment, and what of it stands in charges."""

    __tablename__ = "usage_totals"

    deployment_id: Mapped[UUID] = mapped_column(
        ForeignKey("deployments.deployment_id"), primary_key=True
    )
    meter: Mapped[str] = mapped_column(primary_key=True)
    month_starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    month_ends_at: Mapped[datetime]
    user_id: Mapped[UUID]
    quantity: Mapped[int] = mapped_column(BigInteger)
    charged_quantity: Mapped[int] = mapped_column(BigInteger, default=0)
    charged_micros: Mapped[int] = mapped_column(BigInteger, default=0)


class UsageWalletRow(Base):
    """A wallet that pays for usage. ``due_at`` is when it is charged next.

    What is not charged yet was used from ``used_from`` until ``used_until``. Who writes anything
    about the usage of a wallet holds this row.
    """

    __tablename__ = "usage_wallets"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    used_from: Mapped[datetime | None]
    used_until: Mapped[datetime | None]
    due_at: Mapped[datetime | None]


class UsageChargeRow(Base):
    """What one transaction of a wallet pays for usage, from before the wallet hears of it.

    ``closing_since``: what it is for was corrected, and it is replaced unless it was paid.
    ``money_came_at``, ``told_at``: as of a period.
    """

    __tablename__ = "usage_charges"

    charge_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[str]
    transaction_id: Mapped[UUID | None]
    created_at: Mapped[datetime]
    paid_at: Mapped[datetime | None]
    closing_since: Mapped[datetime | None]
    money_came_at: Mapped[datetime | None]
    told_at: Mapped[datetime | None]


class UsageChargeLineRow(Base):
    """What a charge is for: what was used of one meter in one month and not charged before."""

    __tablename__ = "usage_charge_lines"

    charge_id: Mapped[UUID] = mapped_column(ForeignKey("usage_charges.charge_id"), primary_key=True)
    deployment_id: Mapped[UUID] = mapped_column(
        ForeignKey("deployments.deployment_id"), primary_key=True
    )
    meter: Mapped[str] = mapped_column(primary_key=True)
    month_starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    quantity: Mapped[int] = mapped_column(BigInteger)
    amount_micros: Mapped[int] = mapped_column(BigInteger)


class UsageRefundRow(Base):
    """A part of what a charge took for one deployment, which was corrected after it was paid; see
    :mod:`services.billing.usage.paying_back`. ``due_at`` is when somebody gives it back next."""

    __tablename__ = "usage_refunds"

    refund_id: Mapped[UUID] = mapped_column(primary_key=True)
    deployment_id: Mapped[UUID] = mapped_column(ForeignKey("deployments.deployment_id"))
    charge_id: Mapped[UUID] = mapped_column(ForeignKey("usage_charges.charge_id"))
    user_id: Mapped[UUID]
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    fee_micros: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    transaction_id: Mapped[UUID | None]
    done_at: Mapped[datetime | None]


class ReceiptRow(Base):
    """A receipt that was issued for what a transaction paid: ``content`` is a
    :class:`contracts.billing.Receipt` as it was then, without what came back later."""

    __tablename__ = "receipts"

    transaction_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    year: Mapped[int] = mapped_column(Integer)
    sequence: Mapped[int] = mapped_column(Integer)
    issued_at: Mapped[datetime]
    content: Mapped[dict[str, Any]] = mapped_column(JSONB)


class StockReleaseRow(Base):
    """A reservation that the catalog has yet to be told to put back."""

    __tablename__ = "stock_releases"

    reservation_id: Mapped[UUID] = mapped_column(primary_key=True)
    requested_at: Mapped[datetime]
