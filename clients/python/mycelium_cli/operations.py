"""For who has a role: which services live, dead letters, automatic charges, payments to look at."""

from typing import Any

import click

from mycelium_cli import printing
from mycelium_cli.options import Shown, command, confirm, reason_option, yes_option
from mycelium_cli.site import Reply, Site


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
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


@click.group("dead-letters")
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
@yes_option
@command
def discard(site: Site, service: str, message: str, *, reason: str, is_confirmed: bool) -> Shown:
    """Drop a MESSAGE for good."""
    if not is_confirmed:
        confirm(f"Drop {printing.plain(message)} of {printing.plain(service)} for good?")
    path = f"/api/admin/dead-letters/{service}/{message}/discard"
    return site.post(path, {"reason": reason}), lambda _: click.echo("It is discarded.")


@click.command()
@command
def services(site: Site) -> Shown:
    """Show which services live, what waits in their queues, and the site's switches."""
    return site.get("/api/admin/services"), _print_services


@click.command()
@click.option("--limit", type=click.IntRange(1, 200), default=100, show_default=True)
@command
def problems(site: Site, **query: Any) -> Shown:
    """List payments that need a look."""
    return site.get("/api/admin/problems", **query), _print_problems


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
    printing.listed(
        {"MESSAGE": "message", "TRIES": "attempts", "QUEUE": "queue", "ERROR": "error"},
        reply["letters"],
    )
    if reply["total"] > len(reply["letters"]):
        click.echo(f"There are {reply['total']}; these are the oldest.", err=True)


def _print_services(reply: Reply) -> None:
    printing.table(
        ["SERVICE", "PROCESSES", "WAITING", "OUTBOX", "OLDEST", "DEAD LETTERS"],
        [
            (
                each["name"],
                "does not answer" if each["processes"] is None else each["processes"],
                each["waiting"],
                each["outbox_unsent"],
                f"{each['outbox_oldest_s']} s" if each["outbox_unsent"] else None,
                each["dead_letters"],
            )
            for each in reply["services"]
        ],
    )
    printing.table(
        ["QUEUE", "WAITING", "TAKING"],
        [
            (queue["name"], queue["waiting"], queue["consumers"])
            for each in reply["services"]
            for queue in each["queues"] or []
        ],
    )
    printing.facts(reply["switches"])


def _print_problems(reply: Reply) -> None:
    printing.listed(
        {
            "PROBLEM": "code",
            "SINCE": "since",
            "AMOUNT": "amount_usd",
            "TOP-UP": "topup_id",
            "USER": "user_id",
            "PAYMENT": "payment_id",
            "WHAT": "message",
        },
        reply["problems"],
    )


COMMANDS = (charges, dead_letters, services, problems)
