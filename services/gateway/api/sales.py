"""What a user sells."""

from datetime import date
from uuid import UUID

from flask import Blueprint
from pydantic import Field

from contracts.billing import GetSalesSums, ListSales
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import (
    ApiReply,
    CursorText,
    DaysQuery,
    Limit,
    PeriodQuery,
    Usd,
)
from services.gateway.backend import call
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_sales", __name__)


class SalesQuery(PeriodQuery):
    cursor: CursorText | None = None
    limit: Limit = 100


class ProductSalesReply(ApiReply):
    """What was sold of one product on one day (UTC). ``units`` were bought, ``renewals`` are months
    of earlier ones, and ``gross_usd`` was paid for both and for usage. ``refunded_usd`` went
    back on that day. ``fee_usd`` is the marketplace's, and ``net_usd`` = gross − refunded − fee
    came into the wallet: less than nothing where more was given back than sold."""

    day: date
    product_id: UUID
    product_name: str
    units: int
    renewals: int
    units_refunded: int
    gross_micros: Usd = Field(serialization_alias="gross_usd")
    refunded_micros: Usd = Field(serialization_alias="refunded_usd")
    fee_micros: Usd = Field(serialization_alias="fee_usd")
    net_micros: Usd = Field(serialization_alias="net_usd")


class SalesSumReply(ApiReply):
    """``gross_usd`` was paid, ``refunded_usd`` went back to buyers, ``fee_usd`` the marketplace
    kept, and ``net_usd`` = gross − refunded − fee was earned."""

    gross_micros: Usd = Field(serialization_alias="gross_usd")
    refunded_micros: Usd = Field(serialization_alias="refunded_usd")
    fee_micros: Usd = Field(serialization_alias="fee_usd")
    net_micros: Usd = Field(serialization_alias="net_usd")


class SalesTotalReply(SalesSumReply):
    since: date
    until: date


class TotalQuery(DaysQuery):
    """The last 31 days, unless it says otherwise."""

    DAYS = 31


class SalesReply(ApiReply):
    """The newest day first; ``next_cursor`` asks for older ones, null at the end."""

    sales: list[ProductSalesReply]
    next_cursor: str | None


@endpoint(blueprint, "GET", "/api/sales", query=SalesQuery, reply=SalesReply)
def list_sales(user: CurrentUser, query: SalesQuery) -> SalesReply:
    """What the user sold, by product and day, from the day ``since`` up to and including
    ``until``. Empty for who sells nothing."""
    return SalesReply.of(
        call(
            ListSales(
                user_id=user.user_id,
                since=query.since,
                until=query.until,
                cursor=query.cursor,
                limit=query.limit,
            )
        )
    )


@endpoint(blueprint, "GET", "/api/sales/total", query=TotalQuery, reply=SalesTotalReply)
def total_sales(user: CurrentUser, query: TotalQuery) -> SalesTotalReply:
    """What the user sold in all of these days."""
    since, until = query.bounds()
    told = call(GetSalesSums(user_id=user.user_id, since=since, until=until, limit=1))
    return SalesTotalReply.of(told.total, since=since, until=until)
