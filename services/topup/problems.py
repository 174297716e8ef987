"""Problems: what an operator should look at, gathered from where it is recorded."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts.topup import Problem, ProblemList, TopupStatus
from services.topup.models import Difference, Notice, Reversal, Topup

STUCK_AFTER = timedelta(minutes=10)
UNDONE_AFTER = timedelta(minutes=10)
OPEN_DISPUTES = ("needs_response", "under_review", "warning_needs_response")
RECENT = timedelta(days=7)


def listed(session: Session, now: datetime, limit: int) -> ProblemList:
    """The oldest first."""
    found = [
        *_flagged(session, limit),
        *_stuck(session, now, limit),
        *_failed(session, now, limit),
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


def _disputes(session: Session, limit: int) -> list[Problem]:
    rows = session.scalars(
        select(Reversal).where(Reversal.is_dispute, Reversal.status.in_(OPEN_DISPUTES)).limit(limit)
    )
    return [
        Problem(
            code="dispute_open",
            topup_id=reversal.topup_id,
            user_id=reversal.user_id,
            payment_id=reversal.reversal_id,
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
        .limit(limit)
    )
    return [
        Problem(
            code="notice_undone",
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
