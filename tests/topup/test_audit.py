"""The audit of credits: money that no top-up and no approved person made is found at once."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from chassis.client import RpcClient
from chassis.identifiers import new_id
from chassis.metrics import exposition
from contracts import legacy
from contracts.wallet import Credit, MadeCredit, TransactionKind
from services.topup import audit, problems, reconcile
from services.topup.models import Difference, Reversal
from services.topup.wallet_questions import WalletQuestions
from tests.conftest import StackFactory
from tests.patience import eventually
from tests.topup.conftest import USD, Customer, Desk

APPROVED = ("alice",)


@pytest.fixture
def desk_with_audit(desk: Desk) -> Desk:
    """The first look was made, before anything came into a wallet."""
    audit.look(desk.till, APPROVED)
    return desk


def credited(desk: Desk, user_id: UUID, **fields: Any) -> MadeCredit:
    made = MadeCredit.model_validate(
        {
            "transaction_id": new_id(),
            "user_id": user_id,
            "kind": TransactionKind.TOPUP,
            "amount_micros": 25 * USD,
            "caller": audit.TOPUP_EVENTS,
            "description": "Top-up",
            "metadata": {},
            "recorded_at": desk.clock(),
            **fields,
        }
    )
    desk.wallet.made.append(made)
    return made


def found(desk: Desk) -> list[UUID | None]:
    """Whose credits are not explained, as the list of problems has it."""
    audit.look(desk.till, APPROVED)
    with desk.till.database.read() as session:
        listed = problems.listed(session, desk.clock(), 100).problems
    return [problem.user_id for problem in listed if problem.code == "credit_unexplained"]


def paid(desk: Desk) -> tuple[Customer, dict[str, str]]:
    customer = desk.customer()
    customer.ask()
    return customer, {"topup_id": str(customer.topups()[0].topup_id)}


def test_the_credit_of_a_paid_topup_is_explained(desk_with_audit: Desk) -> None:
    customer, metadata = paid(desk_with_audit)
    credited(desk_with_audit, customer.user_id, metadata=metadata)

    assert found(desk_with_audit) == []


def test_what_the_wallet_knows_two_people_to_stand_behind_is_explained(
    desk_with_audit: Desk,
) -> None:
    desk = desk_with_audit
    kind, caller = TransactionKind.ADJUSTMENT, "gateway"
    for is_approved in (True, False):
        credited(desk, new_id(), kind=kind, caller=caller, is_approved=is_approved)

    assert found(desk) == [desk.wallet.made[-1].user_id]


def test_what_an_approved_login_made_is_explained(desk_with_audit: Desk) -> None:
    credited(desk_with_audit, new_id(), caller="alice", kind=TransactionKind.ADJUSTMENT)

    assert found(desk_with_audit) == []


@pytest.mark.parametrize("caller", ["catalog", "topup", None])
def test_a_credit_by_anybody_else_is_found(desk_with_audit: Desk, caller: str | None) -> None:
    customer, metadata = paid(desk_with_audit)
    credited(desk_with_audit, customer.user_id, metadata=metadata)

    credited(desk_with_audit, customer.user_id, metadata=metadata, caller=caller)

    assert found(desk_with_audit) == [customer.user_id]


@pytest.mark.parametrize(
    "fields",
    [
        {"amount_micros": 26 * USD},
        {"user_id": new_id()},
        {"metadata": {"topup_id": str(new_id())}},
        {"metadata": {"reversal_id": "re_none"}},
        {"metadata": {}},
    ],
    ids=["another amount", "another user", "no such top-up", "no such reversal", "of nothing"],
)
def test_an_event_that_no_topup_stands_behind_is_found(
    desk_with_audit: Desk, fields: dict[str, Any]
) -> None:
    customer, metadata = paid(desk_with_audit)

    made = credited(
        desk_with_audit, **{"user_id": customer.user_id, "metadata": metadata, **fields}
    )

    assert found(desk_with_audit) == [made.user_id]


def test_the_credit_of_a_topup_that_was_never_paid_is_found(desk_with_audit: Desk) -> None:
    customer, metadata = paid(desk_with_audit)
    with desk_with_audit.till.database.begin() as session:
        session.merge(customer.topups()[0]).status = "failed"

    credited(desk_with_audit, customer.user_id, metadata=metadata)

    assert found(desk_with_audit) == [customer.user_id]


@pytest.mark.parametrize("is_restored", [True, False])
def test_what_a_won_dispute_gave_back_is_explained_and_no_other_dispute(
    desk_with_audit: Desk, is_restored: bool
) -> None:
    desk = desk_with_audit
    customer, metadata = paid(desk)
    restored_at = desk.clock() if is_restored else None
    with desk.till.database.begin() as session:
        session.add(
            Reversal(
                reversal_id="dp_1", source_id="dp_1", topup_id=UUID(metadata["topup_id"]),
                user_id=customer.user_id, amount_micros=20 * USD, is_dispute=True, status="won",
                asked_at=desk.clock(), taken_at=desk.clock(), restored_at=restored_at,
            )
        )  # fmt: skip
    undone = {**metadata, "reversal_id": "dp_1"}
    credited(desk, customer.user_id, amount_micros=20 * USD, metadata=undone)
    expected = [] if is_restored else [customer.user_id]

    assert found(desk) == expected
    # It explains its own amount, not that of the whole top-up.
    credited(desk, customer.user_id, metadata=undone)
    assert found(desk) == [*expected, customer.user_id]


@pytest.mark.parametrize(
    ("caller", "kind", "amount_micros", "is_explained"),
    [
        (legacy.SERVICE, TransactionKind.MIGRATION, 25 * USD, True),
        (legacy.SERVICE, TransactionKind.ADJUSTMENT, -25 * USD, True),
        (legacy.SERVICE, TransactionKind.ADJUSTMENT, 25 * USD, False),
        (legacy.SERVICE, TransactionKind.TOPUP, -25 * USD, False),
        ("catalog", TransactionKind.MIGRATION, 25 * USD, False),
        ("catalog", TransactionKind.ADJUSTMENT, -25 * USD, False),
    ],
)
def test_what_somebody_brought_from_the_old_system_is_explained_and_nothing_else_of_it(
    desk_with_audit: Desk,
    caller: str,
    kind: TransactionKind,
    amount_micros: int,
    is_explained: bool,
) -> None:
    made = credited(
        desk_with_audit, new_id(), caller=caller, kind=kind, amount_micros=amount_micros
    )

    assert found(desk_with_audit) == ([] if is_explained else [made.user_id])


def test_what_was_found_stays_until_somebody_accepts_it(desk_with_audit: Desk) -> None:
    desk = desk_with_audit
    made = credited(desk, new_id(), caller="catalog")
    assert found(desk) == [made.user_id]
    desk.clock.advance(hours=26)
    reconcile.daily(desk.till)
    assert found(desk) == [made.user_id]

    with desk.till.database.begin() as session:
        is_done = audit.accept(session, desk.clock(), made.transaction_id, "you", "A gift")

    assert is_done
    assert found(desk) == []
    with desk.till.database.begin() as session:
        kept = session.get_one(Difference, f"credit_unexplained:{made.transaction_id}")
        assert kept.accepted_by == "you: A gift"
        again = [(made.transaction_id, "somebody else"), (new_id(), "you")]
        assert not any(audit.accept(session, desk.clock(), what, by, "") for what, by in again)


def test_every_credit_is_looked_at_once(desk_with_audit: Desk) -> None:
    users = [credited(desk_with_audit, new_id(), caller="catalog").user_id for _ in range(3)]
    assert found(desk_with_audit) == users

    users.append(credited(desk_with_audit, new_id(), caller="catalog").user_id)

    assert found(desk_with_audit) == users


def test_what_was_there_before_the_first_look_is_left_alone(desk: Desk) -> None:
    credited(desk, new_id(), caller=None)

    assert found(desk) == []


def test_metrics_count_it(desk_with_audit: Desk) -> None:
    credited(desk_with_audit, new_id(), caller="catalog")
    found(desk_with_audit)

    shown = exposition(desk_with_audit.till.database, "topup", reconcile.GAUGES).decode()

    assert "topup_reconciliation_differences 1.0" in shown
    assert "topup_credit_audit_age_seconds" in shown


def test_a_credit_by_hand_is_found_in_a_real_ledger(
    desk: Desk, service_stack: StackFactory
) -> None:
    stack = service_stack("wallet")
    client = RpcClient(stack.vhost.uri("topup"), name="topup")
    till = replace(desk.till, wallet=WalletQuestions(client))
    audit.look(till, APPROVED)
    user_id = new_id()
    stack.rpc.call(
        Credit(
            idempotency_key="a", user_id=user_id, amount_micros=2_000 * USD, description="A present"
        )
    )

    def look() -> list[tuple[str, UUID | None, str]]:
        audit.look(till, APPROVED)
        with till.database.read() as session:
            listed = problems.listed(session, desk.clock(), 100).problems
        return [(item.code, item.user_id, item.message) for item in listed]

    # The ledger tells of it once it is sealed.
    ((code, owner, message),) = eventually(look)

    assert (code, owner) == ("credit_unexplained", user_id)
    assert "$2,000.00" in message
    assert "mycelium_admin" in message
    client.close()
    stack.close()
