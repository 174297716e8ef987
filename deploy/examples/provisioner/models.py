"""The provisioner's table."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import DateTime, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True), str: Text()}


class MachineRow(Base):
    """A machine for one deployment, whose id is its own: made twice, it is the same machine.

    ``wanted`` is what billing said last, at ``wanted_since``; ``state`` what there is. ``slot`` is
    its place among all, from which its address follows. ``heard`` counts what was heard of it, and
    ``due_at`` is when somebody should look at it; see :mod:`deploy.examples.provisioner.machines`.
    """

    __tablename__ = "machines"

    deployment_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    product_id: Mapped[UUID | None]
    name: Mapped[str]
    choices: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict)
    wanted: Mapped[str]
    wanted_since: Mapped[datetime]
    state: Mapped[str]
    slot: Mapped[int | None]
    is_reported: Mapped[bool] = mapped_column(default=False)
    heard: Mapped[int] = mapped_column(default=1)
    due_at: Mapped[datetime | None]
