"""For who has a role: adjustments, promotional credit, the books."""

import csv
import sys
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import click
import simplejson

from mycelium_cli import printing
from mycelium_cli.options import (
    Shown,
    command,
    confirm,
    day,
    dollars,
    key_option,
    reason_option,
    yes_option,
)
from mycelium_cli.printing import usd
from mycelium_cli.site import Reply, Site, is_json

ADJUSTMENTS, PROMOTIONS, FINANCE, PAYOUTS = (
    "/api/admin/adjustments",
    "/api/admin/promotions",
    "/api/admin/finance",
    "/api/admin/payouts",
)
JOURNAL_DAYS = timedelta(days=31)
"""In one answer of the site."""
JOURNAL = ("day", "account", "kind", "transaction_count", "received_usd", "given_usd", "net_usd")
COLUMNS = ("day", "house_account", "kind", "transactions", "received_usd", "given_usd", "net_usd")


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@click.option("--open", "only_open", is_flag=True, help="Only what can still be decided.")
@command
def adjustments(site: Site, *, only_open: bool) -> Shown:
    """List corrections of wallets, propose one, or decide what a colleague proposed."""
    return site.get(ADJUSTMENTS, only_open="true" if only_open else None), _print_adjustments


@adjustments.command()
@click.argument("whom", metavar="EMAIL")
@click.argument("direction", type=click.Choice(["credit", "debit"]))
@click.argument("amount", type=dollars)
@reason_option
@key_option
@command
def propose(
    site: Site, whom: str, direction: str, amount: Decimal, *, reason: str, key: str | None
) -> Shown:
    """Propose to credit or debit the wallet of EMAIL, or of an id, with an AMOUNT of dollars."""
    body = {"whom": whom, "direction": direction, "amount": amount, "reason": reason}
    return site.command("POST", ADJUSTMENTS, body, key), _print_adjustment


@adjustments.command()
@click.argument("adjustment_id", metavar="ID", type=click.UUID)
@reason_option
@key_option
@yes_option
@command
def approve(
    site: Site, adjustment_id: UUID, *, reason: str, key: str | None, is_confirmed: bool
) -> Shown:
    """Approve what a colleague proposed, which posts it at once."""
    if not is_confirmed:
        confirm(f"Approve {adjustment_id}, which posts it?")
    return _decide(site, adjustment_id, "approve", reason, key)


@adjustments.command()
@click.argument("adjustment_id", metavar="ID", type=click.UUID)
@reason_option
@key_option
@command
def reject(site: Site, adjustment_id: UUID, *, reason: str, key: str | None) -> Shown:
    """Reject what a colleague proposed; nothing moves."""
    return _decide(site, adjustment_id, "reject", reason, key)


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@command
def promotions(site: Site) -> Shown:
    """List the promotional credit that was given last, or give some."""
    return site.get(PROMOTIONS), _print_promotions


@promotions.command()
@click.argument("whom", metavar="EMAIL")
@click.argument("amount", type=dollars)
@click.option("--last-day", type=day, required=True, help="Its last day (UTC), within a year.")
@reason_option
@key_option
@yes_option
@command
def give(
    site: Site,
    whom: str,
    amount: Decimal,
    *,
    last_day: datetime,
    reason: str,
    key: str | None,
    is_confirmed: bool,
) -> Shown:
    """Give EMAIL, or an id, an AMOUNT of dollars that is for buying alone, and ends. They are
    told."""
    if not is_confirmed:
        confirm(f"Give {whom} {usd(amount)}, to be spent by {last_day:%Y-%m-%d}?")
    body = {
        "whom": whom,
        "amount": amount,
        "last_day": f"{last_day:%Y-%m-%d}",
        "reason": reason,
    }
    return site.command("POST", PROMOTIONS, body, key), _print_given


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@command
def finance(site: Site) -> Shown:
    """Show the books and what does not agree in them, or do something with them."""
    return site.get(FINANCE), lambda told: printing.parts(told, _PARTS)


