"""Problems: what an operator should look at, gathered from where it is recorded.

    python -m services.topup.problems

prints them, the oldest first, and exits with 1 when there are any, with 2 when the database
could not be read.
"""

import sys
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import connect
from chassis.metrics import Gauge
from contracts.topup import Problem, ProblemList, TopupStatus
from services.topup.automatic import disputes
from services.topup.charging import card_refunds
from services.topup.models import CardRefundRow, Difference, Notice, Reversal, Topup
from services.topup.settings import get_settings

STUCK_AFTER = timedelta(minutes=10)
UNDONE_AFTER = timedelta(minutes=10)
RECENT = timedelta(days=7)
PRINTED_MAX = 1_000
UNREADABLE = 2
GAUGES = {
    "open": Gauge(
        "Top-ups that somebody looks at until their end, by state; one that is unknown may have"
        " been charged.",
        "SELECT status, count(*) FROM topups WHERE next_look_at IS NOT NULL GROUP BY status",
        "status",
    ),
    "oldest_unknown_seconds": Gauge(
        "For how long it has not been known what became of a top-up.",
        "SELECT extract(epoch FROM :now - min(updated_at)) FROM topups"
        " WHERE next_look_at IS NOT NULL AND status = 'unknown'",
    ),
    "oldest_uncredited_seconds": Gauge(
        "For how long a top-up that was paid has not been credited by the wallet.",
        "SELECT extract(epoch FROM :now - min(paid_at)) FROM topups"
        " WHERE next_look_at IS NOT NULL AND status = 'paid'",
    ),
    "automatic_charges_stopped": Gauge(
        "Whether an operator has stopped all automatic charges.",
        "SELECT count(*) FROM operator_switch WHERE is_stopped",
    ),
}
WORK = {
    "topups": "next_look_at FROM topups WHERE next_look_at IS NOT NULL",
    "triggers": "due_at FROM triggers WHERE due_at IS NOT NULL",
    "notices": "next_try_at FROM notices WHERE next_try_at IS NOT NULL",
    "card_refunds": "due_at FROM card_refunds WHERE due_at IS NOT NULL",
}


def listed(session: Session, now: datetime, limit: int) -> ProblemList:
    """The oldest first."""
    found = [
        *_flagged(session, limit),
        *_stuck(session, now, limit),
        *_failed(session, now, limit),
        *_refunds(session, now, limit),
        *_disputes(session, limit),
        *_notices(session, now, limit),
        *_differences(session, limit),
    ]
    found.sort(key=lambda problem: problem.since)
    return ProblemList(problems=found[:limit])


def _of_topup(topup: Topup, code: str, message: str) -> Problem:
    return Problem(
        code=code,
        topup_id=topup.topup_id,
        user_id=topup.user_id,
        payment_id=topup.payment_id or "",
        amount_micros=topup.amount_micros,
        message=message,
        since=topup.updated_at,
    )


def _flagged(session: Session, limit: int) -> list[Problem]:
    rows = session.scalars(select(Topup).where(Topup.problem != "").limit(limit))
    return [_of_topup(topup, "payment_flagged", topup.problem) for topup in rows]


def _stuck(session: Session, now: datetime, limit: int) -> list[Problem]:
    rows = session.scalars(
        select(Topup)
        .where(
            Topup.status.in_((TopupStatus.UNKNOWN, TopupStatus.PAID)),
            Topup.updated_at < now - STUCK_AFTER,
        )
        .limit(limit)
    )
    return [
        _of_topup(
            topup,
            f"stuck_{topup.status}",
            "Paid, but not credited by the wallet."
            if topup.status == TopupStatus.PAID
            else "The card processor has not said what became of it.",
        )
        for topup in rows
    ]


def _failed(session: Session, now: datetime, limit: int) -> list[Problem]:
    rows = session.scalars(
        select(Topup)
        .where(Topup.status == TopupStatus.FAILED, Topup.updated_at > now - RECENT)
        .order_by(Topup.updated_at.desc())
        .limit(limit)
    )
    return [
        _of_topup(topup, "topup_failed", f"{topup.failure_code}: {topup.failure_message}")
        for topup in rows
    ]


def _refunds(session: Session, now: datetime, limit: int) -> list[Problem]:
    rows = session.scalars(
        select(CardRefundRow)
        .where(
            CardRefundRow.status.in_(card_refunds.BEING_MADE),
            CardRefundRow.updated_at < now - STUCK_AFTER,
        )
        .limit(limit)
    )
    return [
        Problem(
            code="stuck_refund",
            topup_id=row.topup_id,
            user_id=row.user_id,
            payment_id=row.payment_id,
            amount_micros=-row.amount_micros,
            message=f"A refund to the card is {row.status}, and nobody answers.",
            since=row.created_at,
        )
        for row in rows
    ]


def _disputes(session: Session, limit: int) -> list[Problem]:
    rows = session.scalars(
        select(Reversal)
        .where(Reversal.is_dispute, Reversal.status.in_(disputes.UNDECIDED))
        .limit(limit)
    )
    return [
        Problem(
            code="dispute_open",
            topup_id=reversal.topup_id,
            user_id=reversal.user_id,
            payment_id=reversal.source_id,
            amount_micros=-reversal.amount_micros,
            message=f"A dispute is open: {reversal.status}.",
            since=reversal.taken_at,
        )
        for reversal in rows
    ]


def _notices(session: Session, now: datetime, limit: int) -> list[Problem]:
    rows = session.scalars(
        select(Notice)
        .where(Notice.processed_at.is_(None), Notice.received_at < now - UNDONE_AFTER)
        .order_by(Notice.received_at)
        .limit(limit)
    )
    return [
        Problem(
            code="notice_given_up" if notice.given_up_at else "notice_undone",
            user_id=notice.user_id,
            payment_id=notice.object_id,
            message=f"{notice.type} {notice.event_id}: {notice.last_error or 'not worked off'}",
            since=notice.received_at,
        )
        for notice in rows
    ]


def _differences(session: Session, limit: int) -> list[Problem]:
    rows = session.scalars(select(Difference).where(Difference.gone_at.is_(None)).limit(limit))
    return [
        Problem(
            code=row.code,
            topup_id=row.topup_id,
            user_id=row.user_id,
            payment_id=row.payment_id,
            amount_micros=row.amount_micros,
            message=row.message,
            since=row.occurred_at,
        )
        for row in rows
    ]


def report(found: list[Problem], now: datetime) -> str:
    """One line for each problem, with its age."""
    lines = [
        line(
            now - item.since, item.code, str(item.topup_id or item.payment_id or "-"), item.message
        )
        for item in found
    ]
    return "\n".join(lines) or "There are no problems."


def line(age: timedelta, code: str, reference: str, message: str) -> str:
    """What an operator reads of one thing that is wrong; the age as ``5h``, ``3d 2h``."""
    hours = int(age.total_seconds() // 3_600)
    age_text = f"{hours // 24}d {hours % 24}h" if hours >= 24 else f"{hours}h"
    return f"{age_text:>8}  {code:<24} {reference:<40} {message}"


def main() -> int:
    """See the head of this file."""
    now = utc_now()
    database = connect(get_settings().database_url, pool_size=1)
    try:
        with database.read() as session:
            found = listed(session, now, PRINTED_MAX).problems
    except SQLAlchemyError as error:
        print(f"The database could not be read: {error}", file=sys.stderr)
        return UNREADABLE
    print(report(found, now))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
