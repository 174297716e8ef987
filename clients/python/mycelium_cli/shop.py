"""What is for sale, buying it, and what was bought."""

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID

import click

from mycelium_cli import printing
from mycelium_cli.options import (
    OneThing,
    Shown,
    command,
    confirm,
    dollars,
    key_option,
    pages,
    show,
    yes_option,
)
from mycelium_cli.printing import usd
from mycelium_cli.site import AWAY, REFUSED, SHORT_OF_FUNDS, Problem, Reply, Site, is_json

POLL_S = 1.0
WAIT_S = 300.0
UNSETTLED = ("pending", "awaiting_funds")

choice_option = click.option(
    "--choice",
    "choices",
    multiple=True,
    metavar="KEY=VALUE",
    help="An answer to one of the product's fields; may be given again.",
)


@click.command()
@click.option(
    "--category", type=click.Choice(["compute", "3nodes", "gateways", "applications", "services"])
)
@click.option("--search", "q", metavar="TEXT", help="Words to look for.")
@click.option("--sort", type=click.Choice(["featured", "name", "price", "-price", "newest"]))
@click.option("--max-price", "max_price_usd", type=dollars, help="The most that one may cost.")
@click.option("--provider", "provider_name", metavar="NAME")
@click.option("--location")
@click.option("--billing-period", type=click.Choice(["month", "once"]))
@click.option("--min-vcpu", type=click.IntRange(1))
@click.option("--min-memory-gb", type=click.IntRange(1))
@click.option("--min-disk-gb", type=click.IntRange(1))
@pages(24)
@command
def products(site: Site, **filters: Any) -> Shown:
    """List what is for sale."""
    return site.get("/api/products", public=True, **filters), _print_products


@click.command()
@click.argument("slug")
@command
def product(site: Site, slug: str) -> Shown:
    """Show one product, by its SLUG or id."""
    return product_of(site, slug), _print_product


@click.command()
@click.argument("slug")
@click.option("--quantity", type=click.IntRange(1), default=1, show_default=True)
@choice_option
@click.option("--max-price", type=dollars, help="Buy nothing if it costs more, all together.")
@click.option("--at", "unit_price", type=dollars,
              help="The price of one that was shown, to repeat with --key.")  # fmt: skip
@click.option("--wait", "waits", is_flag=True, help="Wait until it is paid and runs.")
@click.option(
    "--wait-s",
    type=click.FloatRange(0),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait at most.",
)
@key_option
@yes_option
@command
def buy(
    site: Site,
    slug: str,
    *,
    quantity: int,
    choices: Sequence[str],
    max_price: Decimal | None,
    unit_price: Decimal | None,
    waits: bool,
    wait_s: float,
    key: str | None,
    is_confirmed: bool,
) -> None:
    """Buy the product SLUG at the price that is shown.

    Short of funds, the purchase is kept and completes when credits come; the exit code is 4 then.
    """
    answers = chosen(choices)
    wanted = product_of(site, slug)
    wanted.body["price_usd"] = unit_price or wanted["price_usd"]
    total = wanted["price_usd"] * quantity
    if max_price is not None and total > max_price:
        # With a key it may be bought already, at the price of then.
        outcome = "Nothing was bought." if key is None else "Nothing was bought now."
        raise Problem(
            "too_dear", f"It costs {usd(total)}, more than --max-price. {outcome}", REFUSED
        )
    if not (is_confirmed and is_json()):
        _print_price(site, wanted, quantity, total)
    if not is_confirmed:
        confirm("Buy it?")
    body = {
        "product_id": wanted["product_id"],
        "quantity": quantity,
        "unit_price_usd": wanted["price_usd"],
        "choices": answers,
    }
    way = "purchase-with-topup" if waits else "instant-purchase"
    same = f" --at {wanted['price_usd']}"
    purchase = site.command("POST", f"/api/wallet/{way}", body, key, same=same)
    if waits:
        purchase = _settled(site, purchase, time.monotonic() + wait_s)
    show(purchase, print_purchase)
    click.get_current_context().exit(exit_code_of(purchase))


@click.command()
@click.option(
    "--status",
    type=click.Choice(["pending", "awaiting_funds", "completed", "cancelled", "expired", "failed"]),
)
@pages(25)
@command
def purchases(site: Site, **query: Any) -> Shown:
    """List what you bought, the newest first."""
    return site.get("/api/purchases", **query), _print_purchases


