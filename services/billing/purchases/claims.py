"""Who works on an unfinished purchase, and when.

A worker claims a purchase for a while (a lease), makes its calls without any lock on the
row, and gives the claim back with the outcome. Whatever dies leaves a lease that runs out,
and the sweeper takes the purchase up again: ``due_at`` is always set while a purchase is
unfinished, and stands at the lease's end while somebody has it.

``try_owed_since`` says that a payment is to be tried. Taking a claim clears it; money that
comes meanwhile sets it again, and whoever gives the claim back sees it: no wake-up is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session, lazyload
from sqlalchemy.orm.attributes import set_committed_value

from chassis.locks import for_update, locked
from services.billing.models import HAS_WAITING, WAITING, PurchaseRow, StockReleaseRow

AWAITS_MONEY = HAS_WAITING
"""Whether :func:`mark_owed` would find any, as SQL over users named ``new``."""
RETRY_DELAY_MAX = timedelta(seconds=60)


@dataclass(frozen=True)
class Claim:
    """A claimed purchase, as its row was then. ``is_try_owed``: a payment is to be tried.

    ``is_new``: its writer has it, who has just heard of the catalog what there is. ``refusal``:
    what came of the first try instead of a payment, where it was made with others, ``asked_at``.
    """

    row: PurchaseRow
    claim_id: UUID
    is_try_owed: bool
    is_new: bool = False
    refusal: Exception | None = None
    asked_at: datetime | None = None

    @property
    def purchase_id(self) -> UUID:
        return self.row.purchase_id


def claim(session: Session, now: datetime, lease: timedelta, purchase_id: UUID) -> Claim | None:
    """Take this purchase, unless it has ended or somebody else works on it."""
    row = session.scalar(
        for_update(select(PurchaseRow).where(PurchaseRow.purchase_id == purchase_id, _is_free(now)))
    )
    return None if row is None else take(row, now, lease)


def claim_next(session: Session, now: datetime, lease: timedelta) -> Claim | None:
    """Take the purchase that has been due for longest, passing over what others work on."""
    row = session.scalar(
        for_update(
            select(PurchaseRow)
            .where(PurchaseRow.due_at <= now, _is_free(now))
            .order_by(PurchaseRow.due_at, PurchaseRow.purchase_id)
            .limit(1),
            skip_locked=True,
        )
    )
    return None if row is None else take(row, now, lease)


def next_at(session: Session) -> datetime | None:
    """When there is something to do next: a purchase, or stock that is to be put back."""
    due = select(func.min(PurchaseRow.due_at)).where(PurchaseRow.status.in_(WAITING))
    release = select(func.min(StockReleaseRow.requested_at))
    first: datetime | None = session.scalar(
        select(func.least(due.scalar_subquery(), release.scalar_subquery()))
    )
    return first


def take(row: PurchaseRow, now: datetime, lease: timedelta) -> Claim:
    """Mark a row, which the caller has locked or just made, as being worked on."""
    # A claim that nobody gave back is a try whose outcome is unknown.
    is_try_owed = row.try_owed_since is not None or row.claim_id is not None
    claim_id = uuid4()
    row.claim_id = claim_id
    row.claimed_until = now + lease
    row.due_at = row.claimed_until
    row.try_owed_since = None
    row.attempts += 1
    return Claim(row, claim_id, is_try_owed)


def give_back(row: PurchaseRow, due_at: datetime | None) -> None:
    """End the claim on a row that the caller has locked; ``due_at`` None ends the work on it.

    A try that came to be owed meanwhile makes it due at once.
    """
    row.claim_id = None
    row.claimed_until = None
    if due_at is not None and row.try_owed_since is not None:
        due_at = row.try_owed_since
    row.due_at = due_at


def postpone(session: Session, now: datetime, claimed: Claim) -> None:
    """Give the claim back undone, to be taken up again after 1, 2, 4 … 60 seconds.

    If the purchase was claimed by somebody else meanwhile, it stays theirs.
    """
    row = locked(session, PurchaseRow, claimed.purchase_id)
    if row.claim_id != claimed.claim_id:
        return
    delay = min(timedelta(seconds=2 ** min(row.attempts - 1, 10)), RETRY_DELAY_MAX)
    give_back(row, now + delay)
    if claimed.is_try_owed and row.try_owed_since is None:
        row.try_owed_since = row.due_at


def mark_owed(session: Session, now: datetime, user_id: UUID) -> Sequence[PurchaseRow]:
    """Money came, or may have: each waiting purchase of the user is owed a try. Those rows, which
    are held now, the oldest first."""
    rows = session.scalars(
        for_update(
            select(PurchaseRow)
            .where(PurchaseRow.user_id == user_id, PurchaseRow.status.in_(WAITING))
            .order_by(PurchaseRow.purchase_id)
            .options(lazyload(PurchaseRow.deployments))
        )
    ).all()
    for row in rows:
        # There are none of what is not paid.
        set_committed_value(row, "deployments", [])
        row.try_owed_since = now
        # One that somebody works on stays due at its lease's end, in case they never return.
        if row.claim_id is None:
            row.due_at = now
    return rows


def take_first(rows: Sequence[PurchaseRow], now: datetime, lease: timedelta) -> Claim | None:
    """Take the first of these rows, which the caller holds, that nobody works on."""
    free = (row for row in rows if row.claimed_until is None or row.claimed_until <= now)
    row = next(free, None)
    return None if row is None else take(row, now, lease)


def owed_purchases(session: Session, user_id: UUID) -> list[UUID]:
    """The user's purchases that are owed a try, oldest first."""
    return list(
        session.scalars(
            select(PurchaseRow.purchase_id)
            .where(
                PurchaseRow.user_id == user_id,
                PurchaseRow.status.in_(WAITING),
                PurchaseRow.try_owed_since.is_not(None),
            )
            .order_by(PurchaseRow.created_at, PurchaseRow.purchase_id)
        )
    )


def _is_free(now: datetime) -> ColumnElement[bool]:
    return PurchaseRow.status.in_(WAITING) & or_(
        PurchaseRow.claimed_until.is_(None), PurchaseRow.claimed_until <= now
    )
