"""What stands on stdout: an answer of the API as it came, or the same for people."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import click

from mycelium_cli.site import Reply


def plain(value: Any) -> str:
    """A value as text of one line. What others wrote must not steer the terminal."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def usd(amount: Any) -> str:
    """An amount of the API as people read it: ``$1,250.00``, ``-$5.00``; a dash for none."""
    if amount is None:
        return "–"
    number = Decimal(amount)
    return f"{'-' if number < 0 else ''}${abs(number):,f}"


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns under their titles; amounts to the right."""
    lines = [titles, *([plain(cell) for cell in row] for row in rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    amounts = [all(_is_amount(cell) for cell in column[1:]) for column in columns]
    for number, row in enumerate(lines):
        cells = [
            cell.rjust(width) if is_amount else cell.ljust(width)
            for cell, width, is_amount in zip(row, widths, amounts, strict=True)
        ]
        line = "  ".join(cells).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def listed(keys: Mapping[str, str], things: Iterable[Mapping[str, Any]]) -> None:
    """A table of things, with a column for each title and the key of what stands in it; what a key
    in ``_usd`` names is an amount."""
    table(
        list(keys),
        [
            [usd(each[key]) if key.endswith("_usd") else each[key] for key in keys.values()]
            for each in things
        ],
    )


def _is_amount(text: str) -> bool:
    return text.lstrip("-").startswith(("$", "–"))


def facts(values: Mapping[str, Any]) -> None:
    """One thing, a line for each of its values."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        click.echo(f"{plain(name).ljust(width)}  {plain(value)}")


def parts(reply: Reply, printed: Mapping[str, Callable[[Any], None]]) -> None:
    """The parts of an answer, each from a service of its own. One that is null is not empty: its
    service does not answer, and stderr says so."""
    for name, print_part in printed.items():
        if reply[name] is None:
            click.echo(f"The {name} cannot be told now.", err=True)
        else:
            print_part(reply[name])


def sold(reply: Reply) -> None:
    """What buyers paid, and what became of it."""
    names = {"gross": "paid", "refunded": "refunded", "fee": "fee", "net": "earned"}
    facts({name: usd(reply[f"{key}_usd"]) for key, name in names.items()})


def more(reply: Reply) -> None:
    """Say how the next page is had, where there is one."""
    if reply["next_cursor"]:
        click.echo(f"There are more: --cursor {reply['next_cursor']}", err=True)
