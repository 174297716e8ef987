"""What people noticed of each fault, as rows, and as the table of docs/faults.md."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults.chaos.people import NOTICED_AFTER_S, Answer

BEGIN, END = "<!-- measured: make chaos-table -->\n", "<!-- end -->\n"
HEAD = (
    "| fault | asked | without an answer | slowest | well again after | all done after | lost or"
    " doubled |\n|---|--:|--:|--:|--:|--:|--:|\n"
)


class Row(NamedTuple):
    """``errors`` of so many requests ``asked`` from its begin on; the times are from its end on."""

    name: str
    asked: int
    errors: int
    slowest_s: float
    well_after_s: float
    done_after_s: float
    wrong: tuple[str, ...]

    @classmethod
    def of(
        cls, name: str, seen: Sequence[Answer], ended: float, done: float, wrong: Iterable[str]
    ) -> "Row":
        errors = [answer for answer in seen if answer.is_error]
        last = max((answer.at + answer.took_s for answer in errors), default=ended)
        return cls(
            name,
            len(seen),
            len(errors),
            max(answer.took_s for answer in seen),
            max(last - ended, 0.0),
            done - ended,
            tuple(wrong),
        )

    def line(self) -> str:
        part = f"{self.errors / self.asked:.0%}" if self.errors else "0"
        slowest = (
            f"> {NOTICED_AFTER_S:.0f} s"
            if self.slowest_s >= NOTICED_AFTER_S
            else f"{self.slowest_s:.1f} s"
        )
        well = f"{self.well_after_s:.0f} s" if self.errors else "–"
        return (
            f"| {self.name} | {self.asked} | {part} | {slowest} | {well} |"
            f" {self.done_after_s:.0f} s | {len(self.wrong)} |"
        )


def write(rows: Sequence[Row], order: Sequence[str], page: Path) -> None:
    """Put the rows in the place of those of the same names; ``order`` has all names."""
    before, _, rest = page.read_text().partition(BEGIN)
    known, _, after = rest.partition(END)
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in known.splitlines()[2:]}
    lines |= {row.name: row.line() for row in rows}
    body = "".join(f"{lines[name]}\n" for name in order if name in lines)
    page.write_text(f"{before}{BEGIN}{HEAD}{body}{END}{after}")
