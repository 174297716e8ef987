"""Promotional credit: somebody of the house gives it, and what is left of it goes back at its end.

What is left is told by the entries (:mod:`services.wallet.book.promotions`). At its end all of that
which is available goes back to ``promotions`` in one transaction. What a hold ties up then is
looked at again until that ends: what is captured was spent, what is released goes back. So does
what comes back later of a payment that it was spent on. Each look is made under the lock of the
wallet, and writes down when the next one is due together with what it took.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.bulk import Bulk, array
from chassis.database import Connected, is_held, is_lost, lock_until_commit
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from contracts.errors import BadRequest, Conflict, IdempotencyConflict
from contracts.keys import lapsed_key, promotion_key
from contracts.wallet import Expiring, GivePromotion, Promotion, Promotions, Transaction
from services.wallet import ledger, statements
from services.wallet.book import accounts
from services.wallet.book import promotions as book
from services.wallet.book.accounts import Account
from services.wallet.rules.promotional import Grant, Lapse

log = logging.getLogger(__name__)

LASTS_MAX = timedelta(days=366)
OPEN_MAX = 20
"""So many grants of a wallet may not have ended: each look reads them all."""
LOOKS_AGAIN = timedelta(minutes=1)
"""At what a hold ties up."""
TRIES_AGAIN = timedelta(hours=1)
"""What failed, so that it does not take the time of the others each minute."""
BATCH_SIZE = 500

_BY_KEY = text("SELECT * FROM promotions WHERE given_key = :key")
_GIVE = text(
    "INSERT INTO promotions (promotion_id, account_id, amount_micros, reason, given_by, given_at,"
    " expires_at, transaction_id, entry_number, due_at, takes, given_key, given_hash)"
    " SELECT :promotion_id, account_id, amount_micros, :reason, :given_by, :now, :expires_at,"
    " transaction_id, entry_number, :expires_at, 0, :key, :hash FROM entries"
    " WHERE transaction_id = :transaction_id AND account_id >= 1000 RETURNING *"
)
_OPEN = text(
    "SELECT count(*) FROM promotions AS p JOIN accounts AS a USING (account_id)"
    " WHERE a.user_id = :user_id AND p.due_at IS NOT NULL"
)
_HAVE_OPEN = Bulk(
    "SELECT new.user_id, account_id, EXISTS (SELECT FROM promotions AS p"
    " WHERE p.account_id = a.account_id AND p.due_at IS NOT NULL) AS has_open"
    " FROM {rows} JOIN accounts AS a ON a.user_id = new.user_id",
    user_id="uuid",
)
_WITH_OPEN = text(
    "SELECT DISTINCT account_id FROM promotions"
    " WHERE account_id = ANY(CAST(:ids AS bigint[])) AND due_at IS NOT NULL"
)
_DUE = text(
    "SELECT p.promotion_id, a.user_id FROM promotions AS p JOIN accounts AS a USING (account_id)"
    " WHERE p.due_at <= :now ORDER BY p.due_at, p.promotion_id LIMIT :limit"
)
_DUE_AND_TAKES = text("SELECT due_at, takes FROM promotions WHERE promotion_id = :promotion_id")
_LOOKED = text(
    "UPDATE promotions SET takes = :takes, due_at = :due_at WHERE promotion_id = :promotion_id"
)
_DEFER = text(
    "UPDATE promotions SET due_at = :due_at WHERE promotion_id = :promotion_id AND due_at <= :now"
)


def give(session: Session, now: datetime, command: GivePromotion, max_micros: int) -> Promotion:
    """Raises ``NotFound`` (no wallet), ``BadRequest`` (a bound), and ``Conflict`` (one's own
    wallet, one below zero, or too many)."""
    lock_until_commit(session, f"wallet.promotions:{command.idempotency_key}")
    earlier = session.execute(_BY_KEY, {"key": command.idempotency_key}).one_or_none()
    if earlier is not None:
        if bytes(earlier.given_hash) != request_hash(command):
            raise IdempotencyConflict(
                "This idempotency key was used before, with other arguments; nothing was given."
            )
        said = {**earlier._mapping, "left_micros": earlier.amount_micros}  # noqa: SLF001
        return Promotion.model_validate({**said, "replayed": True})
    _require_bounds(now, command, max_micros)
    statements.get_wallet(session, command.user_id)
    promotion_id = new_id()
    posting = Grant(
        idempotency_key=promotion_key(promotion_id),
        user_id=command.user_id,
        promotion_id=promotion_id,
        amount_micros=command.amount_micros,
        description=f"Promotional credit until {command.expires_at:%Y-%m-%d}",
    )
    posted = ledger.post_one(session, now, posting)
    if not isinstance(posted, Transaction):
        raise TypeError(f"a grant made a {type(posted).__name__}")
    # The wallet is locked by now.
    if session.scalar(_OPEN, {"user_id": command.user_id}) >= OPEN_MAX:
        raise Conflict(f"This wallet has {OPEN_MAX} promotions that have not ended. Nothing moved.")
    row = session.execute(
        _GIVE,
        {
            **command.model_dump(include={"reason", "given_by", "expires_at"}),
            "promotion_id": promotion_id,
            "transaction_id": posted.transaction_id,
            "now": now,
            "key": command.idempotency_key,
            "hash": request_hash(command),
        },
    ).one()
    said = {**row._mapping, "left_micros": row.amount_micros}  # noqa: SLF001
    return Promotion.model_validate(said)


def _require_bounds(now: datetime, command: GivePromotion, max_micros: int) -> None:
    if command.given_by == command.user_id:
        raise Conflict("You can't give yourself credit: ask a colleague. Nothing was changed.")
    if command.amount_micros > max_micros:
        raise BadRequest(
            f"amount_micros: at most {max_micros} at once; finance can propose an adjustment.",
            "amount_micros",
        )
    if not timedelta(0) < command.expires_at - now <= LASTS_MAX:
        raise BadRequest(
            f"expires_at: after now, and at most {LASTS_MAX.days} days ahead.", "expires_at"
        )


def of_users(session: Session, users: Sequence[UUID]) -> list[Promotions | Exception]:
    """What is left of each user's, the one that is spent first first; ``NotFound`` of who has no
    wallet."""
    # Hardly anybody has any, and what there is takes all entries since.
    accounts_of = {
        row.user_id: row for row in _HAVE_OPEN.execute(session, [(u,) for u in set(users)])
    }
    having = [row.account_id for row in accounts_of.values() if row.has_open]
    found = book.load(session, having) if having else {}
    answers: list[Promotions | Exception] = []
    for user_id in users:
        if user_id not in accounts_of:
            answers.append(statements.nobodys())
            continue
        told = found.get(accounts_of[user_id].account_id)
        left = [grant for grant in told.grants if grant.left_micros] if told else []
        answers.append(
            Promotions(
                promotions=[Promotion.model_validate(grant, from_attributes=True) for grant in left]
            )
        )
    return answers


def expiring(session: Session, found: Mapping[UUID, Account]) -> list[Expiring]:
    """What is promotional in these users' wallets, and when it ends."""
    ids = {account.account_id: user_id for user_id, account in found.items()}
    having = session.scalars(_WITH_OPEN, {"ids": array("bigint", ids)}).all() if ids else []
    return [
        Expiring(
            user_id=ids[account_id], left_micros=grant.left_micros, expires_at=grant.expires_at
        )
        for account_id, told in (book.load(session, having) if having else {}).items()
        for grant in told.grants
        if grant.left_micros
    ]


