"""Receipts: one for every charge, as data for a page and as a PDF document."""

import base64
import io
from datetime import datetime
from uuid import UUID

from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas
from sqlalchemy.orm import Session

from chassis.money import MINUS, format_usd
from contracts.errors import Conflict
from contracts.topup import (
    Receipt,
    ReceiptLine,
    RenderedReceipt,
    TopupKind,
    TopupStatus,
    brand_name,
)
from services.topup import topups
from services.topup.charging import reversals
from services.topup.models import Reversal, Topup

DESCRIPTION = "Mycelium credits (1 credit = 1 US dollar)"
LEFT, RIGHT, TOP, BOTTOM, LINE = 60, 535, 770, 50, 18
FIRST_PAGE_LINES, PAGE_LINES = 24, 32
"""So many lines of amounts leave room for the total and the foot of an A4 page."""
GREY, DARK = HexColor("#667085"), HexColor("#101828")


def receipt(session: Session, user_id: UUID, topup_id: UUID) -> Receipt:
    """Raises ``NotFound``, and ``Conflict`` when nothing was paid."""
    topup = topups.get(session, user_id, topup_id)
    if topup.paid_at is None:
        raise Conflict("There is no receipt: nothing was paid.")
    lines = [ReceiptLine(label=_what(topup), amount_micros=topup.amount_micros)]
    for reversal in reversals.of_topup(session, topup_id):
        lines.extend(_lines_of(reversal))
    return Receipt(
        number=number(topup.topup_id, topup.paid_at),
        topup_id=topup.topup_id,
        user_id=user_id,
        kind=TopupKind(topup.kind),
        paid_at=topup.paid_at,
        card_brand=topup.card_brand,
        card_last4=topup.card_last4,
        payment_id=topup.payment_id or "",
        description=DESCRIPTION,
        lines=lines,
        net_micros=sum(line.amount_micros for line in lines),
        is_credited=topup.status == TopupStatus.CREDITED,
    )


def number(topup_id: UUID, paid_at: datetime) -> str:
    """The receipt's number: the day it was paid, and the random end of the top-up's id."""
    return f"MYC-{paid_at:%Y%m%d}-{topup_id.hex[-10:].upper()}"


def _what(topup: Topup) -> str:
    return "Automatic top-up" if topup.kind == TopupKind.AUTO else "Credit purchase"


def _lines_of(reversal: Reversal) -> list[ReceiptLine]:
    what = "Disputed" if reversal.is_dispute else "Refunded"
    day = f"{reversal.taken_at:%Y-%m-%d}"
    lines = [ReceiptLine(label=f"{what} on {day}", amount_micros=-reversal.amount_micros)]
    if reversal.restored_at is not None:
        label = f"Returned on {reversal.restored_at:%Y-%m-%d}"
        lines.append(ReceiptLine(label=label, amount_micros=reversal.amount_micros))
    return lines


def rendered(paper: Receipt) -> RenderedReceipt:
    """The receipt as a document, and the name under which it is saved."""
    document = base64.b64encode(pdf(paper)).decode()
    return RenderedReceipt(file_name=f"{paper.number}.pdf", pdf_base64=document)


def pdf(paper: Receipt) -> bytes:
    """The receipt as a PDF, the total on its last page. The same receipt gives the same bytes."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1)
    canvas.setTitle(f"Receipt {paper.number}")
    canvas.setAuthor("Mycelium")
    pages = _pages(paper.lines)
    for number, lines in enumerate(pages, start=1):
        height = _head(canvas, paper)
        if number == 1:
            height = _facts(canvas, paper, height) - LINE
        height = _amounts(canvas, paper.description, lines, height)
        if number == len(pages):
            _total(canvas, paper, height)
        _foot(canvas, f"Page {number} of {len(pages)}")
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _pages(lines: list[ReceiptLine]) -> list[list[ReceiptLine]]:
    """The lines by page: the first one has the facts above them, the last one the total below."""
    starts = range(FIRST_PAGE_LINES, len(lines), PAGE_LINES)
    return [lines[:FIRST_PAGE_LINES], *(lines[start : start + PAGE_LINES] for start in starts)]


def _head(canvas: Canvas, paper: Receipt) -> float:
    canvas.setFillColor(DARK)
    canvas.setFont("Helvetica-Bold", 20)
    canvas.drawString(LEFT, TOP, "Mycelium")
    canvas.setFont("Helvetica", 12)
    canvas.drawRightString(RIGHT, TOP, f"Receipt {paper.number}")
    return TOP - 3 * LINE


def _facts(canvas: Canvas, paper: Receipt, height: float) -> float:
    card = f"{brand_name(paper.card_brand)} ending in {paper.card_last4}"
    facts = (
        ("Paid on", f"{paper.paid_at:%Y-%m-%d %H:%M} UTC"),
        ("Paid with", card if paper.card_last4 else "Card"),
        ("Payment", paper.payment_id),
        ("Account", str(paper.user_id)),
        ("Top-up", str(paper.topup_id)),
    )
    for label, value in facts:
        canvas.setFillColor(GREY)
        canvas.setFont("Helvetica", 10)
        canvas.drawString(LEFT, height, label)
        canvas.setFillColor(DARK)
        canvas.drawString(LEFT + 90, height, value)
        height -= LINE
    return height


def _amounts(canvas: Canvas, description: str, lines: list[ReceiptLine], height: float) -> float:
    canvas.setFont("Helvetica", 11)
    canvas.drawString(LEFT, height, description)
    height -= LINE * 1.5
    for line in lines:
        canvas.drawString(LEFT, height, line.label)
        canvas.drawRightString(RIGHT, height, _written(line.amount_micros))
        height -= LINE
    return height


def _total(canvas: Canvas, paper: Receipt, height: float) -> None:
    canvas.line(LEFT, height + 10, RIGHT, height + 10)
    canvas.setFont("Helvetica-Bold", 12)
    canvas.drawString(LEFT, height - 8, "Total")
    canvas.drawRightString(RIGHT, height - 8, _written(paper.net_micros))


def _foot(canvas: Canvas, page: str) -> None:
    canvas.setFillColor(GREY)
    canvas.setFont("Helvetica", 9)
    canvas.drawString(LEFT, BOTTOM, "All amounts in US dollars. Credits do not expire.")
    canvas.drawRightString(RIGHT, BOTTOM, page)


def _written(amount_micros: int) -> str:
    """An amount in the characters that a PDF's own fonts have, which lack the minus sign."""
    return format_usd(amount_micros).replace(MINUS, "-")
