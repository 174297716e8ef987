"""For who has a role: what happened, what of it the plan aims at, and what is wrong now."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from mycelium_cli import printing
from mycelium_cli.options import Shown, command, days
from mycelium_cli.printing import usd
from mycelium_cli.site import Reply, Site

STEPS = {"hour": timedelta(days=31), "day": timedelta(days=366)}
"""Up to which length a time is asked by it, and by weeks beyond: one answer has 1,000 steps."""


def _between(view: Callable[..., Any]) -> Callable[..., Any]:
    view = click.option("--until", metavar="TIME", help="RFC 3339; if none, now.")(view)
    since = "RFC 3339; if none, a day before the end."
    return click.option("--since", metavar="TIME", help=since)(view)


@click.command()
@_between
@click.option("--step", type=click.Choice(["hour", "day", "week"]),
              help="If none, by the length of the time.")  # fmt: skip
@command
def numbers(site: Site, *, step: str | None, **between: Any) -> Shown:
    """Show what happened, step by step and in all; more of each step with --json."""
    step = step or _step(**between)
    return site.get("/api/admin/numbers", step=step, **between), _print_numbers


@click.command()
@_between
@command
def paths(site: Site, **between: Any) -> Shown:
    """Show how far browsers came on their way to a purchase, and Buy Now against the cart."""
    return site.get("/api/admin/numbers", step=_step(**between), **between), _print_paths


def _step(since: str | None, until: str | None) -> str:
    """That of a time; what is none, the site refuses."""
    try:
        ends_at = datetime.fromisoformat(until) if until else datetime.now(UTC)
        length = ends_at - datetime.fromisoformat(since) if since else timedelta()
    except (ValueError, TypeError):
        return "hour"
    return next((step for step, length_max in STEPS.items() if length <= length_max), "week")


@click.command()
@_between
@command
def kpis(site: Site, **query: Any) -> Shown:
    """Show the success metrics against their targets."""
    return site.get("/api/admin/kpis", **query), _print_kpis


@click.command()
@command
def alerts(site: Site) -> Shown:
    """Show what is wrong now, since when, and what to do."""
    return site.get("/api/admin/alerts"), _print_alerts


@click.command()
@days
@click.option("--limit", type=click.IntRange(1, 200), default=25, show_default=True)
@command
def popular(site: Site, **query: Any) -> Shown:
    """Show what was bought most, in 30 days if none are named."""
    return site.get("/api/admin/popular-products", **query), _print_popular


@click.command()
@days
@command
def retention(site: Site, **query: Any) -> Shown:
    """Show how many of those who registered in a week were active in it and after it, in 30 days if
    none are named."""
    return site.get("/api/admin/retention", **query), _print_retention


def _print_numbers(reply: Reply) -> None:
    printing.table(
        ["FROM", "ACTIVE", "NEW", "BEGUN", "COMPLETED", "CREDITS SOLD", "A MONTH"],
        [
            (
                each["starts_at"],
                each["active_users"],
                each["registrations"],
                each["purchases_begun"],
                each["purchases_completed"],
                usd(each["credits_by_hand_usd"] + each["credits_auto_usd"]),
                usd(each["burn_usd"]),
            )
            for each in reply["points"]
        ],
    )
    total = reply["total"]
    figures = {name: value for name, value in total.items() if not isinstance(value, list)}
    printing.facts(
        {
            name.removesuffix("_usd").replace("_", " "):
            usd(value) if name.endswith("_usd") else value
            for name, value in figures.items()
        }
    )  # fmt: skip
    _print_causes("PURCHASES ENDED", reply["purchases_ended"])
    _print_causes("TOP-UPS FAILED", reply["topups_failed"])


def _print_causes(title: str, causes: Any) -> None:
    printing.table(
        [title, "WHY", "COUNT"],
        [(each["outcome"], each["code"], each["count"]) for each in causes],
    )


def _print_paths(reply: Reply) -> None:
    total = reply["total"]
    printing.facts({"from": reply["since"], "until": reply["until"]})
    printing.table(
        ["WAY", "STEP", "CAME", "NO FURTHER"],
        [
            (path["way"], step["step"], step["came"], step["left"])
            for path in total["paths"]
            for step in path["steps"]
        ],
    )
    printing.listed({"PURCHASES": "way", "BEGUN": "begun", "COMPLETED": "completed"}, total["ways"])


def _print_kpis(reply: Reply) -> None:
    printing.table(
        ["METRIC", "VALUE", "TARGET", "MET", "COUNTED"],
        [
            (
                each["name"],
                _percent(each["value_bps"]),
                _percent(each["target_bps"]),
                each["is_met"],
                f"{each['count']} of {each['total']}",
            )
            for each in reply["kpis"]
        ],
    )
    printing.table(
        ["ANSWERS", "WITHIN", "VALUE", "TARGET", "MET", "COUNTED"],
        [
            (
                each["kind"],
                f"{each['target_ms']} ms",
                _percent(each["value_bps"]),
                _percent(each["target_bps"]),
                each["is_met"],
                f"{each['count']} of {each['total']}",
            )
            for each in reply["speeds"]
        ],
    )


def _percent(bps: int | None) -> str | None:
    return None if bps is None else f"{bps // 100}.{bps % 100:02} %"


def _print_alerts(reply: Reply) -> None:
    printing.listed(
        {"SINCE": "since", "ALERT": "title", "WHAT": "message", "WHAT TO DO": "advice"},
        reply["alerts"],
    )
    if reply["not_watched"]:
        click.echo(f"Not known now: {', '.join(reply['not_watched'])}.", err=True)


def _print_popular(reply: Reply) -> None:
    printing.listed(
        {"PRODUCT": "product_id", "NAME": "name", "UNITS": "units", "SALES": "sales_usd"},
        reply["products"],
    )


def _print_retention(reply: Reply) -> None:
    printing.table(
        ["WEEK", "USERS", "ACTIVE IN IT AND AFTER"],
        [
            (each["week"], each["users"], " ".join(map(str, each["active"])))
            for each in reply["cohorts"]
        ],
    )


COMMANDS = (numbers, paths, kpis, alerts, popular, retention)
