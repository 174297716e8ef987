"""What commands share: their site, how they print, their common options."""

import functools
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import click

from mycelium_cli import logins
from mycelium_cli.site import JSON, Reply, Site, checked, is_json

DEFAULT_SITE = "http://127.0.0.1:8000"
"""Where ``make run`` has it."""
_SITE = "mycelium_cli.site"

Shown = tuple[Reply, Callable[[Reply], None]]
"""What a command answers with: a reply, and how it is printed for people."""
View = TypeVar("View", bound=Callable[..., Any])


def command(view: Callable[..., Shown | None]) -> Callable[..., None]:
    """Give a command ``--site`` and ``--json``. ``view`` gets the site first, and what it returns
    is printed."""

    @click.option("--site", "url", envvar="MYCELIUM_SITE", metavar="URL",
                  help=f"The site, also MYCELIUM_SITE; if none: {DEFAULT_SITE}")  # fmt: skip
    @click.option("--json", "wants_json", is_flag=True, help="Print one JSON document.")
    @functools.wraps(view)
    def run(context: click.Context, url: str | None, *, wants_json: bool, **given: Any) -> None:
        # `deployment ID --json stop` means the same as `deployment ID stop --json`.
        context.meta[JSON] = wants_json or context.meta.get(JSON, False)
        context.meta[_SITE] = address = checked(url or context.meta.get(_SITE, DEFAULT_SITE))
        if context.invoked_subcommand is None:
            shown = view(Site(address, logins.token_for(address)), **given)
            if shown is not None:
                show(*shown)

    return click.pass_context(run)


class OneThing(click.Group):
    """A group with an id as its argument, behind which its options may stand too:
    ``deployment ID --json``. Click by itself would take ``--json`` for a command there."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        place = _behind_options(args, 0)
        command = _behind_options(args, place + 1)
        before, id_, options = args[:place], args[place : place + 1], args[place + 1 : command]
        return super().parse_args(ctx, [*before, *options, *id_, *args[command:]])


def _behind_options(args: list[str], at: int) -> int:
    while at < len(args) and args[at].startswith("-"):
        at += 2 if args[at] == "--site" else 1
    return at


def show(reply: Reply, as_text: Callable[[Reply], None]) -> None:
    """Print a reply: as the API gave it where JSON is wanted."""
    if is_json():
        click.echo(reply.text)
    else:
        as_text(reply)


def _key(value: str) -> str:
    if not value or not value.isascii() or not value.isprintable():
        raise click.BadParameter("a key is made of plain letters, digits and signs.")
    return value


key_option = click.option(
    "--key",
    type=_key,
    metavar="KEY",
    help="The idempotency key, to repeat what may have been done already.",
)
reason_option = click.option(
    "--reason", required=True, help="Why: a case number, or what was asked for. It is recorded."
)
yes_option = click.option("--yes", "-y", "is_confirmed", is_flag=True, help="Do not ask.")


def pages(limit: int) -> Callable[[View], View]:
    """Give a list ``--limit`` and ``--cursor``."""

    def decorate(view: View) -> View:
        how_many = click.IntRange(1, 200)
        view = click.option("--cursor", help="Where the next page begins.")(view)
        return click.option("--limit", type=how_many, default=limit, show_default=True)(view)

    return decorate


day = click.DateTime(["%Y-%m-%d"])


def _plain_day(_context: click.Context, _option: click.Parameter, value: Any) -> str | None:
    return f"{value:%Y-%m-%d}" if value else None


def days(view: View) -> View:
    """Give a list of days ``--since`` and ``--until``, as the API takes them."""
    until = "The last day (UTC); if none, today."
    view = click.option("--until", type=day, callback=_plain_day, help=until)(view)
    return click.option("--since", type=day, callback=_plain_day, help="The first day (UTC).")(view)


def dollars(value: str) -> Decimal:
    """An amount that somebody typed, such as 25 or 25.00; exact."""
    return _dollars(value, is_nothing_too=False)


def dollars_or_nothing(value: str) -> Decimal:
    """The same of what may cost nothing."""
    return _dollars(value, is_nothing_too=True)


def _dollars(value: str, *, is_nothing_too: bool) -> Decimal:
    try:
        amount = Decimal(value.removeprefix("$"))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or not (amount or is_nothing_too):
        raise click.BadParameter(f"{value} is no amount of dollars, such as 25 or 25.00.")
    return amount


def confirm(question: str) -> None:
    """Ask a person; where nobody can be asked, ``--yes`` has to be said."""
    if not sys.stdin.isatty():
        raise click.UsageError("Nobody can be asked here: add --yes.")
    click.confirm(question, abort=True, err=True)
