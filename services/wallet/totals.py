"""Totals by kind and day, for analytics."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from contracts.errors import BadRequest
from contracts.wallet import DayTotal, Totals, TotalsReport

LONGEST = timedelta(days=400)

# Users' sides only: a house account's side mirrors them.
_TOTALS = text(
    "SELECT (t.recorded_at AT TIME ZONE 'UTC')::date AS day, e.kind,"
    " count(DISTINCT t.transaction_id) AS transaction_count,"
    " coalesce(sum(e.amount_micros) FILTER (WHERE e.amount_micros > 0), 0)::bigint"
    " AS credited_micros,"
    " coalesce(-sum(e.amount_micros) FILTER (WHERE e.amount_micros < 0), 0)::bigint"
    " AS debited_micros"
    " FROM transactions AS t JOIN entries AS e ON e.transaction_id = t.transaction_id"
    " AND e.balance_after_micros IS NOT NULL"
    " WHERE t.recorded_at >= :since AND t.recorded_at < :until"
    " GROUP BY 1, 2 ORDER BY 1, 2"
)


def report(session: Session, request: Totals) -> TotalsReport:
    """What each kind came to on each day. Raises ``BadRequest`` for more than 400 days."""
    if not timedelta(0) < request.until - request.since <= LONGEST:
        raise BadRequest("until: at least a moment and at most 400 days after since.", "until")
    rows = session.execute(_TOTALS, {"since": request.since, "until": request.until})
    return TotalsReport(days=[DayTotal.model_validate(dict(row)) for row in rows.mappings()])
