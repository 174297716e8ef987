"""Analytics' tables: what was said of each subject, and what that comes to by time.

Amounts are micro-dollars, times are aware UTC. Of people there are ids, and nothing else.
"""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        str: Text(),
        dict[str, Any]: JSONB,
    }


class FactRow(Base):
    """Something that happened to a purchase, a top-up, a deployment or a person; see
    :mod:`services.analytics.facts`. ``key`` tells apart what may happen to it several times."""

    __tablename__ = "facts"

    subject_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    data: Mapped[dict[str, Any]]

    __table_args__ = (Index("facts_of_paths", "at", postgresql_where=text("kind = 'step'")),)


class ActivityRow(Base):
    """Somebody did something in the hour, day or week (``grain``) that begins at ``starts_at``."""

    __tablename__ = "activity"

    grain: Mapped[str] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)


class ProductTotalRow(Base):
    """What was sold of a product from the beginning up to the end of the day that begins at
    ``starts_at``. There are rows for days on which something was: what was sold in any time is the
    difference of two of them."""

    __tablename__ = "product_totals"

    product_id: Mapped[UUID] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    units: Mapped[int] = mapped_column(BigInteger)
    sales_micros: Mapped[int] = mapped_column(BigInteger)


class CountRow(Base):
    """What a figure comes to in the hour, day or week that begins at ``starts_at``; ``detail`` is a
    reason or a week, where a figure has one."""

    __tablename__ = "counts"

    grain: Mapped[str] = mapped_column(primary_key=True)
    figure: Mapped[str] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    detail: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
