"""What pages about credits ask of this service, in one question.

Hardly anybody who looks at a page has all of it. What somebody has is found in one look, with
those who ask at the same moment; only that is read.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from contracts.topup import (
    AutoTopupStatus,
    GetTopupOverview,
    ListPaymentMethods,
    ListTopups,
    PaymentMethodList,
    TopupOverview,
    TopupPage,
)
from services.topup import topups
from services.topup.automatic import terms
from services.topup.cards import saved_cards
from services.topup.charging import checkout
from services.topup.till import Till

_HAS = Bulk(
    "SELECT new.user_id, settings.user_id IS NOT NULL AS settings,"
    " EXISTS (SELECT FROM cards WHERE user_id = new.user_id AND removed_at IS NULL) AS cards,"
    " EXISTS (SELECT FROM topups WHERE user_id = new.user_id) AS topups,"
    " EXISTS (SELECT FROM card_setups WHERE user_id = new.user_id AND done_at IS NULL) AS setups,"
    " coalesce((SELECT is_stopped FROM operator_switch WHERE id = 1), false) AS is_stopped"
    " FROM {rows} LEFT JOIN auto_topup_settings AS settings ON settings.user_id = new.user_id",
    user_id="uuid",
)


def auto_topup(till: Till, user_id: UUID) -> AutoTopupStatus:
    """How auto top-up stands: see :func:`terms.status`."""
    has = till.database.answer(_what_they_have, user_id)
    if not has.settings:
        return terms.never_set(till.policy, is_stopped=has.is_stopped)
    with till.database.read() as session:
        return terms.status(session, user_id, till.policy, till.clock())


def overview(till: Till, request: GetTopupOverview) -> TopupOverview:
    """See :class:`contracts.topup.GetTopupOverview`."""
    user_id, now = request.user_id, till.clock()
    has = till.database.answer(_what_they_have, user_id)
    if has.setups:
        checkout.refresh_setups(till, user_id)
        has = till.database.answer(_what_they_have, user_id)
    found = TopupOverview(
        auto_topup=terms.never_set(till.policy, is_stopped=has.is_stopped),
        payment_methods=PaymentMethodList(payment_methods=[]),
        topups=TopupPage(topups=[]),
    )
    if not (has.settings or has.cards or has.topups):
        return found
    with till.database.read() as session:
        if has.settings:
            status = terms.status(session, user_id, till.policy, now)
            found = found.model_copy(update={"auto_topup": status})
        if has.cards:
            cards = saved_cards.page(session, ListPaymentMethods(user_id=user_id), now)
            found = found.model_copy(update={"payment_methods": cards})
        if has.topups:
            newest = topups.page(session, ListTopups(user_id=user_id, limit=request.topups))
            paid = topups.paid_count(session, user_id)
            found = found.model_copy(update={"topups": newest, "paid_topups": paid})
    return found


def _what_they_have(session: Session, users: Sequence[UUID]) -> list[Any]:
    found = {row.user_id: row for row in _HAS.execute(session, [(each,) for each in set(users)])}
    return [found[user_id] for user_id in users]
