"""What is left of a top-up: the oldest credit is spent first."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import array
from contracts.keys import topup_key
from contracts.wallet import GetUnusedTopups, UnusedTopup, UnusedTopups
from services.wallet import statements
from services.wallet.book import promotions

# What a later entry stands for tells whether it uses up a top-up. ``root`` is the number of the
# credit that it is or takes from, and 0 for what was spent, and for what of that was given back.
# What was promotional is left out of both: it is spent before any top-up, and is none.
# So a gift that came after a top-up has a later root, also where it is reversed, and a top-up that
# went back to its card has that of its own credit.
_LEFT = text(
    "WITH mine AS (SELECT account_id FROM accounts WHERE user_id = :user_id),"
    " promotional AS (SELECT * FROM unnest(CAST(:numbers AS bigint[]), CAST(:changes AS bigint[]))"
    "  AS p (entry_number, micros)),"
    " topups AS (SELECT k.idempotency_key, e.account_id, e.entry_number, e.amount_micros,"
    "  e.balance_after_micros - coalesce((SELECT sum(micros) FROM promotional AS p"
    "   WHERE p.entry_number <= e.entry_number), 0) AS balance_after_micros FROM keys AS k"
    "  JOIN entries AS e ON e.transaction_id = k.transaction_id AND e.account_id = k.account_id"
    "  WHERE k.idempotency_key = ANY(CAST(:keys AS text[]))"
    "  AND e.account_id = (SELECT account_id FROM mine)),"
    " since AS (SELECT e.entry_number,"
    "  e.amount_micros - coalesce(p.micros, 0) AS amount_micros, CASE"
    "   WHEN taken.idempotency_key IS NOT NULL THEN coalesce(credit.entry_number, 0)"
    "   WHEN origin.amount_micros > 0 THEN origin.entry_number ELSE 0 END AS root"
    "  FROM entries AS e"
    "  JOIN transactions AS t ON t.transaction_id = e.transaction_id"
    "  JOIN transactions AS original"
    "   ON original.transaction_id = coalesce(t.corrects_transaction_id, t.transaction_id)"
    "  LEFT JOIN promotional AS p ON p.entry_number = e.entry_number"
    "  LEFT JOIN entries AS origin ON origin.transaction_id = original.transaction_id"
    "   AND origin.account_id = e.account_id"
    "   AND (origin.amount_micros > 0) = ((e.amount_micros > 0)"
    "    = (t.corrects_transaction_id IS NULL))"
    "  LEFT JOIN keys AS taken ON taken.transaction_id = original.transaction_id"
    "   AND taken.idempotency_key = 'reversal:' || (original.metadata ->> 'reversal_id')"
    "  LEFT JOIN keys AS paid"
    "   ON paid.idempotency_key = 'topup:' || (original.metadata ->> 'topup_id')"
    "  LEFT JOIN entries AS credit ON credit.transaction_id = paid.transaction_id"
    "   AND credit.account_id = paid.account_id"
    "  WHERE e.account_id = (SELECT account_id FROM mine)"
    "  AND e.entry_number > (SELECT min(entry_number) FROM topups))"
    " SELECT topups.idempotency_key, greatest(least(topups.amount_micros"
    "  + coalesce(sum(since.amount_micros) FILTER (WHERE since.root = topups.entry_number), 0),"
    "  topups.balance_after_micros + coalesce(sum(since.amount_micros), 0)), 0)::bigint AS left"
    " FROM topups LEFT JOIN since ON since.entry_number > topups.entry_number"
    "  AND since.root <= topups.entry_number"
    " GROUP BY topups.idempotency_key, topups.amount_micros, topups.balance_after_micros"
)


def unused(session: Session, request: GetUnusedTopups) -> UnusedTopups:
    """See :class:`contracts.wallet.GetUnusedTopups`. Raises ``NotFound``."""
    wallet = statements.get_wallet(session, request.user_id)
    keys = [topup_key(topup_id) for topup_id in request.topup_ids]
    promotional = promotions.history(session, wallet.account_id)
    asked = {
        "user_id": request.user_id,
        "keys": array("text", keys),
        "numbers": array("bigint", promotional),
        "changes": array("bigint", promotional.values()),
    }
    rows = session.execute(_LEFT, asked)
    left: dict[str, int] = {row.idempotency_key: row.left for row in rows}
    return UnusedTopups(
        topups=[
            UnusedTopup(topup_id=topup_id, unused_micros=left.get(topup_key(topup_id), 0))
            for topup_id in request.topup_ids
        ],
        available_micros=wallet.available_micros,
        status=wallet.status,
    )
