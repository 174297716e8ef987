"""Everybody's top-ups and settings, for whoever counts them: analytics is rebuilt of them."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.cursors import page_by
from contracts.topup import (
    AutoTopupRecord,
    AutoTopupRecords,
    ExportAutoTopup,
    ExportTopups,
    ReversalRecord,
    TopupKind,
    TopupRecord,
    TopupRecords,
    TopupStatus,
)
from services.topup.models import AutoTopupSettings, Reversal, Topup

FAILED = (TopupStatus.FAILED, TopupStatus.ACTION_REQUIRED)
"""What became of a top-up of which ``topup_failed`` was said last."""


def export_topups(session: Session, request: ExportTopups) -> TopupRecords:
    """A page, in the order in which they were made."""
    query = select(Topup).where(Topup.paid_at.is_not(None) | Topup.status.in_(FAILED))
    page, next_cursor = page_by(session, query, Topup.topup_id, request.cursor, request.limit)
    reversals = _reversals(session, page)
    return TopupRecords(
        records=[
            TopupRecord(
                topup_id=topup.topup_id,
                user_id=topup.user_id,
                kind=TopupKind(topup.kind),
                amount_micros=topup.amount_micros,
                paid_at=topup.paid_at,
                # It moved last when it failed.
                failed_at=topup.updated_at if topup.paid_at is None else None,
                failure_code=topup.failure_code,
                reversals=reversals[topup.topup_id],
            )
            for topup in page
        ],
        next_cursor=next_cursor,
    )


def _reversals(session: Session, page: Sequence[Topup]) -> dict[UUID, list[ReversalRecord]]:
    found: dict[UUID, list[ReversalRecord]] = defaultdict(list)
    wanted = [topup.topup_id for topup in page]
    for row in session.scalars(select(Reversal).where(Reversal.topup_id.in_(wanted))):
        found[row.topup_id].append(
            ReversalRecord(
                reversal_id=row.reversal_id,
                amount_micros=row.amount_micros,
                taken_at=row.taken_at,
                restored_at=row.restored_at,
            )
        )
    return found


def export_auto_topup(session: Session, request: ExportAutoTopup) -> AutoTopupRecords:
    """A page, in the order of the users' ids. Who never switched it on has no version."""
    query = select(AutoTopupSettings).where(AutoTopupSettings.settings_version > 0)
    page, next_cursor = page_by(
        session, query, AutoTopupSettings.user_id, request.cursor, request.limit
    )
    return AutoTopupRecords(
        records=[
            AutoTopupRecord(
                user_id=settings.user_id,
                settings_version=settings.settings_version,
                is_on=settings.is_enabled,
                changed_at=settings.updated_at,
            )
            for settings in page
        ],
        next_cursor=next_cursor,
    )
