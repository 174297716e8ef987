"""What is collected before it is bought, all at once."""

from collections.abc import Sequence
from uuid import UUID

import click

from mycelium_cli import printing, shop
from mycelium_cli.options import Shown, command, confirm, key_option, show, yes_option
from mycelium_cli.printing import usd
from mycelium_cli.site import REFUSED, Problem, Reply, Site, is_json


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@command
def cart(site: Site) -> Shown:
    """Show the cart, at the prices of now, or do something with it."""
    return site.get("/api/cart"), _print_cart


@cart.command()
@click.argument("slug")
@click.option("--quantity", type=click.IntRange(1), default=1, show_default=True)
@click.option("--name", default="", help="What its deployments are called.")
@shop.choice_option
@key_option
@command
def add(
    site: Site, slug: str, *, quantity: int, name: str, choices: Sequence[str], key: str | None
) -> Shown:
    """Put the product SLUG into it."""
    body = {
        "product_id": shop.product_of(site, slug)["product_id"],
        "quantity": quantity,
        "name": name,
        "choices": shop.chosen(choices),
    }
    return site.command("POST", "/api/cart", body, key), _print_cart


@cart.command()
@click.argument("line_id", metavar="LINE", type=click.UUID)
@command
def remove(site: Site, line_id: UUID) -> Shown:
    """Take a LINE out, by its id."""
    return site.command("DELETE", f"/api/cart/{line_id}"), _print_cart


@cart.command()
@key_option
@yes_option
@command
def checkout(site: Site, *, key: str | None, is_confirmed: bool) -> None:
    """Buy all of it at the price that is shown, or nothing.

    Short of funds, the purchase is kept and completes when credits come; the exit code is 4 then.
    """
    found = site.get("/api/cart")
    # With a key it may be bought already, and its lines gone: the answer of then is wanted.
    if not found["lines"] and key is None:
        raise Problem("empty_cart", "The cart is empty. Nothing was bought.", REFUSED)
    if not (is_confirmed and is_json()):
        click.echo(f"Together {usd(found['total_usd'])}.", err=True)
        shop.print_payment(site, found["total_usd"])
    if not is_confirmed:
        confirm("Buy it?")
    body = {"total_usd": found["total_usd"]}
    purchase = site.command("POST", "/api/cart/checkout", body, key)
    show(purchase, shop.print_purchase)
    click.get_current_context().exit(shop.exit_code_of(purchase))


def _print_cart(reply: Reply) -> None:
    printing.table(
        ["LINE", "PRODUCT", "NAME", "QUANTITY", "AMOUNT", ""],
        [
            (
                line["line_id"],
                line["product_name"],
                line["name"],
                line["quantity"],
                usd(line["amount_usd"]),
                line["problem"] or ", ".join(line["needs"]),
            )
            for line in reply["lines"]
        ],
    )
    printing.facts({"total": usd(reply["total_usd"]), "lacking": usd(reply["shortfall_usd"])})


COMMANDS = (cart,)
