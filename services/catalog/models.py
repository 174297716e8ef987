"""The catalog's tables."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, Computed, DateTime, ForeignKey, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True), str: Text()}


class ProductRow(Base):
    """A thing for sale. ``stock`` is NULL where there is no end to it."""

    __tablename__ = "products"

    product_id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str]
    name: Mapped[str]
    category: Mapped[str]
    summary: Mapped[str]
    description: Mapped[str]
    provider_name: Mapped[str]
    provider_id: Mapped[UUID | None]
    location: Mapped[str | None]
    price_micros: Mapped[int] = mapped_column(BigInteger)
    billing_period: Mapped[str]
    specification: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    stock: Mapped[int | None] = mapped_column(Integer)
    fields: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    meters: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    family: Mapped[str | None]
    retired_at: Mapped[datetime | None]
    featured_rank: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    searchable: Mapped[str] = mapped_column(
        Text,
        Computed("search_form(name || ' ' || summary || ' ' || provider_name)", persisted=True),
        nullable=True,
    )


class ProductVersionRow(Base):
    """One row: another version after each change of what products are found by."""

    __tablename__ = "product_version"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    version: Mapped[UUID]


class ProductPriceRow(Base):
    """What a product and its meters cost from a moment on, until the next one; by whom, and why."""

    __tablename__ = "product_prices"

    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.product_id"), primary_key=True)
    since: Mapped[datetime] = mapped_column(primary_key=True)
    price_micros: Mapped[int] = mapped_column(BigInteger)
    meters: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    actor: Mapped[str]
    reason: Mapped[str]


class ProductChangeRow(Base):
    """A command of who sells that was carried out, with its key and the hash of what it asked."""

    __tablename__ = "product_changes"

    change_id: Mapped[UUID] = mapped_column(primary_key=True)
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.product_id"))
    command: Mapped[str]
    actor: Mapped[str]
    reason: Mapped[str]
    changed_at: Mapped[datetime]
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    body_hash: Mapped[str]


class ProviderRow(Base):
    """Who sells, as buyers see them. ``products.provider_name`` follows the name."""

    __tablename__ = "providers"

    provider_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    about: Mapped[str]
    support_email: Mapped[str]
    support_url: Mapped[str]
    changed_at: Mapped[datetime]


class ProviderChangeRow(Base):
    """A profile that was written: the name it gave, the command's key, and the hash of it."""

    __tablename__ = "provider_changes"

    change_id: Mapped[UUID] = mapped_column(primary_key=True)
    provider_id: Mapped[UUID] = mapped_column(ForeignKey("providers.provider_id"))
    name: Mapped[str]
    actor: Mapped[str]
    reason: Mapped[str]
    changed_at: Mapped[datetime]
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    body_hash: Mapped[str]


class ReservationRow(Base):
    """Stock set aside under the caller's id. It is released once, perhaps before it is made.

    It is not paid until ``held_until``, if it is released at all by then; without that it is sold.
    """

    __tablename__ = "reservations"

    reservation_id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    released_at: Mapped[datetime | None]
    held_until: Mapped[datetime | None]


class ReservationLineRow(Base):
    """What a reservation took. ``was_counted`` is False for a product that had no stock limit."""

    __tablename__ = "reservation_lines"

    reservation_id: Mapped[UUID] = mapped_column(
        ForeignKey("reservations.reservation_id"), primary_key=True
    )
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.product_id"), primary_key=True)
    quantity: Mapped[int] = mapped_column(Integer)
    was_counted: Mapped[bool]
