"""What roles have other services do: for pages and the API alike, each with its rows in the log.

Each raises what the service raises. Where no answer comes the act has no outcome, and the same may
be asked again: a refund with the same key is made once, and the other commands say what is to be.
"""

from datetime import datetime
from uuid import UUID

from contracts import operating
from contracts.billing import (
    GetPurchase,
    ListPayouts,
    MarkPayoutPaid,
    Payout,
    Purchase,
    RefundPurchase,
    RefusePayout,
)
from contracts.errors import BadRequest, NotFound
from contracts.operating import DiscardDeadLetter, ReplayDeadLetter
from contracts.topup import GetOperatorSwitch, OperatorSwitch, SetOperatorSwitch
from contracts.wallet import (
    Adjustment,
    AskVerification,
    DecideAdjustment,
    GivePromotion,
    Promotion,
    ProposeAdjustment,
    Verification,
)
from services.gateway.backend import call
from services.gateway.staff import desk
from services.gateway.staff.acts import Actor, Known
from services.gateway.staff.elsewhere import carry_out
from services.gateway.staff.guard import Staff

CHARGES = "automatic charges"
PROMOTION = "promotion.give"


def stop_charges(actor: Actor, reason: str) -> None:
    """Stop all automatic charges at once."""
    _turn(actor, "charges.stop", reason, is_stopped=True)


def release_charges(actor: Actor, reason: str) -> None:
    """Let them go out again."""
    _turn(actor, "charges.release", reason, is_stopped=False)


def _turn(actor: Actor, action: str, reason: str, *, is_stopped: bool) -> None:
    before = _known(call(GetOperatorSwitch()))
    turned = SetOperatorSwitch(is_stopped=is_stopped, reason=reason, changed_by=str(actor.user_id))
    carry_out(actor, action, CHARGES, reason, before, turned, _known)


def _known(switch: OperatorSwitch) -> Known:
    return {"is_stopped": switch.is_stopped, "reason": switch.reason, "by": switch.changed_by}


def refund(
    actor: Actor, user_id: UUID, purchase_id: UUID, line: int | None, key: str, reason: str
) -> int:
    """Give a user's purchase back, or one line of it; what of it is refunded by now. Raises
    ``NotFound`` for another's."""
    purchase = call(GetPurchase(user_id=user_id, purchase_id=purchase_id))
    before = {"purchase_id": str(purchase_id), "refunded_micros": purchase.refunded_micros}
    if line is not None:
        before["line"] = line

    command = RefundPurchase(
        idempotency_key=key,
        purchase_id=purchase_id,
        line=line,
        reason=reason,
        actor=str(actor.user_id),
    )

    def known(refunded: Purchase) -> Known:
        return {"refunded_micros": refunded.refunded_micros}

    return carry_out(
        actor, "purchase.refund", str(user_id), reason, before, command, known
    ).refunded_micros


def replay(actor: Actor, service: str, message: str, reason: str) -> int:
    """Give a dead letter back to the queue that it came from; how many there were with this id.
    Raises ``NotFound``."""
    return _with_letter(actor, "dead_letter.replay", service, message, reason)


def discard(actor: Actor, service: str, message: str, reason: str) -> int:
    """Drop a dead letter for good; how many there were with this id. Raises ``NotFound``."""
    return _with_letter(actor, "dead_letter.discard", service, message, reason)


def _with_letter(actor: Actor, action: str, service: str, message: str, reason: str) -> int:
    is_replay = action == "dead_letter.replay"
    request = operating.of(service, ReplayDeadLetter if is_replay else DiscardDeadLetter)
    letters = call(operating.of(service, operating.GetDeadLetters)(limit=200)).letters
    letter = next((letter for letter in letters if letter.message == message), None)
    if letter is None:
        raise NotFound("It is not among the 200 oldest dead letters of this service: look again.")
    # Of what went wrong its kind alone: the sentence may quote what is somebody's, and stays.
    kind = letter.error.partition(":")[0][:80]
    before = {"queue": letter.queue, "attempts": letter.attempts, "error": kind}
    count: int = carry_out(
        actor,
        action,
        f"{service} {message}",
        reason,
        before,
        request(message=message),
        lambda done: {"count": done.count},
    ).count
    return count


def propose(staff: Staff, user_id: UUID, amount_micros: int, key: str, reason: str) -> Adjustment:
    """Propose to correct a wallet, up (positive) or down; a colleague decides."""
    command = ProposeAdjustment(
        idempotency_key=key,
        user_id=user_id,
        amount_micros=amount_micros,
        reason=reason,
        proposed_by=staff.user.user_id,
    )
    said = {"amount_micros": amount_micros}
    return carry_out(
        staff.actor(), "adjustment.propose", str(user_id), reason, said, command, _of_adjustment
    )


