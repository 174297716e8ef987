"""What finance has to know of a dispute: why, until when evidence is taken, what was handed in.

Of the processor's words, ``has_evidence`` counts drafts as well, ``past_due`` is about the last
evidence that was handed in and not about the time that has passed, and a ``due_by`` of 0 says that
the bank takes none.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import case
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.money import from_cents
from services.topup.automatic import disputes
from services.topup.models import Dispute, Topup
from services.topup.processor import CURRENCY, Object


def keep(session: Session, topup: Topup, dispute: Object, asked_at: datetime) -> bool:
    """Keep what a dispute is; False if the answer to a later question was kept, and differs."""
    told = _told(topup, dispute)
    closed_at = asked_at if dispute["status"] in disputes.CLOSED else None
    statement = insert(Dispute).values(
        dispute_id=dispute["id"], closed_at=closed_at, asked_at=asked_at, **told
    )
    new = statement.excluded
    is_kept = session.scalar(
        statement.on_conflict_do_update(
            index_elements=[Dispute.dispute_id],
            set_={
                **{name: new[name] for name in told},
                "closed_at": case(
                    (Dispute.status == new.status, Dispute.closed_at), else_=new.closed_at
                ),
                "asked_at": new.asked_at,
            },
            where=Dispute.asked_at <= new.asked_at,
        ).returning(Dispute.dispute_id)
    )
    if is_kept is not None:
        return True
    kept = session.get_one(Dispute, dispute["id"], populate_existing=True)
    return all(getattr(kept, name) == value for name, value in told.items())


def _told(topup: Topup, dispute: Object) -> dict[str, Any]:
    evidence = dispute["evidence_details"]
    return {
        "topup_id": topup.topup_id,
        "user_id": topup.user_id,
        "amount_micros": from_cents(dispute["amount"]),
        "fee_micros": _fee_micros(dispute["balance_transactions"]),
        "status": dispute["status"],
        "reason": dispute["reason"],
        "network_reason_code": dispute.get("network_reason_code") or "",
        "due_at": _moment(evidence["due_by"]) if evidence.get("due_by") else None,
        "has_evidence": evidence["has_evidence"],
        "submission_count": evidence["submission_count"],
        "was_submitted_late": evidence["past_due"],
        "opened_at": _moment(dispute["created"]),
    }


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _fee_micros(movements: list[Object]) -> int | None:
    """What it cost so far; None where no money moved, or that of another currency."""
    if not movements or any(move["currency"] != CURRENCY for move in movements):
        return None
    return sum(from_cents(move["fee"]) for move in movements)