@click.group(cls=OneThing, invoke_without_command=True, subcommand_metavar="[COMMAND]")
@click.argument("purchase_id", metavar="ID", type=click.UUID)
@command
def purchase(site: Site, purchase_id: UUID) -> Shown:
    """Show a purchase, or do something with it."""
    return site.get(f"/api/purchases/{purchase_id}"), print_purchase


@purchase.command()
@command
def cancel(site: Site) -> Shown:
    """Give up a purchase that waits for funds."""
    return site.post(f"{_path()}/cancel"), print_purchase


@purchase.command()
@click.option("--issue", "is_issued", is_flag=True, help="Give it its number, once and for all.")
@command
def receipt(site: Site, *, is_issued: bool) -> Shown:
    """Show the receipt of a purchase, or a draft of it."""
    path = f"{_path()}/receipt"
    return site.post(path) if is_issued else site.get(path), _print_receipt


def _path() -> str:
    parent = click.get_current_context().parent
    return f"/api/purchases/{parent.params['purchase_id'] if parent else ''}"


def product_of(site: Site, slug: str) -> Reply:
    """A product, by its slug or id."""
    return site.get(f"/api/products/{quote(slug, safe='')}", public=True)


def chosen(choices: Sequence[str]) -> dict[str, str]:
    """What stands in the choices that were given. Raises a usage error."""
    chosen = {}
    for choice in choices:
        name, separator, value = choice.partition("=")
        if not separator or name in chosen:
            raise click.BadParameter(f"{choice}: give each choice once, as KEY=VALUE.")
        chosen[name] = value
    return chosen


def _settled(site: Site, purchase: Reply, deadline: float) -> Reply:
    """The purchase when it is paid and what was bought runs, or has ended, or time is over."""
    path = f"/api/purchases/{purchase['purchase_id']}"
    if purchase["status"] == "awaiting_funds":
        lacking = usd(purchase["shortfall_usd"])
        click.echo(f"Waiting for {lacking}: {_how_to_pay(purchase)}", err=True)
    while purchase["status"] in UNSETTLED or _is_set_up(site, purchase):
        if time.monotonic() >= deadline:
            if purchase["status"] == "awaiting_funds":
                break
            raise Problem(
                "not_finished",
                f"{purchase['purchase_id']} is not finished yet; it goes on by itself.",
                AWAY,
            )
        time.sleep(POLL_S)
        purchase = site.get(path)
    return purchase


def _is_set_up(site: Site, purchase: Reply) -> bool:
    deployments = (site.get(f"/api/deployments/{id_}") for id_ in purchase["deployment_ids"])
    return any(deployment["status"] == "requested" for deployment in deployments)


def exit_code_of(purchase: Reply) -> int:
    """What a program is told of a purchase as it stands."""
    status = purchase["status"]
    if status == "awaiting_funds":
        return SHORT_OF_FUNDS
    return 0 if status in ("pending", "completed") else REFUSED


def _how_to_pay(purchase: Reply) -> str:
    return f"mycelium topup {purchase['shortfall_usd']} --purchase {purchase['purchase_id']}"


def _print_price(site: Site, wanted: Reply, quantity: int, total: Decimal) -> None:
    """On stderr, because it is part of the question."""
    times = f" × {quantity} = {usd(total)}" if quantity > 1 else ""
    click.echo(f"{printing.plain(wanted['name'])}: {_price(wanted)}{times}", err=True)
    for meter in wanted["meters"]:
        label = printing.plain(meter["label"])
        click.echo(f"By use, beside the price: {label}, {meter_price(meter)}", err=True)
    print_payment(site, total)


