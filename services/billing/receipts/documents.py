"""A receipt as a document."""

import base64

from chassis.papers.paper import Amount, Paper, percent
from contracts.billing import Receipt, RenderedReceipt

FOOT = "All amounts in US dollars, paid with Mycelium credits. Times are UTC."


def rendered(receipt: Receipt) -> RenderedReceipt:
    """An issued receipt as a PDF, and the name under which it is saved."""
    from chassis.papers.drawing import pdf

    document = base64.b64encode(pdf(paper(receipt))).decode()
    return RenderedReceipt(file_name=f"receipt-{receipt.number}.pdf", pdf_base64=document)


def paper(receipt: Receipt) -> Paper:
    """What stands on it. A refund is a line of its own below the total, which stays what it was."""
    issued_at = receipt.issued_at or receipt.paid_at
    facts = [("Issued on", f"{issued_at:%Y-%m-%d}"), ("Account", str(receipt.user_id))]
    if receipt.month is not None:
        facts.insert(1, ("Usage paid in", f"{receipt.month} (UTC)"))
    else:
        facts.insert(1, ("Paid on", f"{receipt.paid_at:%Y-%m-%d %H:%M} UTC"))
    named = (
        ("Transaction", receipt.transaction_id),
        ("Purchase", receipt.purchase_id),
        ("Deployment", receipt.deployment_id),
    )
    facts += [(label, str(identifier)) for label, identifier in named if identifier is not None]
    return Paper(
        title=f"Receipt {receipt.number}",
        made_at=issued_at,
        seller=tuple(receipt.seller),
        buyer=receipt.buyer.printed,
        facts=tuple(facts),
        lines=tuple(Amount(line.label, line.amount_micros, line.detail) for line in receipt.lines),
        totals=tuple(_totals(receipt)),
        foot=FOOT,
    )


def _totals(receipt: Receipt) -> list[Amount]:
    tax = f"Tax ({percent(receipt.tax_bps)}), included"
    totals = [Amount(tax, receipt.tax_micros), Amount("Total", receipt.total_micros)]
    if receipt.refunds:
        totals += [Amount(line.label, line.amount_micros) for line in receipt.refunds]
        totals.append(Amount("Remaining", receipt.net_micros))
    return totals
