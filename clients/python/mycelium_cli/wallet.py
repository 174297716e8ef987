"""The money: what is there, what happened to it, how long it lasts, and more of it."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import click

from mycelium_cli import printing
from mycelium_cli.options import Shown, command, confirm, dollars, key_option, pages, yes_option
from mycelium_cli.printing import usd
from mycelium_cli.site import Reply, Site


@click.command()
@command
def balance(site: Site) -> Shown:
    """Show the credits that you have."""
    return site.get("/api/wallet/info"), _print_balance


@click.command()
@click.option("--kind", metavar="KIND", help="Such as purchase, topup, renewal, refund.")
@click.option("--since", metavar="TIME", help="RFC 3339, such as 2026-11-28T00:00:00Z.")
@click.option("--until", metavar="TIME", help="RFC 3339, such as 2026-11-28T00:00:00Z.")
@pages(25)
@command
def transactions(site: Site, **query: Any) -> Shown:
    """List what went in and out, the newest first."""
    return site.get("/api/wallet/transactions", **query), _print_transactions


@click.command()
@click.option("--days", type=click.IntRange(1), default=30, show_default=True)
@click.option("--without", metavar="ID", type=click.UUID, help="As if this deployment were gone.")
@command
def forecast(site: Site, **query: Any) -> Shown:
    """Show what is due, and how long the credits last."""
    return site.get("/api/wallet/forecast", **query), _print_forecast


@click.command()
@click.argument("amount", type=dollars)
@click.option("--purchase", metavar="ID", type=click.UUID,
              help="The purchase that they are to pay for.")  # fmt: skip
@click.option("--save-card", is_flag=True, help="Keep the card for auto top-up.")
@key_option
@command
def topup(
    site: Site, amount: Decimal, *, purchase: UUID | None, save_card: bool, key: str | None
) -> Shown:
    """Begin to buy credits for AMOUNT dollars: prints the address of the page to pay on."""
    body: dict[str, Any] = {"amount": amount, "save_card": save_card}
    if purchase is not None:
        body["purchase_id"] = str(purchase)
    reply = site.command("POST", "/api/wallet/topups", body, key)
    return reply, lambda made: click.echo(printing.plain(made["checkout_url"]))


@click.command()
@click.argument("email")
@click.argument("amount", type=dollars)
@click.option("--code", default="", help="Of your second step, where more is sent in a day.")
@key_option
@yes_option
@command
def send(
    site: Site, email: str, amount: Decimal, *, code: str, key: str | None, is_confirmed: bool
) -> Shown:
    """Send AMOUNT dollars of credits to the user with this EMAIL. It can't be taken back."""
    if not is_confirmed:
        confirm(f"Send {usd(amount)} to {printing.plain(email)}?")
    body = {"to_email": email, "amount": amount, "code": code}
    sent = site.command("POST", "/api/wallet/transfers", body, key)
    return sent, lambda made: click.echo(f"Sent. Your balance is {usd(made['balance_after'])}.")


@click.command()
@pages(25)
@command
def receipts(site: Site, **query: Any) -> Shown:
    """List what was paid and has a receipt, the newest first."""
    return site.get("/api/receipts", **query), _print_receipts


def _print_balance(reply: Reply) -> None:
    automatic = reply["auto_topup_enabled"]
    below = usd(reply["auto_topup_threshold"])
    printing.facts(
        {
            "balance": usd(reply["balance"]),
            "can be spent": usd(reply["available"]),
            "wallet": reply["status"],
            "auto top-up": f"below {below}" if automatic else
            "not known at the moment" if automatic is None else "off",
        }
    )  # fmt: skip


def _print_transactions(reply: Reply) -> None:
    printing.table(
        ["WHEN", "KIND", "AMOUNT", "BALANCE", "WHAT"],
        [
            (
                item["created_at"],
                item["kind"],
                usd(item["amount_usd"]),
                usd(item["balance_after"]),
                item["description"],
            )
            for item in reply["transactions"]
        ],
    )
    printing.more(reply)


def _print_receipts(reply: Reply) -> None:
    printing.listed(
        {
            "WHEN": "paid_at",
            "KIND": "kind",
            "AMOUNT": "amount_usd",
            "WHAT": "description",
            "RECEIPT": "receipt_url",
        },
        reply["receipts"],
    )
    printing.more(reply)


def _print_forecast(reply: Reply) -> None:
    lacking = f"{usd(reply['short_by'])} on {reply['short_on']}" if reply["short_on"] else "nothing"
    printing.facts(
        {
            "can be spent": usd(reply["available"]),
            **{f"on {day['date']}": usd(day["balance"]) for day in reply["days"][-1:]},
            "lacking": lacking,
            **({"auto top-up": reply["auto_topup_refusal"]} if reply["auto_topup_refusal"] else {}),
        }
    )
    printing.listed({"DUE": "date", "AMOUNT": "amount_usd", "FOR": "name"}, reply["due_next"])


COMMANDS = (balance, transactions, receipts, forecast, topup, send)
