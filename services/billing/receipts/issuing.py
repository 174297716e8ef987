"""Issuing a receipt: it gets the year's next number and is kept as it is.

That happens when it is first asked for, and not when something is paid: who buys waits for no
number. Whoever issues one holds the numbers until its row is committed. A transaction that is
rolled back takes its number along, and leaves no gap.
"""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import lock_until_commit
from contracts.billing import GetReceipt, IssueReceipt, PaidFor, Receipt
from contracts.errors import Conflict
from services.billing.models import ReceiptRow
from services.billing.receipts import usage
from services.billing.receipts.contents import drafted, with_refunds
from services.billing.settings import BillingSettings


def issue(session: Session, clock: Clock, command: IssueReceipt, rules: BillingSettings) -> Receipt:
    """The receipt, with a number from now on; the first one for what was issued before.

    Raises ``NotFound``, and ``Conflict`` where nothing was paid, or a month is not over.
    """
    draft = drafted(session, command, rules)
    if (known := _issued(session, draft)) is not None:
        return with_refunds(session, known)
    if draft.month is not None and clock() < (since := usage.issuable_from(draft.month)):
        raise Conflict(f"Its month is not over. It can be issued from {since:%Y-%m-%d %H:%M} UTC.")
    lock_until_commit(session, "receipts")
    # Who held them before may have issued this one.
    if (known := _issued(session, draft)) is not None:
        return with_refunds(session, known)
    now = clock()
    sequence = _last(session, now.year) + 1
    receipt = draft.model_copy(
        update={
            "number": f"{now.year}-{sequence:06}",
            "issued_at": now,
            "buyer": command.buyer,
        }
    )
    session.add(
        ReceiptRow(
            transaction_id=_kept_as(receipt),
            user_id=receipt.user_id,
            year=now.year,
            sequence=sequence,
            issued_at=now,
            content=receipt.model_dump(mode="json"),
        )
    )
    session.flush()
    crash_point("billing.receipt_numbered")
    return with_refunds(session, receipt)


def get(session: Session, command: GetReceipt, rules: BillingSettings) -> Receipt:
    """The receipt as it was issued, or a draft, each with what came back by now. Errors as
    above."""
    draft = drafted(session, command, rules)
    return with_refunds(session, _issued(session, draft) or draft)


def get_issued(session: Session, command: PaidFor, rules: BillingSettings) -> Receipt:
    """The receipt that was issued. Errors as above, and ``Conflict`` for a draft."""
    question = GetReceipt.model_validate(command.model_dump())
    receipt = get(session, question, rules)
    if receipt.number is None:
        raise Conflict("This receipt is not issued yet. Issue it first.")
    return receipt


def _kept_as(receipt: Receipt) -> UUID:
    """The transaction that paid it, or what stands in the place of those of a month."""
    if receipt.transaction_id is not None:
        return receipt.transaction_id
    return usage.statement_id(receipt.user_id, receipt.month or "")


def _issued(session: Session, draft: Receipt) -> Receipt | None:
    row = session.get(ReceiptRow, _kept_as(draft))
    return Receipt.model_validate(row.content) if row is not None else None


def _last(session: Session, year: int) -> int:
    return session.scalar(select(func.max(ReceiptRow.sequence)).where(ReceiptRow.year == year)) or 0
