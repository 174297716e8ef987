from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from chassis.database import Connected
from contracts.billing import PurchaseStatus
from contracts.messages import Event
from contracts.topup import (
    AutoTopupPaused,
    AutoTopupRefused,
    AutoTopupResumed,
    AutoTopupSettingsChanged,
    RefusalCode,
    TopupFailed,
    TopupKind,
    Trigger,
)
from services.billing.models import PurchaseRow, RunwayRow
from services.billing.purchases import lifecycle, refusals
from services.billing.service import BillingService
from tests.billing.conftest import NOW, RULES, recorded

SILENT = {RefusalCode.IN_FLIGHT, RefusalCode.CARD_PAGE_OPEN, RefusalCode.NOT_NEEDED}
TOLD = sorted(set(RefusalCode) - SILENT)


def waiting_purchase(database: Connected, user_id: UUID) -> UUID:
    claimed = recorded(database, user_id=user_id)
    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, 0, NOW, RULES)
    return claimed.purchase_id


def told(
    database: Connected, purchase_id: UUID, tell: Callable[[Session], object]
) -> tuple[str, str, str]:
    """The purchase's status, code and reason after something was said about it."""
    with database.begin() as session:
        tell(session)
    with database.read() as session:
        row = session.get_one(PurchaseRow, purchase_id)
        return row.status, row.status_code, row.status_reason


def failure(user_id: UUID, code: str = "card_declined", message: str = "Declined.") -> TopupFailed:
    return TopupFailed(
        event_id=uuid4(),
        occurred_at=NOW,
        user_id=user_id,
        topup_id=uuid4(),
        kind=TopupKind.AUTO,
        amount_micros=25_000_000,
        failure_code=code,
        message=message,
    )


def refusal(user_id: UUID, code: RefusalCode) -> AutoTopupRefused:
    return AutoTopupRefused(
        event_id=uuid4(),
        occurred_at=NOW,
        user_id=user_id,
        refusal_code=code,
        reason="A reason.",
        trigger=Trigger.PURCHASE,
    )


