"""What stands on a paper, whatever it is for."""

from dataclasses import dataclass
from datetime import datetime

from chassis.money import divide_half_even


@dataclass(frozen=True)
class Amount:
    """A line with an amount; ``detail`` stands below its label, smaller."""

    label: str
    amount_micros: int
    detail: str = ""


@dataclass(frozen=True)
class Paper:
    """A receipt: ``lines`` are what was paid for, ``totals`` what they come to, the last in bold.

    ``seller`` and ``buyer`` are a name and what stands below it. ``made_at`` is no part of what is
    seen: the same paper is the same document, byte for byte.
    """

    title: str
    made_at: datetime
    seller: tuple[str, ...]
    buyer: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    lines: tuple[Amount, ...]
    totals: tuple[Amount, ...]
    foot: str


def contained_tax_micros(total_micros: int, tax_bps: int) -> int:
    """The tax that a price contains, at a rate in basis points of what is before tax; rounded
    half-even, once."""
    return divide_half_even(total_micros * tax_bps, 10_000 + tax_bps)


def percent(bps: int) -> str:
    """A rate as it is written: 1,900 basis points are 19%, 770 are 7.7%."""
    return f"{bps / 100:.2f}".rstrip("0").rstrip(".") + "%"
