"""API tokens: for what, until when, and their end."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import click

from mycelium_cli import printing
from mycelium_cli.options import Shown, command, confirm, yes_option
from mycelium_cli.site import Reply, Site


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@command
def tokens(site: Site) -> Shown:
    """List the tokens that work, or make and revoke them."""
    return site.get("/api/tokens"), _print_tokens


@tokens.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(["buy", "money", "sell", "admin"]),
    help="What it may do besides reading; may be given again. sell and admin take a role"
    " and --code.",
)  # fmt: skip
@click.option("--days", type=click.IntRange(1, 366), help="Until when; if none, it is revoked.")
@click.option("--code", default="", help="Of your second step, for sell and admin.")
@command
def make(site: Site, name: str, *, scopes: Sequence[str], days: int | None, code: str) -> Shown:
    """Make a token called NAME and print it, this once."""
    body: dict[str, Any] = {"name": name, "scopes": ["read", *scopes], "expires_in_days": days}
    if code:
        body["code"] = code
    return site.post("/api/tokens", body), lambda made: click.echo(printing.plain(made["token"]))


@tokens.command()
@click.argument("token_id", metavar="ID", type=click.UUID)
@yes_option
@command
def revoke(site: Site, token_id: UUID, *, is_confirmed: bool) -> Shown:
    """End a token."""
    if not is_confirmed:
        confirm(f"End {token_id}, wherever it is used?")
    done = site.command("DELETE", f"/api/tokens/{token_id}")
    return done, lambda _: click.echo("It works no more.")


def _print_tokens(reply: Reply) -> None:
    printing.table(
        ["TOKEN", "NAME", "MAY", "LAST USED", "UNTIL"],
        [
            (
                item["token_id"],
                item["name"],
                " ".join(item["scopes"]),
                item["last_used_at"],
                item["expires_at"],
            )
            for item in reply["tokens"]
        ],
    )


COMMANDS = (tokens,)
