"""For who sells: products, the profile, what was sold and what is paid out."""

from decimal import Decimal
from typing import IO, Any
from uuid import UUID

import click
import simplejson

from mycelium_cli import printing
from mycelium_cli.options import (
    OneThing,
    Shown,
    command,
    confirm,
    days,
    dollars,
    key_option,
    pages,
    yes_option,
)
from mycelium_cli.printing import usd
from mycelium_cli.site import Reply, Site

PRODUCTS, PROFILE = "/api/selling/products", "/api/selling/profile"
_said = click.argument("said", metavar="FILE", type=click.File(encoding="utf-8"))


@click.group()
def selling() -> None:
    """For who sells. Products and the profile take a token that has the scope sell."""


@selling.command()
@pages(50)
@command
def products(site: Site, **query: Any) -> Shown:
    """List what you sell, the newest first."""
    return site.get(PRODUCTS, **query), _print_products


@selling.command()
@_said
@key_option
@command
def add(site: Site, said: IO[str], *, key: str | None) -> Shown:
    """Put up a product as FILE says it, or - for stdin: JSON, with the fields of the HTTP API."""
    return site.command("POST", PRODUCTS, _document(said), key), _print_product


@selling.group(cls=OneThing, invoke_without_command=True, subcommand_metavar="[COMMAND]")
@click.argument("product_id", metavar="ID", type=click.UUID)
@command
def product(site: Site, product_id: UUID) -> Shown:
    """Show a product of yours, or do something with it."""
    return site.get(f"{PRODUCTS}/{product_id}"), _print_product


@product.command()
@_said
@key_option
@command
def change(site: Site, said: IO[str], *, key: str | None) -> Shown:
    """Change what FILE says, or - for stdin: JSON, with the fields of the HTTP API."""
    return site.command("PATCH", _path(), _document(said), key), _print_product


@product.command()
@click.argument("amount", type=dollars)
@click.option("--why", help="It stays in the price history.")
@key_option
@yes_option
@command
def price(
    site: Site, amount: Decimal, *, why: str | None, key: str | None, is_confirmed: bool
) -> Shown:
    """Sell it for AMOUNT dollars from now on. Who rents it is told."""
    if not is_confirmed:
        confirm(f"Ask for {usd(amount)}?")
    body = {"price_usd": amount, **({"reason": why} if why else {})}
    return site.command("PATCH", _path(), body, key), _print_product


@product.command()
@click.option("--add", type=click.IntRange(1), help="So many units more.")
@click.option("--take", type=click.IntRange(1), help="So many units less.")
@click.option("--units", type=click.IntRange(0), help="So many, where there was no end to it.")
@click.option("--endless", is_flag=True, help="No end to it any more.")
@key_option
@command
def stock(
    site: Site,
    *,
    add: int | None,
    take: int | None,
    units: int | None,
    endless: bool,
    key: str | None,
) -> Shown:
    """Change how many there are. What is sold stays sold."""
    given: dict[str, Any] = {}
    if add or take:
        given["stock_change"] = (add or 0) - (take or 0)
    if units is not None:
        given["stock"] = units
    if endless:
        given["is_endless"] = True
    if len(given) != 1 or (add and take):
        raise click.UsageError("Say one of --add, --take, --units and --endless.")
    return site.command("PATCH", _path(), given, key), _print_product


@product.command()
@key_option
@yes_option
@command
def retire(site: Site, *, key: str | None, is_confirmed: bool) -> Shown:
    """Sell it no more, for good. Who has it goes on, and you earn by each month."""
    if not is_confirmed:
        confirm(f"Sell {_path().rpartition('/')[2]} no more, for good?")
    return site.command("POST", f"{_path()}/retire", key=key), _print_product


@selling.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@command
def profile(site: Site) -> Shown:
    """Show who sells, as buyers see it, or write it."""
    return site.get(PROFILE), _print_profile


@profile.command()
@click.argument("name")
@click.option("--about", default="", help="A few words.")
@click.option("--support-email", default="", metavar="EMAIL")
@click.option("--support-url", default="", metavar="URL", help="It begins with https://.")
@key_option
@command
def write(site: Site, key: str | None, **said: str) -> Shown:
    """Sell under this NAME. What is not given is said no more."""
    return site.command("PUT", PROFILE, said, key), _print_profile


