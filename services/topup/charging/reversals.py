"""Reversals: money that goes back to a card, by a refund or a dispute, and sometimes returns.

Each refund and each dispute has its effect once, under its own id; one that gave the money back
and takes it again, as an appeal may, has it under a second one. Amounts are taken from the
refund itself, never from a charge's running total. A dispute's ``created`` and
``funds_withdrawn`` are the same dispute.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.money import format_usd, from_cents
from chassis.outbox import publish
from contracts.topup import TopupRestored, TopupReversed
from services.topup.automatic import disputes, pauses
from services.topup.charging import card_refunds, dispute_records, outcomes
from services.topup.models import AutoTopupSettings, Reversal, Topup
from services.topup.processor import Object
from services.topup.till import Till

log = logging.getLogger(__name__)

REFUND_TAKES = ("pending", "requires_action", "succeeded")
REFUND_RETURNS = ("failed", "canceled")


class Overtaken(Exception):
    """The answer may be older than the one that was recorded last: the processor is asked anew."""


def take_refunds(till: Till, payment_id: str) -> None:
    """Record every refund of a payment. Raises ``ProcessorError``, :class:`Overtaken`."""
    topup, is_credited = _topup_of(till, payment_id)
    if topup is None or not is_credited:
        return
    asked_at = till.clock()
    refunds = till.processor.refunds_of(payment_id)
    with till.database.begin() as session:
        record(session, topup.topup_id, refunds[::-1], is_dispute=False, now=asked_at)


def take_dispute(till: Till, dispute_id: str) -> None:
    """Record a dispute as it is now. Raises ``ProcessorError``, :class:`Overtaken`."""
    asked_at = till.clock()
    dispute = till.processor.get_dispute(dispute_id)
    topup, is_credited = _topup_of(till, dispute["payment_intent"])
    if topup is None:
        return
    if is_credited:
        with till.database.begin() as session:
            record(session, topup.topup_id, [dispute], is_dispute=True, now=asked_at)
    # By itself: what cannot be kept of the evidence keeps no money from being taken back.
    with till.database.begin() as session:
        if not dispute_records.keep(session, topup, dispute, asked_at):
            raise Overtaken(f"{dispute_id} was asked about again and was another")


def _topup_of(till: Till, payment_id: str | None) -> tuple[Topup | None, bool]:
    """The top-up of a payment, and whether its credit is this payment; recorded first, for its own
    news may come later.

    Nothing is to be taken back where nothing was credited: the payment is of another kind or of no
    user of ours, the second one of its top-up, or does not agree with it.
    """
    topup = None
    if payment_id is not None:
        payment = till.processor.get_payment(payment_id)
        topup = outcomes.record_payment(till, payment)
        if topup is not None and outcomes.is_paid_with(topup, payment):
            return topup, True
    log.warning(
        "a refund or dispute is of a payment that was never credited", extra={"payment": payment_id}
    )
    return topup, False


def record(
    session: Session, topup_id: UUID, sources: list[Object], *, is_dispute: bool, now: datetime
) -> None:
    """Take the credit of each source back, or give it back again; each once.

    ``now`` is when the processor was asked for the sources. Raises :class:`Overtaken`.
    """
    settings, topup = outcomes.lock_both(session, topup_id)
    earlier = takes_of(session, [source["id"] for source in sources])
    unchanged = []
    for source in sources:
        takes = earlier[source["id"]]
        if takes and takes[-1].status == source["status"]:
            unchanged.append(takes[-1].reversal_id)
        else:
            _change(session, settings, topup, source, takes, is_dispute, now)
            card_refunds.follow(session, source, now)
    session.execute(
        update(Reversal)
        .where(Reversal.reversal_id.in_(unchanged), Reversal.asked_at < now)
        .values(asked_at=now)
        .execution_options(synchronize_session=False)
    )


def _change(
    session: Session,
    settings: AutoTopupSettings | None,
    topup: Topup,
    source: Object,
    earlier: list[Reversal],
    is_dispute: bool,
    now: datetime,
) -> None:
    """A refund or dispute is new, or has another status than the last time."""
    takes, returns = (
        (disputes.TAKES, disputes.RETURNS) if is_dispute else (REFUND_TAKES, REFUND_RETURNS)
    )
    reversal = earlier[-1] if earlier else None
    if reversal is not None and now < reversal.asked_at:
        raise Overtaken(f"{source['id']} was asked about again since it was {source['status']}")
    if source["status"] in takes and (reversal is None or reversal.restored_at is not None):
        again = f":{len(earlier) + 1}" if earlier else ""
        reversal = _take(session, topup, source, again, is_dispute, now)
        if is_dispute and settings is not None:
            pauses.pause(session, settings, pauses.DISPUTE, disputes.REASON, now)
    if reversal is None:
        return
    reversal.status = source["status"]
    reversal.asked_at = now
    if source["status"] in returns and reversal.restored_at is None:
        _restore(session, reversal, source, now)
        if is_dispute and settings is not None:
            pauses.dispute_closed(session, settings, now)


def takes_of(session: Session, source_ids: list[str]) -> dict[str, list[Reversal]]:
    """Each time that each of these refunds or disputes took the money, oldest first."""
    found: dict[str, list[Reversal]] = defaultdict(list)
    for reversal in session.scalars(
        select(Reversal)
        .where(Reversal.source_id.in_(source_ids))
        .order_by(Reversal.taken_at, Reversal.reversal_id)
    ):
        found[reversal.source_id].append(reversal)
    return found


def _take(
    session: Session, topup: Topup, source: Object, again: str, is_dispute: bool, now: datetime
) -> Reversal:
    amount_micros = from_cents(source["amount"])
    reversal = Reversal(
        reversal_id=f"{source['id']}{again}",
        source_id=source["id"],
        topup_id=topup.topup_id,
        user_id=topup.user_id,
        amount_micros=amount_micros,
        is_dispute=is_dispute,
        status=source["status"],
        asked_at=now,
        taken_at=now,
    )
    session.add(reversal)
    asked_for = card_refunds.named_by(session, source)
    what = "disputed with the bank" if is_dispute else "refunded to the card"
    publish(
        session,
        TopupReversed(
            event_id=new_id(),
            occurred_at=now,
            user_id=topup.user_id,
            topup_id=topup.topup_id,
            reversal_id=reversal.reversal_id,
            amount_micros=amount_micros,
            is_dispute=is_dispute,
            description=f"{format_usd(amount_micros)} {what}",
            refund_id=asked_for.refund_id if asked_for else None,
            hold_id=asked_for.hold_id if asked_for else None,
        ),
    )
    return reversal


def _restore(session: Session, reversal: Reversal, source: Object, now: datetime) -> None:
    reversal.restored_at = now
    asked_for = card_refunds.named_by(session, source)
    what = "The dispute was won" if reversal.is_dispute else "The refund failed"
    publish(
        session,
        TopupRestored(
            event_id=new_id(),
            occurred_at=now,
            user_id=reversal.user_id,
            topup_id=reversal.topup_id,
            reversal_id=reversal.reversal_id,
            amount_micros=reversal.amount_micros,
            is_dispute=reversal.is_dispute,
            description=f"{what}: {format_usd(reversal.amount_micros)} returned",
            refund_id=asked_for.refund_id if asked_for else None,
        ),
    )


def of_topup(session: Session, topup_id: UUID) -> list[Reversal]:
    """What went back of a top-up, oldest first."""
    return list(
        session.scalars(
            select(Reversal).where(Reversal.topup_id == topup_id).order_by(Reversal.taken_at)
        )
    )


def taken_micros(session: Session, topup_ids: Iterable[UUID]) -> Counter[UUID]:
    """What went back of each top-up and has not returned."""
    rows = session.execute(
        select(Reversal.topup_id, func.sum(Reversal.amount_micros))
        .where(Reversal.topup_id.in_(topup_ids), Reversal.restored_at.is_(None))
        .group_by(Reversal.topup_id)
    )
    return Counter({topup_id: int(micros) for topup_id, micros in rows})
