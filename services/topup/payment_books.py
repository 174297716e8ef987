"""What finance reads of payments: disputes, stuck top-ups, and differences of the books."""

from datetime import datetime
from typing import Any

from sqlalchemy import case, exists, select
from sqlalchemy.orm import Session

from contracts.topup import (
    BookDifference,
    ComparedDays,
    Consent,
    ConsentBehind,
    DisputeDetails,
    DisputeRecord,
    GetConsent,
    GetPaymentBooks,
    PaymentBooks,
    StuckTopup,
    TopupKind,
    TopupStatus,
)
from services.topup import models, topups
from services.topup.automatic import disputes
from services.topup.charging import reversals
from services.topup.models import Comparison, Difference, Dispute, Reversal, Topup
from services.topup.problems import STUCK_AFTER
from services.topup.settings import TopupSettings

DASHBOARD = "https://dashboard.stripe.com"


def look(
    session: Session, now: datetime, request: GetPaymentBooks, dashboard: str = ""
) -> PaymentBooks:
    """See :class:`contracts.topup.GetPaymentBooks`; ``dashboard`` is :func:`dashboard_of`."""
    differences = select(Difference).order_by(
        Difference.gone_at.desc().nulls_first(), Difference.occurred_at
    )
    compared = select(Comparison).order_by(Comparison.compared_at.desc())

    def rows(query: Any) -> list[Any]:
        return list(session.scalars(query.limit(request.limit)))

    return PaymentBooks(
        disputes=_disputes(session, now, request.limit, dashboard),
        stuck=[_stuck(row) for row in rows(_stuck_ones(now))],
        differences=[
            BookDifference.model_validate(row, from_attributes=True) for row in rows(differences)
        ],
        comparisons=[
            ComparedDays.model_validate(row, from_attributes=True) for row in rows(compared)
        ],
    )


def consent_behind(session: Session, request: GetConsent) -> ConsentBehind:
    """What they had agreed to last when it was begun. Raises ``NotFound``."""
    topup = topups.get(session, request.user_id, request.topup_id)
    if topup.kind != TopupKind.AUTO:
        return ConsentBehind(consent=None)
    row = session.scalars(
        select(models.Consent)
        .where(
            models.Consent.user_id == request.user_id,
            models.Consent.agreed_at <= topup.created_at,
        )
        .order_by(models.Consent.agreed_at.desc())
        .limit(1)
    ).one()
    said = {name: getattr(row, name) for name in ("version", "text", "agreed_at", "client_address")}
    terms = {name: row.terms[name] for name in Consent.model_fields if name in row.terms}
    return ConsentBehind(consent=Consent(**said, **terms))


def dashboard_of(settings: TopupSettings) -> str:
    """Where the processor shows its disputes to people; empty for the sandbox, which does not."""
    if settings.stripe_api_base:
        return ""
    return (
        f"{DASHBOARD}/disputes/"
        if "_live_" in settings.stripe_api_key
        else f"{DASHBOARD}/test/disputes/"
    )


def _disputes(session: Session, now: datetime, limit: int, dashboard: str) -> list[DisputeRecord]:
    """By the next deadline; then what is too late, what has no known deadline, what is decided."""
    is_awaited = Dispute.status.in_(disputes.AWAITS_EVIDENCE)
    turn = case(
        (is_awaited & (Dispute.due_at >= now), NEXT),
        (is_awaited & (Dispute.due_at < now), TOO_LATE),
        (Dispute.closed_at.is_(None), OPEN),
        else_=DECIDED,
    )
    soonest = case((turn == NEXT, Dispute.due_at))
    known = session.execute(
        select(Dispute, turn)
        .order_by(turn, soonest, Dispute.opened_at.desc(), Dispute.dispute_id)
        .limit(limit)
    ).all()
    takes = reversals.takes_of(session, [row.dispute_id for row, _ in known])
    told = [(turn, _told(row, now, takes[row.dispute_id], dashboard)) for row, turn in known]
    told += [
        (OPEN if row.status in disputes.UNDECIDED else DECIDED, _from_before(row, dashboard))
        for row in session.scalars(_without_details().limit(limit))
    ]
    # Sorting keeps the order of those whose turn is the same.
    return [record for _, record in sorted(told, key=lambda each: each[0])][:limit]


NEXT, TOO_LATE, OPEN, DECIDED = range(4)


def _without_details() -> Any:
    """Disputes of which nothing was heard since their details are kept."""
    return (
        select(Reversal)
        .where(Reversal.is_dispute, ~exists().where(Dispute.dispute_id == Reversal.source_id))
        .order_by(
            Reversal.status.in_(disputes.UNDECIDED).desc(),
            Reversal.taken_at.desc(),
            Reversal.reversal_id,
        )
    )


def _told(row: Dispute, now: datetime, takes: list[Reversal], dashboard: str) -> DisputeRecord:
    taken = takes[-1] if takes else None
    is_awaited = row.status in disputes.AWAITS_EVIDENCE
    return DisputeRecord(
        dispute_id=row.dispute_id,
        topup_id=row.topup_id,
        user_id=row.user_id,
        amount_micros=row.amount_micros,
        status=row.status,
        taken_at=taken.taken_at if taken else None,
        asked_at=row.asked_at,
        restored_at=taken.restored_at if taken else None,
        details=DisputeDetails(
            reason=row.reason,
            network_reason_code=row.network_reason_code,
            fee_micros=row.fee_micros,
            due_at=row.due_at,
            is_past_due=is_awaited and row.due_at is not None and row.due_at < now,
            has_evidence=row.has_evidence,
            submission_count=row.submission_count,
            was_submitted_late=row.was_submitted_late,
            opened_at=row.opened_at,
            closed_at=row.closed_at,
        ),
        url=_page(row.dispute_id, dashboard),
    )


def _from_before(row: Reversal, dashboard: str) -> DisputeRecord:
    return DisputeRecord(
        dispute_id=row.source_id,
        topup_id=row.topup_id,
        user_id=row.user_id,
        amount_micros=row.amount_micros,
        status=row.status,
        taken_at=row.taken_at,
        asked_at=row.asked_at,
        restored_at=row.restored_at,
        url=_page(row.source_id, dashboard),
    )


def _page(dispute_id: str, dashboard: str) -> str:
    return f"{dashboard}{dispute_id}" if dashboard else ""


def _stuck_ones(now: datetime) -> Any:
    """Those that somebody flagged, and those of which nothing was heard for a while."""
    waits = (TopupStatus.UNKNOWN, TopupStatus.PAID)
    is_late = Topup.status.in_(waits) & (Topup.updated_at < now - STUCK_AFTER)
    return select(Topup).where(is_late | (Topup.problem != "")).order_by(Topup.updated_at)


def _stuck(row: Topup) -> StuckTopup:
    return StuckTopup(
        topup_id=row.topup_id,
        user_id=row.user_id,
        kind=TopupKind(row.kind),
        amount_micros=row.amount_micros,
        status=TopupStatus(row.status),
        payment_id=row.payment_id or "",
        problem=row.problem,
        looks=row.looks,
        next_look_at=row.next_look_at,
        sent_at=row.sent_at,
        changed_at=row.updated_at,
    )