def decide(
    staff: Staff, adjustment_id: UUID, *, is_approved: bool, key: str, reason: str
) -> Adjustment:
    """Approve what a colleague proposed, which posts it at once, or reject it."""
    command = DecideAdjustment(
        idempotency_key=key,
        adjustment_id=adjustment_id,
        decided_by=staff.user.user_id,
        is_approved=is_approved,
        reason=reason,
    )
    action = f"adjustment.{'approve' if is_approved else 'reject'}"
    said = {"status": "proposed"}
    return carry_out(
        staff.actor(), action, str(adjustment_id), reason, said, command, _of_adjustment
    )


def give(
    staff: Staff, user_id: UUID, amount_micros: int, expires_at: datetime, key: str, reason: str
) -> Promotion:
    """Give promotional credit. Raises a ``BadRequest`` that names ``amount`` or ``last_day``."""
    command = GivePromotion(
        idempotency_key=key,
        user_id=user_id,
        amount_micros=amount_micros,
        reason=reason,
        expires_at=expires_at,
        given_by=staff.user.user_id,
    )
    # By the key the same is known again, after an answer that was lost.
    said = {"amount_micros": amount_micros, "expires_at": expires_at.isoformat(), "key": key}

    def known(made: Promotion) -> Known:
        return {"promotion_id": str(made.promotion_id)}

    try:
        return carry_out(staff.actor(), PROMOTION, str(user_id), reason, said, command, known)
    except BadRequest as error:
        if error.field not in _PROMOTION_BOUNDS:
            raise
        field, sentence = _PROMOTION_BOUNDS[error.field]
        raise BadRequest(sentence, field) from None


_PROMOTION_BOUNDS = {
    "amount_micros": ("amount", "So much is not given at once: propose an adjustment."),
    "expires_at": ("last_day", "The last day is today or later, within a year."),
}


def payout_of_another(staff: Staff, payout_id: UUID) -> Payout:
    """A payout that this person may close. Raises ``NotFound``, and ``Conflict`` for one's own."""
    found = call(ListPayouts(payout_id=payout_id)).payouts
    if not found:
        raise NotFound("There is no such payout.")
    desk.require_another(staff.actor(), found[0].user_id)
    return found[0]


def pay(staff: Staff, payout: Payout, reference: str, key: str, reason: str) -> Payout:
    """Say that the :func:`payout_of_another` was sent, and by which ``reference`` it is found.
    Raises ``Conflict`` for what is not held."""
    command = MarkPayoutPaid(
        idempotency_key=key,
        payout_id=payout.payout_id,
        reference=reference,
        actor=str(staff.user.user_id),
    )
    return _close(staff, "payout.pay", payout, command, reason)


def refuse(staff: Staff, payout: Payout, key: str, reason: str) -> Payout:
    """Send no payout: it is free again, and whose it is is told the reason. As :func:`pay`."""
    command = RefusePayout(
        idempotency_key=key,
        payout_id=payout.payout_id,
        reason=reason,
        actor=str(staff.user.user_id),
    )
    return _close(staff, "payout.refuse", payout, command, reason)


def _close(
    staff: Staff,
    action: str,
    payout: Payout,
    command: MarkPayoutPaid | RefusePayout,
    reason: str,
) -> Payout:
    said = {"payout_id": str(payout.payout_id), "amount_micros": payout.amount_micros}
    return carry_out(
        staff.actor(), action, str(payout.user_id), reason, said, command, lambda done: {
            "status": done.status.value, "reference": done.reference
        },
    )  # fmt: skip


def verify(staff: Staff, key: str, reason: str) -> Verification:
    """Have the ledger verified soon."""
    command = AskVerification(idempotency_key=key, asked_by=staff.user.user_id)

    def known(asked: Verification) -> Known:
        return {"verification_id": str(asked.verification_id)}

    return carry_out(staff.actor(), "ledger.verify", "ledger", reason, {}, command, known)


def _of_adjustment(adjustment: Adjustment) -> Known:
    return {
        "adjustment_id": str(adjustment.adjustment_id),
        "user_id": str(adjustment.user_id),
        "amount_micros": adjustment.amount_micros,
        "proposed_by": str(adjustment.proposed_by),
        "status": adjustment.status.value,
        "transaction_id": str(adjustment.transaction_id or ""),
    }
