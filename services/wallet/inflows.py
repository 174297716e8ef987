"""Where money came into wallets, for an audit: how much, to whom, and who had it made."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from contracts.wallet import CreditPage, ListCredits, MadeCredit
from services.wallet import chain

PAGE_SIZE = 5_000
"""So many transactions are looked through for one page."""

# A house account's side has no running balance.
_CREDITS = text(
    "SELECT t.transaction_id, a.user_id, t.kind, e.amount_micros, t.caller, t.description,"
    " t.metadata, t.recorded_at, EXISTS (SELECT FROM adjustments AS approved"
    "  WHERE approved.transaction_id = t.transaction_id) OR EXISTS (SELECT FROM promotions AS given"
    "  WHERE given.transaction_id = t.transaction_id) AS is_approved"
    " FROM transactions AS t"
    " JOIN entries AS e ON e.transaction_id = t.transaction_id"
    " AND e.balance_after_micros IS NOT NULL"
    " JOIN accounts AS a ON a.account_id = e.account_id"
    " WHERE t.position > :after AND t.position <= :until"
    " AND t.correction IS DISTINCT FROM 'refund'"
    " AND t.correction IS DISTINCT FROM 'chosen_refund'"
    " AND (t.kind = 'adjustment' OR (e.amount_micros > 0 AND EXISTS (SELECT FROM entries AS house"
    " WHERE house.transaction_id = t.transaction_id AND house.balance_after_micros IS NULL"
    " AND house.amount_micros < 0)))"
    " ORDER BY t.position"
)


def page(session: Session, request: ListCredits) -> CreditPage:
    """A page of credits. Below the head of the chain no transaction is still on its way."""
    sealed = chain.head(session).position
    after = min(request.after_position, sealed)
    until = min(after + PAGE_SIZE, sealed)
    rows = session.execute(_CREDITS, {"after": after, "until": until}).mappings()
    return CreditPage(
        credits=[MadeCredit.model_validate(dict(row)) for row in rows],
        next_position=until,
        is_last=until == sealed,
    )
