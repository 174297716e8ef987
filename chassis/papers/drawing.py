"""Drawing a paper as a PDF document of as many A4 pages as it needs.

Letters are shaped as their script asks and run in its direction. What is drawn is glyphs; the text
that they stand for is written beside them (PDF's ``ActualText``), so that it can be copied,
searched and read aloud as it was entered.

It is imported where the first paper is drawn: the library takes a third of the time in which a
service starts.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import cast

from fpdf import FPDF
from fpdf.enums import Align, MethodReturnValue, XPos, YPos
from fpdf.fonts import TTFFont

from chassis.money import format_usd
from chassis.papers.paper import Amount, Paper
from chassis.papers.typefaces import BOLD, PLAIN, path_of, typefaces_for, writable

MARGIN, FOOT = 20.0, 22.0
"""Millimetres, as every measure here."""

AMOUNT_WIDTH, LABEL_WIDTH = 40.0, 28.0
GREY, DARK = (102, 112, 133), (16, 24, 40)
SMALL, NORMAL, LARGE = 9, 10.5, 18
"""Points."""

LINE = 0.5
"""Millimetres of height for a point of size."""


def pdf(paper: Paper) -> bytes:
    """The paper as a PDF. The same paper gives the same bytes."""
    with closing(_Sheet(paper)) as sheet:
        sheet.add_page()
        _sides(sheet, paper)
        sheet.ln(6)
        for label, value in paper.facts:
            _fact(sheet, label, value)
        sheet.ln(6)
        for line in paper.lines:
            _amount(sheet, line)
        _totals(sheet, paper.totals)
        return bytes(sheet.output())


def _sides(sheet: "_Sheet", paper: Paper) -> None:
    """Who sells on the left, who buys on the right."""
    half = sheet.epw / 2 - 5
    top, ends = sheet.get_y(), []
    for left, heading, lines in (
        (sheet.l_margin, "From", paper.seller),
        (sheet.l_margin + half + 10, "To", paper.buyer),
    ):
        if not lines:
            continue
        sheet.set_xy(left, top)
        sheet.write_line(heading, width=half, size=SMALL, color=GREY, ends=False)
        sheet.set_y(top + SMALL * LINE)
        for number, line in enumerate(lines):
            for part in sheet.broken(line, half, NORMAL, bold=number == 0):
                sheet.set_x(left)
                sheet.write_line(part, width=half, bold=number == 0)
        ends.append(sheet.get_y())
    sheet.set_y(max(ends))


def _fact(sheet: "_Sheet", label: str, value: str) -> None:
    sheet.write_line(label, width=LABEL_WIDTH, size=SMALL, color=GREY, ends=False)
    for part in sheet.broken(value, sheet.epw - LABEL_WIDTH, NORMAL):
        sheet.set_x(sheet.l_margin + LABEL_WIDTH)
        sheet.write_line(part)


def _amount(sheet: "_Sheet", line: Amount, *, bold: bool = False) -> None:
    """A label, as long as it is, its amount beside the first of its lines, its detail below."""
    width = sheet.epw - AMOUNT_WIDTH
    labels = sheet.broken(line.label, width, NORMAL, bold=bold)
    details = sheet.broken(line.detail, width, SMALL) if line.detail else []
    sheet.keep_together((len(labels) * NORMAL + len(details) * SMALL) * LINE)
    for number, label in enumerate(labels):
        sheet.write_line(label, width=width, bold=bold, ends=number > 0)
        if number == 0:
            amount = format_usd(line.amount_micros)
            sheet.write_line(amount, width=AMOUNT_WIDTH, bold=bold, align=Align.R)
    for detail in details:
        sheet.write_line(detail, width=width, size=SMALL, color=GREY)
    sheet.ln(1.2)


def _totals(sheet: "_Sheet", totals: Sequence[Amount]) -> None:
    """On one page, below a line."""
    sheet.keep_together(len(totals) * (NORMAL * LINE + 1.2) + 4)
    height = sheet.get_y() + 1
    sheet.set_draw_color(*GREY)
    sheet.line(sheet.l_margin, height, sheet.l_margin + sheet.epw, height)
    sheet.ln(4)
    for number, total in enumerate(totals, start=1):
        _amount(sheet, total, bold=number == len(totals))


class _Sheet(FPDF):
    """Pages with the paper's title above and its foot below, and text in any script."""

    def __init__(self, paper: Paper) -> None:
        super().__init__(format="A4")
        self.paper = paper
        self.set_creation_date(paper.made_at)
        self.set_title(writable(paper.title))
        self.set_author(writable(paper.seller[0]))
        self.set_margins(MARGIN, MARGIN, MARGIN)
        self.c_margin = 0
        self.set_auto_page_break(auto=True, margin=FOOT)
        self.add_font(PLAIN, "", path_of(PLAIN))
        self.add_font(PLAIN, "B", path_of(BOLD))
        self.set_text_shaping(True)

    def close(self) -> None:
        """Let go of the files of typefaces, which the library keeps open."""
        for font in self.fonts.values():
            if isinstance(font, TTFFont):
                font.ttfont.close()

    def header(self) -> None:
        self.write_line(self.paper.title, size=LARGE if self.page == 1 else NORMAL, bold=True)
        self.ln(6)

    def footer(self) -> None:
        self.set_y(-FOOT + 6)
        self.write_line(self.paper.foot, size=SMALL, color=GREY, ends=False)
        self.set_x(self.l_margin)
        # The library puts the number of pages there when it knows it.
        self.cell(0, SMALL * LINE, f"Page {self.page} of {{nb}}", align=Align.R)

    def keep_together(self, height: float) -> None:
        """Go to a new page where this one has no room for so much."""
        if self.get_y() + height > self.page_break_trigger:
            self.add_page()

    def write_line(
        self,
        text: str,
        *,
        width: float = 0,
        size: float = NORMAL,
        bold: bool = False,
        color: tuple[int, int, int] = DARK,
        align: Align = Align.L,
        ends: bool = True,
    ) -> None:
        """One line of text, which is not broken, from where the pen is."""
        drawn = self.set_type(text, size, bold=bold)
        self.set_text_color(*color)
        # Of the library's own: it has no name for text that stands for what is drawn.
        told = ("\ufeff" + drawn).encode("utf-16-be").hex()
        self._out(f"/Span << /ActualText <{told}> >> BDC")
        following = (XPos.LMARGIN, YPos.NEXT) if ends else (XPos.RIGHT, YPos.TOP)
        self.cell(width, size * LINE, drawn, align=align, new_x=following[0], new_y=following[1])
        self._out("EMC")

    def broken(self, text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
        """The text in lines that fit into a width."""
        drawn = self.set_type(text, size, bold=bold)
        lines = self.multi_cell(
            width, size, drawn, align=Align.L, dry_run=True, output=MethodReturnValue.LINES
        )
        return cast(list[str], lines) or [""]

    def set_type(self, text: str, size: float, *, bold: bool = False) -> str:
        """Choose the typefaces for a text; it is returned as it can be drawn."""
        drawn = writable(text)
        first, *helpers = typefaces_for(drawn)
        for face in (first, *helpers):
            if face.lower() not in self.fonts:
                self.add_font(face, "", path_of(face))
        self.set_fallback_fonts(helpers, exact_match=False)
        self.set_font(first, "B" if bold and first == PLAIN else "", size)
        return drawn