@finance.command()
@reason_option
@key_option
@command
def verify(site: Site, *, reason: str, key: str | None) -> Shown:
    """Have the ledger verified; `finance` shows the result once it has ended."""
    done = site.command("POST", f"{FINANCE}/verify", {"reason": reason}, key)
    return done, lambda told: printing.facts(_facts_of_verification(told))


@finance.command()
@click.argument("dispute")
@reason_option
@command
def payment(site: Site, dispute: str, *, reason: str) -> Shown:
    """Print what is known of the payment of a DISPUTE, as CSV."""
    told = site.post(f"{FINANCE}/disputes/{dispute}/payment", {"reason": reason})
    return told, lambda read: click.echo(read["csv"], nl=False)


@finance.command()
@click.option("--since", type=day, required=True, help="The first day (UTC).")
@click.option("--until", type=day, required=True, help="The last day (UTC).")
@command
def sellers(site: Site, *, since: datetime, until: datetime) -> Shown:
    """Show what everybody who sells sold, and what of it they earned."""
    told = site.get(f"{FINANCE}/sellers", since=f"{since:%Y-%m-%d}", until=f"{until:%Y-%m-%d}")
    return told, _print_sellers


@finance.command()
@click.option("--since", type=day, required=True, help="The first day (UTC).")
@click.option("--until", type=day, required=True, help="The last day (UTC).")
@command
def journal(site: Site, *, since: datetime, until: datetime) -> None:
    """Print the journal of the house's accounts, as CSV."""
    if until < since:
        raise click.BadParameter("--until is before --since.")
    lines: list[Any] = []
    while since <= until:
        last = min(since + JOURNAL_DAYS - timedelta(days=1), until)
        path = f"{FINANCE}/journal"
        lines += site.get(path, since=f"{since:%Y-%m-%d}", until=f"{last:%Y-%m-%d}")["lines"]
        since = last + timedelta(days=1)
    if is_json():
        click.echo(simplejson.dumps({"lines": lines}, use_decimal=True))
        return
    written = csv.writer(sys.stdout, lineterminator="\n")
    written.writerow(COLUMNS)
    written.writerows([line[name] for name in JOURNAL] for line in lines)


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@command
def payouts(site: Site) -> Shown:
    """List the payouts to make, or say that one was sent or is not."""
    return site.get(FINANCE), lambda told: printing.parts(told, {"payouts": _print_payouts})


@payouts.command()
@click.argument("payout_id", metavar="ID", type=click.UUID)
@click.argument("reference")
@reason_option
@key_option
@yes_option
@command
def paid(
    site: Site,
    payout_id: UUID,
    reference: str,
    *,
    reason: str,
    key: str | None,
    is_confirmed: bool,
) -> Shown:
    """Say that a payout was sent, and by which REFERENCE its seller finds it."""
    if not is_confirmed:
        confirm(f"{payout_id} was sent as {reference}?")
    body = {"reference": reference, "reason": reason}
    return site.command("POST", f"{PAYOUTS}/{payout_id}/paid", body, key), _print_closed


@payouts.command()
@click.argument("payout_id", metavar="ID", type=click.UUID)
@reason_option
@key_option
@yes_option
@command
def refused(
    site: Site, payout_id: UUID, *, reason: str, key: str | None, is_confirmed: bool
) -> Shown:
    """Send no payout: it is free again. Its seller is told the reason."""
    if not is_confirmed:
        confirm(f"{payout_id} is not sent, and its seller is told why?")
    path = f"{PAYOUTS}/{payout_id}/refused"
    return site.command("POST", path, {"reason": reason}, key), _print_closed


def _print_closed(reply: Reply) -> None:
    printing.facts({"payout": reply["payout_id"], "is": reply["status"]})


def _decide(site: Site, adjustment_id: UUID, verb: str, reason: str, key: str | None) -> Shown:
    path = f"{ADJUSTMENTS}/{adjustment_id}/{verb}"
    return site.command("POST", path, {"reason": reason}, key), _print_adjustment