def sweep(database: Connected, now: datetime) -> None:
    """Look at every grant that is due. One whose wallet somebody else holds waits for the next
    time, one at which the look fails for longer, and the others do not wait for it."""
    with database.read() as session:
        due = session.execute(_DUE, {"now": now, "limit": BATCH_SIZE}).all()
    for promotion_id, user_id in due:
        try:
            with database.begin() as session:
                _look(session, now, promotion_id, user_id)
        except Exception as error:
            if is_lost(error):
                raise
            if is_held(error):
                log.warning(
                    "a promotion waits: its wallet is held", extra={"id": f"{promotion_id}"}
                )
                continue
            log.exception("a promotion could not be looked at", extra={"id": f"{promotion_id}"})
            later = {"promotion_id": promotion_id, "now": now, "due_at": now + TRIES_AGAIN}
            with database.begin() as session:
                session.execute(_DEFER, later)


def _look(session: Session, now: datetime, promotion_id: UUID, user_id: UUID) -> None:
    account = accounts.lock(session, user_id)
    which = {"promotion_id": promotion_id}
    due_at, takes = session.execute(_DUE_AND_TAKES, which).one()
    if due_at is None or due_at > now:
        return  # Somebody else was faster.
    left = book.load(session, [account.account_id])[account.account_id].of(promotion_id)
    taken = min(left, max(account.available_micros, 0))
    if taken:
        lapse = Lapse(
            idempotency_key=lapsed_key(promotion_id, takes + 1),
            user_id=user_id,
            promotion_id=promotion_id,
            amount_micros=taken,
        )
        ledger.post_one(session, now, lapse)
    looked = {
        "takes": takes + bool(taken),
        "due_at": now + LOOKS_AGAIN if taken < left else None,
    }
    session.execute(_LOOKED, {**which, **looked})
