"""The books as finance reads them: a trial balance, and a journal by day."""

from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from contracts.errors import BadRequest
from contracts.wallet import Books, GetJournal, HouseAccount, HouseBalance, Journal, JournalLine
from services.wallet.book import accounts
from services.wallet.finance import verifying
from services.wallet.models import HOUSE_ACCOUNT_IDS

NEGATIVE_MAX = 100
VERIFICATIONS = 5
JOURNAL_DAYS_MAX = 31

_WALLETS = text(
    "SELECT count(*) AS wallet_count, coalesce(sum(balance_micros), 0)::bigint AS balance_micros,"
    " coalesce(sum(held_micros), 0)::bigint AS held_micros FROM balances"
)
_NEGATIVE = text(
    "SELECT account_id FROM balances WHERE balance_micros < 0 ORDER BY balance_micros LIMIT :limit"
)
_JOURNAL = text(
    "SELECT (t.recorded_at AT TIME ZONE 'UTC')::date AS day, a.house_name AS account, t.kind,"
    " count(DISTINCT t.transaction_id) AS transaction_count,"
    " coalesce(sum(e.amount_micros) FILTER (WHERE e.amount_micros > 0), 0)::bigint"
    " AS received_micros,"
    " coalesce(-sum(e.amount_micros) FILTER (WHERE e.amount_micros < 0), 0)::bigint AS given_micros"
    " FROM transactions AS t JOIN entries AS e ON e.transaction_id = t.transaction_id"
    " AND e.account_id < 1000 JOIN accounts AS a ON a.account_id = e.account_id"
    " WHERE t.recorded_at >= :since AND t.recorded_at < :until"
    " GROUP BY 1, e.account_id, 2, 3 ORDER BY 1, e.account_id, 3"
)


def books(session: Session, now: datetime) -> Books:
    """What every account comes to at one moment: ``session`` is a snapshot."""
    house = verifying.house_now(session)
    wallets = session.execute(_WALLETS).one()
    negative = session.scalars(_NEGATIVE, {"limit": NEGATIVE_MAX}).all()
    found = {each.account_id: each.wallet() for each in accounts.read_all(session, negative)}
    return Books(
        at=now,
        house=[
            HouseBalance(account=account, balance_micros=house.get(account_id, 0))
            for account, account_id in HOUSE_ACCOUNT_IDS.items()
        ],
        wallet_count=wallets.wallet_count,
        wallets_micros=wallets.balance_micros,
        held_micros=wallets.held_micros,
        difference_micros=sum(house.values()) + wallets.balance_micros,
        negative=[found[account_id] for account_id in negative],
        verifications=verifying.newest(session, VERIFICATIONS),
    )


def journal(session: Session, request: GetJournal) -> Journal:
    """Raises ``BadRequest`` for no day, or more than 31."""
    if not timedelta(0) < request.until - request.since <= timedelta(days=JOURNAL_DAYS_MAX):
        raise BadRequest(f"until: 1 to {JOURNAL_DAYS_MAX} days after since.", "until")
    rows = session.execute(_JOURNAL, {"since": request.since, "until": request.until})
    return Journal(
        lines=[
            JournalLine.model_validate({**row, "account": HouseAccount(row["account"])})
            for row in rows.mappings()
        ]
    )
