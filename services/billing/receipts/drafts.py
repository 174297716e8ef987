"""A receipt that is not issued yet, made out to nobody."""

from datetime import datetime
from typing import Any

from chassis.papers.paper import contained_tax_micros
from contracts.billing import Receipt, ReceiptLine
from contracts.papers import BillingDetails
from services.billing.settings import BillingSettings


def draft(
    *, paid_at: datetime, lines: list[ReceiptLine], rules: BillingSettings, **subject: Any
) -> Receipt:
    """The receipt of these lines, with the seller and the tax of now."""
    total_micros = sum(line.amount_micros for line in lines)
    return Receipt(
        **subject,
        paid_at=paid_at,
        seller=list(rules.seller_lines),
        buyer=BillingDetails(),
        lines=lines,
        tax_bps=rules.tax_bps,
        tax_micros=contained_tax_micros(total_micros, rules.tax_bps),
        total_micros=total_micros,
        net_micros=total_micros,
    )
