"""Lines that need no script: from numbers to coordinates and round marks at the scale."""

from collections.abc import Sequence
from dataclasses import dataclass

SIDE = 1_000
"""A drawing is a square of this many units, which the page stretches."""

TICKS_MAX = 4
STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Scale:
    """From numbers and their places in a row to coordinates, which grow to the right and down."""

    bottom: int
    top: int
    length: int

    def x(self, place: int) -> int:
        return SIDE * place // self.length

    def y(self, number: int) -> int:
        return SIDE * (self.top - number) // (self.top - self.bottom)


@dataclass(frozen=True)
class Line:
    """Numbers in a row. ``ticks`` are marks at the scale, the highest first."""

    line: str
    area: str
    ticks: list[int]

    @property
    def grid(self) -> list[int]:
        """Where the ticks are."""
        return grid_of(self.ticks)


def ticks_around(low: int, high: int, unit: int) -> list[int]:
    """Round numbers of ``unit`` at equal distances that enclose both, the highest first."""
    step = unit
    while True:
        for factor in STEPS:
            step = factor * unit
            first, last = low // step, -(-high // step)
            if last - first <= TICKS_MAX:
                return [number * step for number in range(last, first - 1, -1)]
        unit *= 10


def grid_of(ticks: Sequence[int]) -> list[int]:
    return [SIDE * number // (len(ticks) - 1) for number in range(len(ticks))]


def draw_line(numbers: Sequence[int | None], unit: int = 1) -> Line:
    """The line through the numbers; places where nothing is known are left out of it."""
    known = [(place, number) for place, number in enumerate(numbers) if number is not None]
    values = [number for _, number in known]
    ticks = ticks_around(min([0, *values]), max([unit, *values]), unit)
    scale = Scale(ticks[-1], ticks[0], max(len(numbers) - 1, 1))
    points = [f"{scale.x(place)} {scale.y(number)}" for place, number in known]
    if not points:
        return Line("", "", ticks)
    line = f"M{'L'.join(points)}" if len(points) > 1 else f"M{points[0]}h0"
    return Line(line, f"{line}V{SIDE}H{scale.x(known[0][0])}Z", ticks)