def print_payment(site: Site, total: Decimal) -> None:
    """What buying for ``total`` takes from the credits and from a card, as part of the question."""
    if not total:
        return
    found = site.get("/api/wallet/check-affordability", amount=total)
    available, short, automatic = (
        found[name] for name in ("available", "shortfall_info", "auto_topup")
    )
    if short is None:
        lines = [f"Credits: {usd(available)}; after it: {usd(available - total)}"]
    else:
        lines = [f"Credits: {usd(available)}; {usd(short['shortfall'])} are lacking."]
    if automatic is None:
        lines.append("Whether auto top-up charges a card because of it is not known now.")
    else:
        if automatic["in_flight"]:
            lines.append(f"A payment of {usd(automatic['in_flight'])} is under way.")
        lines += [
            f"Auto top-up charges {usd(charge['amount'])} to your card ending in"
            f" {printing.plain(charge['card_last4'])}."
            for charge in automatic["charges"]
        ]
        if automatic["more_follow"]:
            lines.append("More charges follow.")
    if short is not None and not short["would_auto_topup"]:
        lines.append("The purchase is kept, and completes when credits come.")
    click.echo("\n".join(lines), err=True)


def _price(product: Any) -> str:
    return usd(product["price_usd"]) + (" a month" if product["billing_period"] == "month" else "")


def meter_price(meter: Any) -> str:
    """In the words of the product's page."""
    unit = printing.plain(meter["unit"])
    per = f"{meter['per_units']:,} {unit}" if meter["per_units"] > 1 else unit
    text = f"{usd(meter['price_usd'])} per {per}"
    if meter["included_units"]:
        text = f"{meter['included_units']:,} {unit} free, then {text}"
    tiers = [
        f"; above {tier['above_units']:,} {unit} {usd(tier['price_usd'])} per {per}"
        for tier in meter["tiers"]
    ]
    return f"{text}{''.join(tiers)}, each month"


def _print_products(reply: Reply) -> None:
    printing.table(
        ["PRODUCT", "NAME", "PRICE", "", "PROVIDER", "LOCATION", "STOCK"],
        [
            (
                item["slug"],
                item["name"],
                usd(item["price_usd"]),
                "a month" if item["billing_period"] == "month" else "once",
                item["provider_name"],
                item["location"],
                item["stock"] if item["stock"] is not None else item["available"],
            )
            for item in reply["products"]
        ],
    )
    printing.more(reply)


def _print_product(reply: Reply) -> None:
    product = reply.body
    printing.facts(
        {
            "name": product["name"],
            "product": product["slug"],
            "price": _price(product),
            "category": product["category"],
            "provider": product["provider_name"],
            "location": product["location"],
            "can be bought": product["available"],
            **{item["label"]: item["value"] for item in product["specification"]},
            **{f"by use: {meter['label']}": meter_price(meter) for meter in product["meters"]},
            **{f"--choice {field['key']}=": _asked(field) for field in product["fields"]},
        }
    )
    click.echo(f"\n{printing.plain(product['description'])}")


def _asked(field: dict[str, Any]) -> str:
    one_of = f": {', '.join(field['choices'])}" if field["choices"] else ""
    return f"{field['label']}{one_of}{'' if field['is_required'] else ' (may be left out)'}"


def print_purchase(reply: Reply) -> None:
    """One purchase, and how it is paid where it waits."""
    printing.facts(
        {
            "purchase": reply["purchase_id"],
            "what": _what(reply.body),
            "total": usd(reply["total_usd"]),
            "status": reply["status"],
            **({"why": reply["status_reason"]} if reply["status_reason"] else {}),
            "deployments": ", ".join(reply["deployment_ids"]),
        }
    )
    if reply["status"] == "awaiting_funds":
        click.echo(f"{usd(reply['shortfall_usd'])} are lacking: {_how_to_pay(reply)}")


def _what(purchase: dict[str, Any]) -> str:
    return ", ".join(f"{line['quantity']} × {line['product_name']}" for line in purchase["lines"])


def _print_purchases(reply: Reply) -> None:
    printing.table(
        ["PURCHASE", "WHEN", "STATUS", "TOTAL", "WHAT"],
        [
            (
                item["purchase_id"],
                item["created_at"],
                item["status"],
                usd(item["total_usd"]),
                _what(item),
            )
            for item in reply["purchases"]
        ],
    )
    printing.more(reply)


def _print_receipt(reply: Reply) -> None:
    rows = [*reply["lines"], *reply["refunds"]]
    printing.facts({"receipt": reply["number"] or "a draft", "paid": reply["paid_at"]})
    printing.listed({"WHAT": "label", "": "detail", "AMOUNT": "amount_usd"}, rows)
    printing.facts({"tax in it": usd(reply["tax_usd"]), "total": usd(reply["net_usd"])})


COMMANDS = (products, product, buy, purchases, purchase)
