"""The tables of which statements are asked, and the house accounts' ids.

The migrations say what other tables there are, and what the database itself refuses. The ledger
reads and writes in bulk, with the SQL that stands in :mod:`services.wallet.book`.
"""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, Text
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
    }


HOUSE_ACCOUNT_IDS: dict[HouseAccount, int] = {
    HouseAccount.CARD_RECEIPTS: 1,
    HouseAccount.MARKETPLACE_REVENUE: 2,
    HouseAccount.FEES: 3,
    HouseAccount.PROMOTIONS: 4,
    HouseAccount.MIGRATION: 5,
    HouseAccount.ADJUSTMENTS: 6,
    HouseAccount.ADVANCES: 7,
    HouseAccount.PAYOUTS: 8,
    HouseAccount.POOLS: 9,
}
"""Migrations write these rows; users' accounts start at 1000."""


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
