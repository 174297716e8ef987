"""The tables of the old system's service: plans, their lines, and who was moved.

Amounts of old points are exact decimals, dollars are micro-dollars, times are aware UTC.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, ForeignKey, Identity, Integer, Numeric, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        str: Text(),
        Decimal: Numeric(),
        list[str]: ARRAY(Text),
    }


class PlanRow(Base):
    """One reading of everything that was there, at one rate (dollars for a point)."""

    __tablename__ = "plans"

    plan_id: Mapped[UUID] = mapped_column(primary_key=True)
    source: Mapped[str]
    rate: Mapped[Decimal]
    planned_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class LineRow(Base):
    """One document of a plan: what it comes to, or why it does not.

    ``refusal`` is the reason of a document that could not be read; ``conflicts`` are for a person
    to decide, and ``decision`` says who did, and why. ``document`` is the old text, whole.
    ``amount_micros`` is None where it is too large; ``rounded_away`` is in micro-dollars.
    ``holdings`` are for the pools, see :mod:`services.legacy.pools.opening`.
    """

    __tablename__ = "lines"

    line_id: Mapped[UUID] = mapped_column(primary_key=True)
    plan_id: Mapped[UUID] = mapped_column(ForeignKey("plans.plan_id"))
    place: Mapped[str]
    refusal: Mapped[str]
    email: Mapped[str]
    email_key: Mapped[str | None]
    balance: Mapped[Decimal | None]
    amount_micros: Mapped[int | None] = mapped_column(BigInteger)
    rounded_away: Mapped[Decimal | None]
    services: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    holdings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    conflicts: Mapped[list[str]]
    decision: Mapped[str]
    document: Mapped[str]


class MoveRow(Base):
    """Somebody who is moved, or was: one row for each address, whatever plans there are.

    The person's id is that of the line by which they were moved first: where this table was lost
    since, another run of the same plan asks under the same keys, and pays nobody a second time.
    ``attempt`` counts the times that it was begun; the keys of what is asked of the wallet carry
    it. ``due_at`` is when a worker may take it up, ``reason`` why nothing came of that. The states
    and their moves stand in :mod:`services.legacy.moving.moves`.
    """

    __tablename__ = "moves"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    email_key: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str]
    plan_id: Mapped[UUID] = mapped_column(ForeignKey("plans.plan_id"))
    line_id: Mapped[UUID] = mapped_column(ForeignKey("lines.line_id"))
    attempt: Mapped[int] = mapped_column(Integer)
    status: Mapped[str]
    reason: Mapped[str]
    reversal_reason: Mapped[str]
    reversal_actor: Mapped[str]
    balance: Mapped[Decimal]
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    services: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    holdings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    transaction_id: Mapped[UUID | None]
    due_at: Mapped[datetime | None]
    moved_at: Mapped[datetime | None]
    answered_at: Mapped[datetime | None]
    refusal: Mapped[str]
    reverted_at: Mapped[datetime | None]


class PoolAccountRow(Base):
    """What somebody has of a coin, in millionths of it: free or staked, in a pool, or of the house.
    A pool's shares are a coin of its name."""

    __tablename__ = "pool_accounts"

    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    holder: Mapped[str]
    user_id: Mapped[UUID | None]
    pool: Mapped[str]
    coin: Mapped[str]
    balance_units: Mapped[int] = mapped_column(BigInteger)
    entry_count: Mapped[int] = mapped_column(BigInteger)


class PoolTransactionRow(Base):
    """Something that changed what a user has. It is never changed, nor are its entries."""

    __tablename__ = "pool_transactions"

    transaction_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    user_id: Mapped[UUID]
    order_id: Mapped[UUID | None]
    kind: Mapped[str]
    pool: Mapped[str]
    note: Mapped[str]
    recorded_at: Mapped[datetime]


class PoolEntryRow(Base):
    """One account's side of a transaction."""

    __tablename__ = "pool_entries"

    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    entry_number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    transaction_id: Mapped[UUID]
    amount_units: Mapped[int] = mapped_column(BigInteger)
    balance_after_units: Mapped[int] = mapped_column(BigInteger)


class PoolQuoteRow(Base):
    """What was wished, each at least zero, and what it came to for the user, below zero where they
    give it."""

    __tablename__ = "pool_quotes"

    quote_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    kind: Mapped[str]
    pool: Mapped[str]
    wish_base_units: Mapped[int] = mapped_column(BigInteger)
    wish_other_units: Mapped[int] = mapped_column(BigInteger)
    wish_share_units: Mapped[int] = mapped_column(BigInteger)
    base_units: Mapped[int] = mapped_column(BigInteger)
    other_units: Mapped[int] = mapped_column(BigInteger)
    share_units: Mapped[int] = mapped_column(BigInteger)
    fee_units: Mapped[int] = mapped_column(BigInteger)
    made_at: Mapped[datetime]


class PoolOrderRow(Base):
    """Something that a user wants: as it was quoted, the least that it has to come to, and what it
    came to. Its states and their moves stand in :mod:`services.legacy.pools.orders`."""

    __tablename__ = "pool_orders"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    idempotency_key: Mapped[str]
    body_hash: Mapped[str]
    kind: Mapped[str]
    pool: Mapped[str]
    quote_id: Mapped[UUID | None]
    status: Mapped[str]
    status_code: Mapped[str]
    reason: Mapped[str]
    wish_base_units: Mapped[int] = mapped_column(BigInteger)
    wish_other_units: Mapped[int] = mapped_column(BigInteger)
    wish_share_units: Mapped[int] = mapped_column(BigInteger)
    least_base_units: Mapped[int] = mapped_column(BigInteger)
    least_other_units: Mapped[int] = mapped_column(BigInteger)
    least_share_units: Mapped[int] = mapped_column(BigInteger)
    base_units: Mapped[int] = mapped_column(BigInteger)
    other_units: Mapped[int] = mapped_column(BigInteger)
    share_units: Mapped[int] = mapped_column(BigInteger)
    fee_units: Mapped[int] = mapped_column(BigInteger)
    hold_id: Mapped[UUID | None]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