def _print_adjustments(reply: Reply) -> None:
    printing.listed(
        {
            "ADJUSTMENT": "adjustment_id",
            "STATUS": "status",
            "AMOUNT": "amount_usd",
            "USER": "user_id",
            "PROPOSED BY": "proposed_by",
            "EXPIRES": "expires_at",
            "WHY": "reason",
        },
        reply["adjustments"],
    )


def _print_adjustment(reply: Reply) -> None:
    printing.facts(
        {
            "adjustment": reply["adjustment_id"],
            "status": reply["status"],
            "amount": usd(reply["amount_usd"]),
            "user": reply["user_id"],
            "proposed by": reply["proposed_by"],
            "decided by": reply["decided_by"],
            "transaction": reply["transaction_id"],
        }
    )


def _print_promotions(reply: Reply) -> None:
    printing.table(
        ["USER", "AMOUNT", "ENDS", "GIVEN BY", "GIVEN", "DONE", "WHY"],
        [
            (
                each["user_id"],
                usd(each["amount_usd"]),
                each["expires_at"],
                each["given_by"],
                each["given_at"],
                "yes" if each["is_done"] else "not known",
                each["reason"],
            )
            for each in reply["promotions"]
        ],
    )


def _print_given(reply: Reply) -> None:
    printing.facts(
        {
            "promotion": reply["promotion_id"],
            "user": reply["user_id"],
            "amount": usd(reply["amount_usd"]),
            "left": usd(reply["left_usd"]),
            "ends": reply["expires_at"],
        }
    )


def _print_sellers(reply: Reply) -> None:
    rows = [*reply["providers"], {**reply["total"], "provider_id": "all sellers"}]
    names = ("gross", "refunded", "fee", "net")
    printing.table(
        ["SELLER", "PAID", "REFUNDED", "FEE", "EARNED"],
        [(each["provider_id"], *(usd(each[f"{name}_usd"]) for name in names)) for each in rows],
    )


def _print_books(books: Any) -> None:
    printing.facts(
        {
            "wallets": f"{usd(books['wallets_usd'])} in {books['wallet_count']}",
            "held": usd(books["held_usd"]),
            "difference": usd(books["difference_usd"]),
            **_facts_of_verification(books["verification"]),
        }
    )
    printing.listed({"HOUSE ACCOUNT": "account", "BALANCE": "balance_usd"}, books["house"])
    printing.listed({"BELOW ZERO": "user_id", "BALANCE": "balance_usd"}, books["negative"])


def _facts_of_verification(found: Any) -> dict[str, Any]:
    if found is None:
        return {"verified": None}
    return {
        "verified": found["ended_at"] or f"asked for {found['asked_at']}",
        "clean": found["clean"],
        "first difference": found["first_difference"],
    }


def _print_payments(payments: Any) -> None:
    printing.table(
        ["DAY", "AGE", "DIFFERENCE", "AMOUNT", "PAYMENT", "WHAT"],
        [
            (
                part["day"],
                "gone" if each["age_hours"] is None else f"{each['age_hours']} h",
                each["code"],
                usd(each["amount_usd"]),
                each["payment_id"],
                each["message"],
            )
            for part in payments["differences"]
            for each in part["differences"]
        ],
    )
    printing.listed(
        {
            "STUCK": "topup_id",
            "STATUS": "status",
            "AMOUNT": "amount_usd",
            "USER": "user_id",
            "CHANGED": "changed_at",
            "PROBLEM": "problem",
        },
        payments["stuck"],
    )
    printing.listed(
        {
            "DISPUTE": "dispute_id",
            "STATUS": "status",
            "AMOUNT": "amount_usd",
            "USER": "user_id",
            "EVIDENCE DUE": "due_at",
            "PAST DUE": "is_past_due",
        },
        payments["disputes"],
    )


def _print_payouts(payouts: Any) -> None:
    printing.listed(
        {
            "PAYOUT": "payout_id",
            "STATUS": "status",
            "AMOUNT": "amount_usd",
            "OWED": "owed_usd",
            "USER": "user_id",
            "ASKED": "created_at",
        },
        payouts,
    )


_PARTS = {"books": _print_books, "payments": _print_payments, "payouts": _print_payouts}

GROUPS = (adjustments, promotions, finance, payouts)