@selling.command()
@days
@pages(100)
@command
def sales(site: Site, **query: Any) -> Shown:
    """List what was sold, by product and day, the newest first."""
    return site.get("/api/sales", **query), _print_sales


@selling.command()
@days
@command
def earned(site: Site, **query: Any) -> Shown:
    """Show what buyers paid in all, and what of it you earned: in 31 days if none are named."""
    return site.get("/api/sales/total", **query), printing.sold


@selling.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@pages(25)
@command
def payouts(site: Site, **query: Any) -> Shown:
    """List what you are paid out, and what can be asked for."""
    return site.get("/api/payouts", **query), _print_payouts


@payouts.command()
@click.argument("amount", type=dollars)
@click.option("--code", default="", help="Of your second step.")
@key_option
@yes_option
@command
def ask(site: Site, amount: Decimal, *, code: str, key: str | None, is_confirmed: bool) -> Shown:
    """Ask to be paid AMOUNT dollars of what you earned."""
    if not is_confirmed:
        confirm(f"Ask to be paid {usd(amount)}?")
    made = site.command("POST", "/api/payouts", {"amount": amount, "code": code}, key)
    return made, lambda told: printing.facts({"payout": told["payout_id"], "is": told["status"]})


def _path() -> str:
    parent = click.get_current_context().parent
    return f"{PRODUCTS}/{parent.params['product_id'] if parent else ''}"


def _document(said: IO[str]) -> dict[str, Any]:
    try:
        read = simplejson.loads(said.read(), use_decimal=True)
    except ValueError as error:
        raise click.BadParameter(f"FILE is no JSON: {error}") from None
    if not isinstance(read, dict):
        raise click.BadParameter("FILE is to hold a JSON object.")
    return read


def _left(product: Any) -> Any:
    return "no end" if product["stock"] is None else product["stock"]


def _print_products(reply: Reply) -> None:
    printing.table(
        ["PRODUCT", "NAME", "PRICE", "PER", "LEFT", "SOLD", "RENTED", "ON SALE"],
        [
            (
                each["product_id"],
                each["name"],
                usd(each["price_usd"]),
                each["billing_period"],
                _left(each),
                each["units_sold"],
                each["rented"],
                not each["is_retired"],
            )
            for each in reply["products"]
        ],
    )
    printing.more(reply)


def _print_product(reply: Reply) -> None:
    printing.facts(
        {
            "product": reply["product_id"],
            "name": reply["name"],
            "address": reply["slug"],
            "price": f"{usd(reply['price_usd'])} per {reply['billing_period']}",
            "left": _left(reply),
            "sold": reply["units_sold"],
            "rented": reply["rented"],
            "on sale": not reply["is_retired"],
            "who rents it pays this from": reply["renters_pay_it_from"],
        }
    )
    printing.listed({"PRICE": "price_usd", "SINCE": "since", "WHY": "reason"}, reply["prices"])


def _print_profile(reply: Reply) -> None:
    printing.facts({name.replace("_", " "): value for name, value in reply.body.items()})


def _print_sales(reply: Reply) -> None:
    printing.table(
        ["DAY", "PRODUCT", "BOUGHT", "RENEWED", "GIVEN BACK", "PAID", "REFUNDED", "FEE", "EARNED"],
        [
            (
                each["day"],
                each["product_name"],
                each["units"],
                each["renewals"],
                each["units_refunded"],
                *(usd(each[f"{name}_usd"]) for name in ("gross", "refunded", "fee", "net")),
            )
            for each in reply["sales"]
        ],
    )
    printing.more(reply)


def _print_payouts(reply: Reply) -> None:
    printing.facts({"can be asked for": usd(reply["payable_usd"]), "owed": usd(reply["owed_usd"])})
    printing.listed(
        {
            "PAYOUT": "payout_id",
            "STATUS": "status",
            "AMOUNT": "amount_usd",
            "ASKED": "created_at",
            "REFERENCE": "reference",
            "WHY": "reason",
        },
        reply["payouts"],
    )
    printing.more(reply)


COMMANDS = (selling,)
