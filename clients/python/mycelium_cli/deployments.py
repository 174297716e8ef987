"""What runs: to see it, to stop, start, rename and cancel it."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import click

from mycelium_cli import printing
from mycelium_cli.options import (
    OneThing,
    Shown,
    command,
    confirm,
    dollars_or_nothing,
    key_option,
    pages,
    yes_option,
)
from mycelium_cli.printing import usd
from mycelium_cli.site import Reply, Site, is_json


@click.command()
@pages(200)
@command
def deployments(site: Site, **query: Any) -> Shown:
    """List what you have deployed, the newest first."""
    return site.get("/api/deployments", **query), _print_deployments


@click.group(cls=OneThing, invoke_without_command=True, subcommand_metavar="[COMMAND]")
@click.argument("deployment_id", metavar="ID", type=click.UUID)
@command
def deployment(site: Site, deployment_id: UUID) -> Shown:
    """Show a deployment, or do something with it."""
    return site.get(f"/api/deployments/{deployment_id}"), _print_deployment


@deployment.command()
@key_option
@command
def stop(site: Site, *, key: str | None) -> Shown:
    """Switch it off. The month that is paid runs on, and is not renewed."""
    return site.command("POST", f"{_path()}/stop", key=key), _print_deployment


@deployment.command()
@click.option("--amount", type=dollars_or_nothing, metavar="DOLLARS",
              help="What it is to charge, or nothing is done: as it was shown.")  # fmt: skip
@key_option
@yes_option
@command
def start(site: Site, *, amount: Decimal | None, key: str | None, is_confirmed: bool) -> Shown:
    """Let it run again, and be renewed. This charges what it used and is not paid, and after its
    paid month what it owes, and a month: the amount that is shown, or nothing is done."""
    used = Decimal(0)
    if amount is None:
        shown = site.get(_path()).body
        amount, used = shown["start_usd"], shown.get("start_usage_usd", used)
    of_it = f", {usd(used)} of it for what was used and is not paid" if used else ""
    what = f"{usd(amount)} is charged now{of_it}." if amount else "Nothing is charged now."
    if not is_confirmed:
        confirm(f"Start {_path().rpartition('/')[2]}? {what}")
    elif not is_json():
        click.echo(what, err=True)
    body = {} if amount is None else {"amount_usd": amount}
    same = "" if amount is None else f" --amount {amount}"
    return site.command("POST", f"{_path()}/start", body, key, same=same), _print_deployment


@deployment.command()
@click.argument("name")
@key_option
@command
def rename(site: Site, name: str, *, key: str | None) -> Shown:
    """Give it another NAME."""
    return site.command("PATCH", _path(), {"name": name}, key), _print_deployment


@deployment.command()
@click.option("--now", "is_now", is_flag=True,
              help="At once and for good, and not with the month that is paid.")  # fmt: skip
@key_option
@yes_option
@command
def cancel(site: Site, *, is_now: bool, key: str | None, is_confirmed: bool) -> Shown:
    """End it with the month that is paid. No money comes back."""
    if not is_confirmed:
        when = "now and for good" if is_now else "with the month that is paid"
        confirm(f"Cancel {_path().rpartition('/')[2]} {when}?")
    body = {"when": "now" if is_now else "period_end"}
    return site.command("POST", f"{_path()}/cancel", body, key), _print_deployment


def _path() -> str:
    parent = click.get_current_context().parent
    return f"/api/deployments/{parent.params['deployment_id'] if parent else ''}"


def _print_deployments(reply: Reply) -> None:
    printing.table(
        ["DEPLOYMENT", "NAME", "STATUS", "A MONTH", "RENEWED", "ADDRESS"],
        [
            (
                item["deployment_id"],
                item["name"],
                item["status"],
                usd(item["monthly_cost_usd"]),
                item["next_renewal_at"],
                item["access"]["address"] if item["access"] else None,
            )
            for item in reply["deployments"]
        ],
    )
    printing.more(reply)


def _print_deployment(reply: Reply) -> None:
    found = reply.body
    renewal = f"{usd(found['next_renewal_usd'])} at {found['next_renewal_at']}"
    printing.facts(
        {
            "deployment": found["deployment_id"],
            "name": found["name"],
            "status": found["status"],
            **({"why": found["status_reason"]} if found["status_reason"] else {}),
            "a month": usd(found["monthly_cost_usd"]),
            "paid until": found["paid_until"],
            "renewed for": renewal if found["next_renewal_at"] else None,
            "owed": usd(found["owed_usd"]),
            **({"started for": usd(found["start_usd"])} if found["start_usd"] else {}),
            **{f"then {rung['status']}": rung["at"] for rung in found["ladder"]},
            **found["choices"],
            **{name: value for name, value in (found["access"] or {}).items() if value},
        }
    )  # fmt: skip


COMMANDS = (deployments, deployment)
