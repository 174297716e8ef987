"""Reservations go with their lines once nobody can ask for them any more."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select

from chassis.database import Connected
from chassis.retention import FORGET_EVERY_S, forget
from services.catalog import retention
from services.catalog.models import ReservationLineRow
from services.catalog.service import CatalogService
from services.catalog.settings import CatalogSettings
from tests.catalog.conftest import NOW
from tests.catalog.test_stock import left, reserve

RULES = retention.kept(CatalogSettings(amqp_uri="", database_url=""))


def test_an_old_reservation_goes_with_its_lines_and_its_stock_stays_sold(
    database: Connected, add_product: Callable[..., UUID]
) -> None:
    product_id = add_product(stock=5)
    reserve(database, product_id, 2)

    forget(database, NOW + timedelta(days=91), RULES)

    with database.read() as session:
        lines = session.scalar(select(func.count()).select_from(ReservationLineRow))
    assert (lines, left(database, product_id)) == (0, 3)


def test_the_service_looks_for_what_is_old_every_ten_minutes() -> None:
    (timer,) = CatalogService.forget_old.nameko_entrypoints  # type: ignore[attr-defined]

    assert timer.interval == FORGET_EVERY_S == 600
