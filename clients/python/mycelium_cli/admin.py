"""For who has a role: users, refunds, charges, dead letters, the numbers, the audit log; the money
is in :mod:`mycelium_cli.finance`."""

from typing import Any
from uuid import UUID

import click

from mycelium_cli import finance, printing
from mycelium_cli.options import Shown, command, confirm, key_option, reason_option, yes_option
from mycelium_cli.printing import usd
from mycelium_cli.site import Reply, Site


@click.group()
def admin() -> None:
    """For who has a role at the site, with a token that has the scope admin."""


@admin.group()
def user() -> None:
    """Look a user up."""


@user.command()
@click.argument("whom", metavar="EMAIL")
@reason_option
@command
def find(site: Site, whom: str, *, reason: str) -> Shown:
    """Find the user with this EMAIL or id, and open what is known of them for 30 minutes."""
    return site.post("/api/admin/users", {"whom": whom, "reason": reason}), _print_found


@user.command()
@click.argument("user_id", metavar="ID", type=click.UUID)
@command
def show(site: Site, user_id: UUID) -> Shown:
    """Show what is known of a user whom you have found before."""
    return site.get(f"/api/admin/users/{user_id}"), _print_file


@admin.command()
@click.argument("user_id", metavar="USER", type=click.UUID)
@click.argument("purchase_id", metavar="PURCHASE", type=click.UUID)
@click.option("--line", type=click.IntRange(0), help="Of it this line alone, counted from 0.")
@reason_option
@key_option
@yes_option
@command
def refund(
    site: Site,
    user_id: UUID,
    purchase_id: UUID,
    *,
    line: int | None,
    reason: str,
    key: str | None,
    is_confirmed: bool,
) -> Shown:
    """Give a PURCHASE of a USER back, whom you have found before. They are told the reason too."""
    if not is_confirmed:
        what = "all of it" if line is None else f"line {line} of it"
        confirm(f"Refund {what}: {purchase_id}?")
    path = f"/api/admin/users/{user_id}/purchases/{purchase_id}/refund"
    done = site.command("POST", path, {"line": line, "reason": reason}, key)
    return done, lambda told: click.echo(f"{usd(told['refunded_usd'])} of it is refunded by now.")


@admin.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@command
def charges(site: Site) -> Shown:
    """Show whether automatic charges go out, or stop them and let them go."""
    return site.get("/api/admin/charges"), _print_charges


@charges.command()
@reason_option
@command
def stop(site: Site, *, reason: str) -> Shown:
    """Stop all automatic charges at once."""
    return site.post("/api/admin/charges/stop", {"reason": reason}), _print_charges


@charges.command()
@reason_option
@command
def go(site: Site, *, reason: str) -> Shown:
    """Let them go out again."""
    return site.post("/api/admin/charges/release", {"reason": reason}), _print_charges


@admin.group("dead-letters")
def dead_letters() -> None:
    """What services could not handle."""


@dead_letters.command("list")
@click.argument("service")
@command
def list_letters(site: Site, service: str) -> Shown:
    """List those of a SERVICE, such as wallet, the oldest first."""
    return site.get(f"/api/admin/dead-letters/{service}"), _print_letters


@dead_letters.command()
@click.argument("service")
@click.argument("message")
@reason_option
@command
def replay(site: Site, service: str, message: str, *, reason: str) -> Shown:
    """Give a MESSAGE back to its queue. What it did already does not happen twice."""
    path = f"/api/admin/dead-letters/{service}/{message}/replay"
    return site.post(path, {"reason": reason}), lambda _: click.echo("It is back in its queue.")


@dead_letters.command()
@click.argument("service")
@click.argument("message")
@reason_option
@command
def discard(site: Site, service: str, message: str, *, reason: str) -> Shown:
    """Drop a MESSAGE for good."""
    path = f"/api/admin/dead-letters/{service}/{message}/discard"
    return site.post(path, {"reason": reason}), lambda _: click.echo("It is discarded.")


@admin.command()
@click.option("--since", metavar="TIME", help="RFC 3339; if none, a day before the end.")
@click.option("--until", metavar="TIME", help="RFC 3339; if none, now.")
@command
def kpis(site: Site, **query: Any) -> Shown:
    """Show the success metrics against their targets."""
    return site.get("/api/admin/kpis", **query), _print_kpis


@admin.command("audit-export")
@command
def audit_export(site: Site) -> None:
    """Print what was done by a role, a line of JSON for each act, the oldest first.

    The lines are those that `python -m services.gateway.audit_log check` checks.
    """
    after: int | None = 0
    while after is not None:
        page = site.get("/api/admin/audit", after=after)
        for line in page["lines"]:
            click.echo(line)
        after = page["next_after"]


def _print_found(reply: Reply) -> None:
    _print_user(reply.body)


def _print_user(found: Any) -> None:
    printing.facts(
        {
            "user": found["user_id"],
            "email": found["email"],
            "since": found["created_at"],
            "email confirmed": found["is_email_confirmed"],
            "second step": found["has_second_step"],
            "roles": ", ".join(found["roles"]),
        }
    )


def _print_file(reply: Reply) -> None:
    _print_user(reply["user"])
    printing.facts(
        {
            "wallet": reply["wallet"],
            "available": usd(reply["available_usd"]),
            "held": usd(reply["held_usd"]),
            "auto top-up": reply["auto_topup"],
        }
    )
    printing.table(
        ["PROMOTION", "GIVEN", "LEFT", "ENDS"],
        [
            (
                each["promotion_id"],
                usd(each["amount_usd"]),
                usd(each["left_usd"]),
                each["expires_at"],
            )
            for each in reply["promotions"] or []
        ],
    )
    printing.table(
        ["PURCHASE", "STATUS", "TOTAL", "REFUNDED", "WHAT"],
        [
            (
                each["purchase_id"],
                each["status"],
                usd(each["total_usd"]),
                usd(each["refunded_usd"]),
                ", ".join(each["lines"]),
            )
            for each in reply["purchases"] or []
        ],
    )
    printing.table(
        ["DEPLOYMENT", "STATUS", "NAME"],
        [
            (each["deployment_id"], each["status"], each["name"])
            for each in reply["deployments"] or []
        ],
    )


def _print_charges(reply: Reply) -> None:
    printing.facts(
        {
            "automatic charges": "stopped" if reply["is_stopped"] else "going out",
            "why": reply["reason"],
            "by": reply["changed_by"],
            "since": reply["changed_at"],
        }
    )


def _print_letters(reply: Reply) -> None:
    printing.table(
        ["MESSAGE", "TRIES", "QUEUE", "ERROR"],
        [
            (each["message"], each["attempts"], each["queue"], each["error"])
            for each in reply["letters"]
        ],
    )
    if reply["total"] > len(reply["letters"]):
        click.echo(f"There are {reply['total']}; these are the oldest.", err=True)


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


def _percent(bps: int | None) -> str | None:
    return None if bps is None else f"{bps // 100}.{bps % 100:02} %"


for _group in finance.GROUPS:
    admin.add_command(_group)

COMMANDS = (admin,)
