"""/admin: how the place goes, in numbers, and where a role leads to."""

from dataclasses import dataclass
from datetime import timedelta

from flask import Blueprint, render_template, request

from chassis.clock import midnight, utc_now
from chassis.digits import whole_number
from contracts.analytics import GetKpis, GetNumbers, GetPopularProducts, GetRetention, Step
from services.gateway import showcase
from services.gateway.access import Role
from services.gateway.backend import ask, ask_all
from services.gateway.pages.admin import numbers
from services.gateway.staff import watch
from services.gateway.staff.guard import current_staff, may, reads

blueprint = Blueprint("admin", __name__, url_prefix="/admin")

DAYS = (7, 30, 90)
POLLS_MAX = 300
"""Ten minutes. A page that somebody forgot asks no more, until they come back to it."""


@dataclass(frozen=True)
class Place:
    """A page of the menu; who may open it, its view says."""

    endpoint: str
    icon: str
    label: str
    about: str


PLACES = (
    Place("admin_support.search", "search", "Users", "What is known of a user; help them."),
    Place("admin_charges.overview", "auto", "Charges", "Stop all automatic charges; problems."),
    Place("admin_finance.overview", "wallet", "Finance", "The books; what does not agree in them."),
    Place("admin_adjustments.listing", "check", "Adjustments", "Correct a wallet, by two people."),
    Place("admin_operations.overview", "gateways", "Operations", "Services, queues, dead letters."),
    Place("admin_promotions.form", "plus", "Promotions", "Give promotional credit that expires."),
    Place("admin_roles.overview", "lock", "Roles", "Who has a role; give and take them."),
    Place("admin_audit.listing", "clock", "Audit log", "What was done by a role, and why."),
)


@blueprint.app_context_processor
def surroundings() -> dict[str, object]:
    return {"current_staff": current_staff, "may": may, "places": PLACES}


@blueprint.get("")
@reads(Role.SUPPORT, Role.FINANCE, Role.OPERATOR)
def overview() -> str:
    now = utc_now()
    days = _days()
    since, until = midnight(now) - timedelta(days=days - 1), now + timedelta(seconds=1)
    told, today, period, popular, hours = ask_all(
        GetNumbers(since=since, until=until, step=Step.DAY),
        GetKpis(since=midnight(now), until=until),
        GetKpis(since=since, until=until),
        GetPopularProducts(since=since.date(), until=now.date(), limit=numbers.SHOWN_MAX),
        GetNumbers(since=now - watch.LIVE_FOR, until=until, step=Step.HOUR),
    )
    returned = ask(GetRetention(since=since.date(), until=now.date()))
    return render_template(
        "admin/overview.html",
        live=watch.live(now),
        polls=0,
        polls_max=POLLS_MAX,
        days=days,
        choices=DAYS,
        numbers=told,
        metrics=numbers.metrics(told, today, period, now, days),
        trends=numbers.trends(told) if told else [],
        funnels=numbers.funnels(told.total) if told else [],
        ways=numbers.WAYS.values(),
        by_way=numbers.by_way(told.total) if told else None,
        ways_by_day=numbers.by_way_newest_first(told),
        ways_by_hour=numbers.by_way_newest_first(hours),
        cohorts=numbers.cohorts(returned) if returned else None,
        causes=numbers.causes(told) if told else [],
        popular=popular.products if popular else None,
        product_names=showcase.product_names() if popular and popular.products else {},
    )


@blueprint.get("/live")
@reads(Role.SUPPORT, Role.FINANCE, Role.OPERATOR)
def live() -> str:
    """The part of the page that asks for itself again, up to ``POLLS_MAX`` times."""
    polls = min(_number("polls", 0) + 1, POLLS_MAX)
    return render_template(
        "admin/live.html", live=watch.live(utc_now()), polls=polls, polls_max=POLLS_MAX
    )


def _days() -> int:
    days = _number("days", DAYS[1])
    return days if days in DAYS else DAYS[1]


def _number(name: str, default: int) -> int:
    try:
        return whole_number(request.args.get(name, ""))
    except ValueError:
        return default
