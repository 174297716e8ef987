"""A payment whose top-up is not there, as after a restore to a moment before it, gets it back.

The processor's metadata name the top-up and its owner, and the wallet knows whether it was
credited, under the top-up's own key. So it is credited if it was not, and never twice.
"""

from datetime import UTC, datetime
from uuid import UUID

from chassis.money import from_cents
from contracts.keys import topup_key
from contracts.topup import TopupKind, TopupStatus
from services.topup import topups
from services.topup.charging import outcomes, reversals
from services.topup.models import Topup
from services.topup.processor import Object
from services.topup.till import Till
from services.topup.wallet_questions import Entry


def adopt(till: Till, payment_id: str) -> Topup | None:
    """Make the top-up of a payment anew; None where it is there, or the payment is none of ours.

    What went back of the payment is recorded in either case: the last time may have ended between
    the two. Whether it was automatic nobody knows any more: it counts as one by hand. Raises
    ``ProcessorError``, ``Overtaken``, and the errors of a wallet that does not answer.
    """
    payment = till.processor.get_payment(payment_id)
    topup_id, user_id = outcomes.topup_id_of(payment), _owner_of(payment)
    if topup_id is None or user_id is None or payment["status"] != "succeeded":
        return None
    topup = _restore(till, topup_id, user_id, payment)
    # Of most nothing did: the processor is asked once for each, and not three times.
    if outcomes.refunded_cents(payment):
        reversals.take_refunds(till, payment_id)
    return topup


def take_back(till: Till, source_id: str) -> None:
    """Record a refund or dispute of which nothing is known any more, as the processor has it.

    Raises ``ProcessorError``, ``Overtaken``.
    """
    for movement in till.processor.movements_of(source_id)[:1]:
        source = movement["source"]
        if source["object"] == "dispute":
            reversals.take_dispute(till, source_id)
        else:
            reversals.take_refunds(till, source["payment_intent"])


def _restore(till: Till, topup_id: UUID, user_id: UUID, payment: Object) -> Topup | None:
    entry = till.wallet.entry(topup_key(topup_id))
    with till.database.begin() as session:
        topups.lock_user(session, user_id)
        if session.get(Topup, topup_id) is not None:
            return None
        topup = _made_anew(topup_id, user_id, payment, till.clock())
        session.add(topup)
        session.flush()
        if entry is None:
            outcomes.record(session, till.policy, topup_id, payment, till.clock())
        else:
            _was_credited(till, topup, payment, entry)
    return topup


def _owner_of(payment: Object) -> UUID | None:
    try:
        return UUID(payment["metadata"].get("user_id", ""))
    except ValueError:
        return None


def _made_anew(topup_id: UUID, user_id: UUID, payment: Object, now: datetime) -> Topup:
    amount_micros = from_cents(payment["amount_received"])
    key = f"adopted:{payment['id']}"
    topup = topups.new(user_id, TopupKind.MANUAL, amount_micros, key, now)
    topup.topup_id = topup_id
    topup.status = TopupStatus.PROCESSING
    topup.customer_id = payment["customer"]
    topup.created_at = topup.sent_at = datetime.fromtimestamp(payment["created"], UTC)
    return topup


def _was_credited(till: Till, topup: Topup, payment: Object, entry: Entry) -> None:
    """The wallet has it already: nobody is told again."""
    now = till.clock()
    outcomes.remember_payment(topup, payment)
    topups.move(topup, TopupStatus.PAID, now)
    topups.move(topup, TopupStatus.CREDITED, now)
    topup.paid_at = topup.created_at
    topup.seller = list(till.policy.seller)
    topup.credited_at = entry.recorded_at
