"""For who has a role: users, refunds, roles, the audit log. What happens is in
:mod:`mycelium_cli.numbers`, what runs in :mod:`~mycelium_cli.operations`, the money in
:mod:`~mycelium_cli.finance`."""

from typing import Any
from uuid import UUID

import click

from mycelium_cli import finance, numbers, operations, printing
from mycelium_cli.options import Shown, command, confirm, key_option, reason_option, yes_option
from mycelium_cli.printing import usd
from mycelium_cli.site import Reply, Site

ROLES = ("seller", "support", "finance", "operator", "auditor")


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


@user.command("end-logins")
@click.argument("user_id", metavar="ID", type=click.UUID)
@reason_option
@yes_option
@command
def end_logins(site: Site, user_id: UUID, *, reason: str, is_confirmed: bool) -> Shown:
    """End all sessions and API tokens of a user whom you have found before."""
    if not is_confirmed:
        confirm(f"End all sessions and API tokens of {user_id}?")
    done = site.post(f"/api/admin/users/{user_id}/logins", {"reason": reason})
    return done, lambda _: click.echo("Sessions and API tokens are ended.")


@user.command("end-second-step")
@click.argument("user_id", metavar="ID", type=click.UUID)
@reason_option
@yes_option
@command
def end_second_step(site: Site, user_id: UUID, *, reason: str, is_confirmed: bool) -> Shown:
    """Switch the second step off for who has lost it. They are told."""
    if not is_confirmed:
        confirm(f"Switch the second step of {user_id} off?")
    done = site.post(f"/api/admin/users/{user_id}/second-step", {"reason": reason})
    return done, lambda _: click.echo("The second step is off.")


@user.command("send-again")
@click.argument("user_id", metavar="ID", type=click.UUID)
@click.argument("mail_id", metavar="MAIL", type=click.UUID)
@reason_option
@command
def send_again(site: Site, user_id: UUID, mail_id: UUID, *, reason: str) -> Shown:
    """Send a MAIL of theirs once more."""
    done = site.post(f"/api/admin/users/{user_id}/mails/{mail_id}", {"reason": reason})
    return done, lambda _: click.echo("It is sent once more.")


@admin.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@command
def roles(site: Site) -> Shown:
    """List who has which role, or give and take them."""
    return site.get("/api/admin/roles"), _print_roles


@roles.command()
@click.argument("whom", metavar="EMAIL")
@click.argument("role", type=click.Choice(ROLES))
@reason_option
@command
def grant(site: Site, whom: str, role: str, *, reason: str) -> Shown:
    """Give EMAIL, or an id, a ROLE."""
    body = {"whom": whom, "role": role, "reason": reason}
    return site.post("/api/admin/roles/grant", body), _print_found


@roles.command()
@click.argument("whom", metavar="EMAIL")
@click.argument("role", type=click.Choice(ROLES))
@reason_option
@command
def take(site: Site, whom: str, role: str, *, reason: str) -> Shown:
    """Take a ROLE from EMAIL, or an id."""
    body = {"whom": whom, "role": role, "reason": reason}
    return site.post("/api/admin/roles/take", body), _print_found


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
            "browsers": reply["sessions"],
        }
    )
    printing.parts(reply, _MOVEMENTS)
    _print_messages(reply)


def _print_promotions(promotions: Any) -> None:
    printing.listed(
        {
            "PROMOTION": "promotion_id",
            "GIVEN": "amount_usd",
            "LEFT": "left_usd",
            "ENDS": "expires_at",
        },
        promotions,
    )


def _print_transactions(transactions: Any) -> None:
    printing.listed(
        {"TRANSACTION": "recorded_at", "AMOUNT": "amount_usd", "WHAT": "description"}, transactions
    )


def _print_topups(topups: Any) -> None:
    printing.listed(
        {
            "TOP-UP": "created_at",
            "KIND": "kind",
            "STATUS": "status",
            "AMOUNT": "amount_usd",
            "WHY": "failure_message",
        },
        topups,
    )


def _print_purchases(purchases: Any) -> None:
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
            for each in purchases
        ],
    )


def _print_deployments(deployments: Any) -> None:
    printing.listed(
        {"DEPLOYMENT": "deployment_id", "STATUS": "status", "NAME": "name"}, deployments
    )


_MOVEMENTS = {
    "promotions": _print_promotions,
    "transactions": _print_transactions,
    "topups": _print_topups,
    "purchases": _print_purchases,
    "deployments": _print_deployments,
}


def _print_messages(reply: Reply) -> None:
    printing.listed(
        {"NOTIFICATION": "created_at", "READ": "read_at", "TITLE": "title"}, reply["notifications"]
    )
    printing.table(
        ["MAIL", "WHEN", "OUTCOME", "TITLE"],
        [
            (each["mail_id"], each["created_at"], each["outcome"] or "waits", each["title"])
            for each in reply["mails"]
        ],
    )
    printing.listed(
        {"DONE BY A ROLE": "action", "WHEN": "occurred_at", "WHY": "reason"}, reply["acts"]
    )


def _print_roles(reply: Reply) -> None:
    printing.table(
        ["USER", "EMAIL", "SECOND STEP", "ROLES"],
        [
            (
                each["user_id"],
                each["email"],
                "on" if each["has_second_step"] else "off",
                ", ".join(each["roles"]),
            )
            for each in reply["holders"]
        ],
    )


for _command in (*finance.GROUPS, *numbers.COMMANDS, *operations.COMMANDS):
    admin.add_command(_command)

COMMANDS = (admin,)
