"""The wallet's tables. The migration says what the database itself refuses.

Questions read through these classes; the ledger writes in bulk, with the SQL that stands in
:mod:`services.wallet.book.book`.
"""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, Integer, LargeBinary, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from contracts.wallet import HouseAccount


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {
        int: BigInteger,
        str: Text,
        datetime: postgresql.TIMESTAMP(timezone=True),
        UUID: postgresql.UUID(as_uuid=True),
        dict[str, Any]: postgresql.JSONB,
        bytes: LargeBinary,
    }


HOUSE_ACCOUNT_IDS: dict[HouseAccount, int] = {
    HouseAccount.CARD_RECEIPTS: 1,
    HouseAccount.MARKETPLACE_REVENUE: 2,
    HouseAccount.FEES: 3,
    HouseAccount.PROMOTIONS: 4,
    HouseAccount.MIGRATION: 5,
    HouseAccount.ADJUSTMENTS: 6,
}
"""The first migration writes these rows; users' accounts start at 1000."""


class AccountRow(Base):
    __tablename__ = "accounts"
    account_id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[UUID | None]
    house_name: Mapped[str | None]
    opened_at: Mapped[datetime]


class BalanceRow(Base):
    __tablename__ = "balances"
    account_id: Mapped[int] = mapped_column(primary_key=True)
    balance_micros: Mapped[int]
    held_micros: Mapped[int]
    entry_count: Mapped[int]
    status: Mapped[str]
    status_change_count: Mapped[int] = mapped_column(Integer)
    last_entry_at: Mapped[datetime]


class StatusChangeRow(Base):
    __tablename__ = "status_changes"
    account_id: Mapped[int] = mapped_column(primary_key=True)
    change_number: Mapped[int] = mapped_column(Integer, primary_key=True)
    status: Mapped[str]
    reason: Mapped[str]
    actor: Mapped[str]
    changed_at: Mapped[datetime]


class TransactionRow(Base):
    __tablename__ = "transactions"
    transaction_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int]
    kind: Mapped[str]
    amount_micros: Mapped[int]
    description: Mapped[str]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    effective_at: Mapped[datetime]
    recorded_at: Mapped[datetime]
    corrects_transaction_id: Mapped[UUID | None]
    correction: Mapped[str | None]
    caller: Mapped[str | None]


class EntryRow(Base):
    __tablename__ = "entries"
    account_id: Mapped[int] = mapped_column(primary_key=True)
    entry_number: Mapped[int] = mapped_column(primary_key=True)
    transaction_id: Mapped[UUID]
    amount_micros: Mapped[int]
    balance_after_micros: Mapped[int | None]
    kind: Mapped[str]
    effective_at: Mapped[datetime]
    recorded_at: Mapped[datetime]


class HoldRow(Base):
    __tablename__ = "holds"
    account_id: Mapped[int] = mapped_column(primary_key=True)
    hold_id: Mapped[UUID] = mapped_column(primary_key=True)
    amount_micros: Mapped[int]
    captured_micros: Mapped[int]
    status: Mapped[str]
    description: Mapped[str]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    placed_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    transaction_id: Mapped[UUID | None]


class KeyRow(Base):
    __tablename__ = "keys"
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str]
    request_hash: Mapped[bytes | None]
    account_id: Mapped[int | None]
    transaction_id: Mapped[UUID | None]
    hold_id: Mapped[UUID | None]
    change_number: Mapped[int | None] = mapped_column(Integer)
    recorded_at: Mapped[datetime]
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    effective_at: Mapped[datetime | None]


class LevelRow(Base):
    __tablename__ = "levels"
    account_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    threshold_micros: Mapped[int | None]
    is_armed: Mapped[bool]
    settings_version: Mapped[int]


class ChainRow(Base):
    __tablename__ = "chain"
    position: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
