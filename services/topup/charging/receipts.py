"""Receipts: one for every charge, as data for a page and as a PDF document."""

import base64
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.papers.paper import Amount, Paper
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
FOOT = "All amounts in US dollars. Credits do not expire."


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


def seller(session: Session, receipt: Receipt, seller_now: tuple[str, ...]) -> tuple[str, ...]:
    """Who sold it on the day on which it was paid, whoever does by now."""
    return tuple(session.get_one(Topup, receipt.topup_id).seller or seller_now)


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


def rendered(receipt: Receipt, seller: tuple[str, ...]) -> RenderedReceipt:
    """The receipt as a document, and the name under which it is saved."""
    from chassis.papers.drawing import pdf

    document = base64.b64encode(pdf(paper(receipt, seller))).decode()
    return RenderedReceipt(file_name=f"{receipt.number}.pdf", pdf_base64=document)


def paper(receipt: Receipt, seller: tuple[str, ...]) -> Paper:
    """What stands on it: the charge, whatever went back to the card, and what remains."""
    card = f"{brand_name(receipt.card_brand)} ending in {receipt.card_last4}"
    return Paper(
        title=f"Receipt {receipt.number}",
        made_at=receipt.paid_at,
        seller=seller,
        buyer=(),
        facts=(
            ("Paid on", f"{receipt.paid_at:%Y-%m-%d %H:%M} UTC"),
            ("Paid with", card if receipt.card_last4 else "Card"),
            ("Payment", receipt.payment_id),
            ("Account", str(receipt.user_id)),
            ("Top-up", str(receipt.topup_id)),
            ("For", receipt.description),
        ),
        lines=tuple(Amount(line.label, line.amount_micros) for line in receipt.lines),
        totals=(Amount("Total", receipt.net_micros),),
        foot=FOOT,
    )