def test_a_declined_card_is_told_and_the_purchase_keeps_waiting(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = waiting_purchase(database, user_id)

    outcome = told(
        database,
        purchase_id,
        lambda session: refusals.explain_failure(session, failure(user_id)),
    )

    assert outcome == (PurchaseStatus.AWAITING_FUNDS, "card_declined", "Declined.")


class Hearing(BillingService):
    """The service, which hears events one by one; whose purchases it tries again is noted."""

    def __init__(self, database: Connected) -> None:
        self.database: Any = database
        self.tried: list[UUID] = []

    def _checkout(self) -> Any:
        return SimpleNamespace(
            rules=RULES, settle_user=lambda user_id, *_: self.tried.append(user_id)
        )

    def looks_at(self, user_id: UUID) -> bool:
        """Whether it is about to look how long this user's credits last."""
        with self.database.read() as session:
            row = session.get(RunwayRow, user_id)
            return row is not None and row.due_at is not None


def told_by(event: Event) -> Any:
    return event.model_dump(mode="json")


def test_what_is_told_of_a_declined_card_comes_to_the_purchase(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = waiting_purchase(database, user_id)

    Hearing(database).explain_failed_topup(told_by(failure(user_id)))

    with database.read() as session:
        assert session.get_one(PurchaseRow, purchase_id).status_code == "card_declined"


@pytest.mark.parametrize(
    ("code", "is_tried"), [(RefusalCode.NOT_NEEDED, True), (RefusalCode.DAILY_LIMIT, False)]
)
def test_who_has_enough_after_all_is_tried_again_and_nobody_else(
    database: Connected, code: RefusalCode, is_tried: bool
) -> None:
    before, user_id, after = uuid4(), uuid4(), uuid4()
    for each in (before, user_id, after):
        waiting_purchase(database, each)
    billing = Hearing(database)

    billing.explain_refused_topup(told_by(refusal(user_id, code)))
    billing.explain_refused_topup(told_by(refusal(uuid4(), code)))  # who waits for nothing

    assert billing.tried == ([user_id] if is_tried else [])


def test_a_pause_is_told_and_makes_billing_look_ahead(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = waiting_purchase(database, user_id)
    billing = Hearing(database)
    paused = AutoTopupPaused(
        event_id=uuid4(), occurred_at=NOW, user_id=user_id, code="card_expired", reason="Expired."
    )

    billing.explain_paused_topup(told_by(paused))

    with database.read() as session:
        assert session.get_one(PurchaseRow, purchase_id).status_code == "card_expired"
    assert billing.looks_at(user_id)


def test_other_settings_make_billing_look_ahead(database: Connected) -> None:
    user_id = uuid4()
    billing = Hearing(database)
    changed = AutoTopupSettingsChanged(
        event_id=uuid4(),
        occurred_at=NOW,
        user_id=user_id,
        settings_version=1,
        threshold_micros=None,
    )

    billing.see_topup_changed(told_by(changed))

    assert (billing.looks_at(user_id), billing.looks_at(uuid4())) == (True, False)


def test_who_was_warned_is_looked_at_when_auto_topup_goes_on(database: Connected) -> None:
    user_id = uuid4()
    billing = Hearing(database)
    with database.begin() as session:
        session.add(RunwayRow(user_id=user_id, warned_days=3))
    resumed = AutoTopupResumed(
        event_id=uuid4(), occurred_at=NOW, user_id=user_id, reason="A card was added."
    )

    billing.see_topup_resumed(told_by(resumed))

    assert billing.looks_at(user_id)


def test_a_failure_without_words_is_given_some(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = waiting_purchase(database, user_id)

    _, code, reason = told(
        database,
        purchase_id,
        lambda session: refusals.explain_failure(session, failure(user_id, code="", message="")),
    )

    assert (code, bool(reason)) == ("topup_failed", True)


def test_somebody_elses_declined_card_is_not_told(database: Connected) -> None:
    purchase_id = waiting_purchase(database, uuid4())

    _, code, _ = told(
        database,
        purchase_id,
        lambda session: refusals.explain_failure(session, failure(uuid4())),
    )

    assert code == ""


@pytest.mark.parametrize("code", TOLD)
def test_a_refused_top_up_is_told(database: Connected, code: RefusalCode) -> None:
    user_id = uuid4()
    purchase_id = waiting_purchase(database, user_id)

    outcome = told(
        database,
        purchase_id,
        lambda session: refusals.explain_refusal(session, refusal(user_id, code)),
    )

    assert outcome == (PurchaseStatus.AWAITING_FUNDS, code, "A reason.")


@pytest.mark.parametrize("code_of_it", [RefusalCode.IN_FLIGHT, RefusalCode.CARD_PAGE_OPEN])
def test_a_payment_on_its_way_is_no_bad_news(database: Connected, code_of_it: RefusalCode) -> None:
    user_id = uuid4()
    purchase_id = waiting_purchase(database, user_id)

    _, code, _ = told(
        database,
        purchase_id,
        lambda session: refusals.explain_refusal(session, refusal(user_id, code_of_it)),
    )

    assert code == ""


def test_a_top_up_that_is_not_needed_means_that_the_purchase_can_be_tried(
    database: Connected,
) -> None:
    user_id = uuid4()
    waiting_purchase(database, user_id)

    with database.begin() as session:
        is_enough = refusals.explain_refusal(session, refusal(user_id, RefusalCode.NOT_NEEDED))

    assert is_enough


def test_a_pause_is_told(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = waiting_purchase(database, user_id)
    pause = AutoTopupPaused(
        event_id=uuid4(),
        occurred_at=NOW,
        user_id=user_id,
        code="authentication_required",
        reason="Confirm the payment.",
    )

    outcome = told(database, purchase_id, lambda session: refusals.explain_pause(session, pause))

    assert outcome == (
        PurchaseStatus.AWAITING_FUNDS,
        "authentication_required",
        "Confirm the payment.",
    )
