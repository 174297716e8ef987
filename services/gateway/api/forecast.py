"""When money leaves the wallet in the days to come, and how long it lasts."""

from datetime import date
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field

from contracts.billing import EVENTS_NAMED, ForecastKind, GetForecast
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, Days, EventsMax, Usd
from services.gateway.backend import call
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_forecast", __name__)


class ForecastQuery(ApiBody):
    """``without`` is the id of a deployment that is left out. ``events_max``: of each day at most
    so many events are named, and the others counted."""

    days: Days = 30
    without: UUID | None = None
    events_max: EventsMax = EVENTS_NAMED


class ForecastEventReply(ApiReply):
    """``amount_usd`` is positive; an ``auto_topup`` adds it to the balance, a charge takes it, and
    so does a ``promotion_end``: what is left of promotional credit when it expires. The ``usage``
    of a deployment is charged every hour, and is one event for each day."""

    kind: ForecastKind
    at: AwareDatetime
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    deployment_id: UUID | None
    name: str


class ForecastDayReply(ApiReply):
    """``balance`` is the one at the end of the day (UTC). ``events`` are the day's first 10,
    or ``events_max``, and each ``auto_topup`` and ``promotion_end`` after them; ``events_total`` is
    how many there are in all, and every one of them is in the balance."""

    date: date
    balance_micros: Usd
    events: list[ForecastEventReply]
    events_total: int


class DueReply(ApiReply):
    """Usage is due every day: of each deployment's the first one alone is listed."""

    kind: ForecastKind
    date: date
    at: AwareDatetime
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    deployment_id: UUID
    name: str


class WalletForecast(ApiReply):
    """Today and the ``days`` days after it. ``due_next`` are the next 20 charges, whether or not
    the balance covers them. On ``short_on`` something due is not paid, and ``short_by`` is
    lacking; ``days_until_empty`` is how many days after today that is. Null: not within these
    days. ``is_auto_topup_known`` is false where automatic top-ups could not be foretold, and
    ``auto_topup_refusal`` says why one is not made that is needed."""

    available_micros: Usd
    days: list[ForecastDayReply]
    due_next: list[DueReply]
    short_on: date | None
    short_by_micros: Usd | None
    days_until_empty: int | None
    is_auto_topup_known: bool
    auto_topup_refusal: str


@endpoint(blueprint, "GET", "/api/wallet/forecast", query=ForecastQuery, reply=WalletForecast)
def forecast(user: CurrentUser, query: ForecastQuery) -> WalletForecast:
    """The balance day by day, from the real dates of renewals, the measured rate of usage, the ends
    of promotional credit and with automatic top-ups within their limits; also as if one deployment
    were not there."""
    told = call(
        GetForecast(
            user_id=user.user_id,
            days=query.days,
            without=query.without,
            events_max=query.events_max,
            with_promotion_ends=True,
        )
    )
    return WalletForecast.of(
        told,
        due_next=[DueReply.of(due, date=due.at.date()) for due in told.due_next],
        short_by_micros=told.short_by_micros if told.short_on else None,
    )
