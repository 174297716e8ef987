"""Adjustments that one person proposes and another decides."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, InternalError
from sqlalchemy.orm import Session

from contracts.errors import (
    BadRequest,
    Conflict,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
    ServiceError,
)
from contracts.keys import approved_key
from contracts.wallet import (
    Adjustment,
    AdjustmentStatus,
    DecideAdjustment,
    ListAdjustments,
    ListCredits,
    ProposeAdjustment,
    Reverse,
    TransactionKind,
)
from services.wallet import chain, inflows, ledger, verification
from services.wallet.finance import adjustments
from tests.locks import done_after
from tests.wallet.conftest import USD, Ledger, credit, debit

ANN, BOB = uuid4(), uuid4()


def proposal(user_id: UUID, amount_micros: int = 5 * USD, **fields: Any) -> ProposeAdjustment:
    return ProposeAdjustment(
        **{
            "idempotency_key": f"p:{uuid4()}",
            "user_id": user_id,
            "amount_micros": amount_micros,
            "reason": "Case 17: charged twice",
            "proposed_by": ANN,
            **fields,
        }
    )


def decision(of: Adjustment, *, is_approved: bool = True, **fields: Any) -> DecideAdjustment:
    return DecideAdjustment(
        **{
            "idempotency_key": f"d:{uuid4()}",
            "adjustment_id": of.adjustment_id,
            "decided_by": BOB,
            "is_approved": is_approved,
            "reason": "Seen the invoices",
            **fields,
        }
    )


def propose(book: Ledger, command: ProposeAdjustment) -> Adjustment:
    with book.database.begin() as session:
        return adjustments.propose(session, book.now, command)


def decide(book: Ledger, command: DecideAdjustment) -> Adjustment:
    with book.database.begin() as session:
        return adjustments.decide(session, book.now, command)


@pytest.mark.parametrize("amount_micros", [5 * USD, -5 * USD])
def test_what_a_second_person_approves_is_posted_once_against_the_house(
    book: Ledger, amount_micros: int
) -> None:
    users = [book.user(20 * USD) for _ in range(3)]
    proposed = propose(book, proposal(users[1], amount_micros))
    before = [book.balance(user) for user in users]
    approval = decision(proposed)

    posted = decide(book, approval)
    again = decide(book, approval)

    assert before == [20 * USD] * 3
    assert [book.balance(user) for user in users] == [20 * USD, 20 * USD + amount_micros, 20 * USD]
    assert (posted.status, posted.decided_by) == (AdjustmentStatus.POSTED, BOB)
    assert again == posted.model_copy(update={"replayed": True})
    with book.database.read() as session:
        made = session.execute(
            text(
                "SELECT t.kind, t.metadata, e.amount_micros, k.idempotency_key"
                " FROM transactions AS t JOIN keys AS k USING (transaction_id)"
                " JOIN entries AS e USING (transaction_id)"
                " WHERE t.transaction_id = :id AND e.account_id = 6"
            ),
            {"id": posted.transaction_id},
        ).one()
    assert made.amount_micros == -amount_micros
    assert made.idempotency_key == approved_key(proposed.adjustment_id)
    assert made.kind == TransactionKind.ADJUSTMENT
    assert made.metadata == {
        "reason": "Case 17: charged twice",
        "actor": str(BOB),
        "adjustment_id": str(proposed.adjustment_id),
        "proposed_by": str(ANN),
    }


def test_a_proposal_sent_twice_is_one_and_another_under_its_key_is_refused(book: Ledger) -> None:
    user = book.user()
    command = proposal(user)
    first = propose(book, command)

    assert propose(book, command) == first.model_copy(update={"replayed": True})
    with pytest.raises(IdempotencyConflict):
        propose(book, command.model_copy(update={"amount_micros": 6 * USD}))
    assert book.balance(user) == 0


def test_a_decision_under_a_used_key_with_other_words_is_refused(book: Ledger) -> None:
    proposed = propose(book, proposal(book.user()))
    approval = decision(proposed)
    decide(book, approval)

    with pytest.raises(IdempotencyConflict):
        decide(book, approval.model_copy(update={"is_approved": False}))


@pytest.mark.parametrize("is_approved", [True, False])
def test_nobody_decides_their_own_proposal(book: Ledger, is_approved: bool) -> None:
    user = book.user()
    proposed = propose(book, proposal(user))

    with pytest.raises(Conflict, match="ask a colleague"):
        decide(book, decision(proposed, is_approved=is_approved, decided_by=ANN))
    assert book.balance(user) == 0


def test_nobody_adjusts_their_own_wallet_as_neither_of_the_two(book: Ledger) -> None:
    user = book.user()
    proposed = propose(book, proposal(user))

    with pytest.raises(Conflict, match="your own wallet"):
        propose(book, proposal(user, proposed_by=user))
    with pytest.raises(Conflict, match="your own wallet"):
        decide(book, decision(proposed, decided_by=user))


def test_what_is_rejected_moves_nothing_and_is_decided_for_good(book: Ledger) -> None:
    user = book.user()
    proposed = propose(book, proposal(user))

    rejected = decide(book, decision(proposed, is_approved=False))

    assert (rejected.status, rejected.transaction_id) == (AdjustmentStatus.REJECTED, None)
    with pytest.raises(Conflict, match="it is rejected"):
        decide(book, decision(proposed))
    assert book.balance(user) == 0


def test_on_the_instant_of_its_end_a_proposal_has_expired_and_a_moment_before_it_has_not(
    book: Ledger,
) -> None:
    user = book.user()
    late, in_time = propose(book, proposal(user)), propose(book, proposal(user))

    book.now = late.expires_at
    with pytest.raises(Conflict, match="time is over"):
        decide(book, decision(late))
    with book.database.read() as session:
        listed = adjustments.listing(session, book.now, ListAdjustments(limit=200)).adjustments
        waiting = adjustments.listing(session, book.now, ListAdjustments(only_open=True))
    book.later(microseconds=-1)
    decide(book, decision(in_time))

    assert late.expires_at == late.proposed_at + timedelta(days=7)
    assert {each.adjustment_id: each.status for each in listed}[late.adjustment_id] == (
        AdjustmentStatus.EXPIRED
    )
    assert late.adjustment_id not in {each.adjustment_id for each in waiting.adjustments}
    assert book.balance(user) == 5 * USD


def test_what_a_wallet_has_not_got_is_not_taken_and_stays_proposed(book: Ledger) -> None:
    user = book.user(4 * USD)
    proposed = propose(book, proposal(user, -5 * USD))
    approval = decision(proposed)

    with pytest.raises(InsufficientFunds):
        decide(book, approval)
    book.do(credit(user, USD))

    assert decide(book, approval).status is AdjustmentStatus.POSTED
    assert book.balance(user) == 0


def test_what_cannot_be_proposed_is_refused(book: Ledger) -> None:
    with pytest.raises(NotFound):
        propose(book, proposal(uuid4()))
    with pytest.raises(BadRequest):
        propose(book, proposal(book.user(), 0))
    with pytest.raises(NotFound):
        decide(book, decision(propose(book, proposal(book.user())), adjustment_id=uuid4()))


def test_two_who_decide_at_once_wait_for_each_other_and_one_of_them_does(book: Ledger) -> None:
    user = book.user()
    proposed = propose(book, proposal(user))

    second = done_after(
        book.database,
        lambda session: adjustments.decide(session, book.now, decision(proposed)),
        lambda: _refused(book, decision(proposed, decided_by=uuid4())),
    )

    assert second == "conflict"
    assert book.balance(user) == 5 * USD


def test_a_proposal_sent_twice_at_once_is_one(book: Ledger) -> None:
    command = proposal(book.user())

    second = done_after(
        book.database,
        lambda session: adjustments.propose(session, book.now, command),
        lambda: propose(book, command),
    )

    assert second.replayed


def test_an_approval_waits_for_whoever_holds_the_wallet(book: Ledger) -> None:
    user = book.user(5 * USD)
    proposed = propose(book, proposal(user, -5 * USD))

    refused = done_after(
        book.database,
        lambda session: ledger.post_one(session, book.now, debit(user, USD)),
        lambda: _refused(book, decision(proposed)),
    )

    assert refused == "insufficient_funds"


def _refused(book: Ledger, command: DecideAdjustment) -> str:
    try:
        return decide(book, command).status
    except ServiceError as error:
        return error.code


def bare_decision(session: Session, of: Adjustment, **fields: Any) -> None:
    said = {
        "status": "rejected",
        "decided_by": BOB,
        "decided_at": of.proposed_at,
        "transaction_id": None,
        **fields,
    }
    session.execute(
        text(
            "UPDATE adjustments SET status = :status, decided_by = :decided_by,"
            " decided_at = :decided_at, decision_reason = 'x', transaction_id = :transaction_id,"
            " decision_key = 'x', decision_hash = sha256('x') WHERE adjustment_id = :id"
        ),
        {**said, "id": of.adjustment_id},
    )


def test_the_database_itself_refuses_a_wrong_decision(book: Ledger) -> None:
    user = book.user()
    of = propose(book, proposal(user))
    another = decide(book, decision(propose(book, proposal(user, 6 * USD))))
    wrong: list[dict[str, Any]] = [
        {"decided_by": ANN},
        {"decided_by": user},
        {"decided_at": of.expires_at},
        {"status": "posted"},
        {"status": "posted", "transaction_id": another.transaction_id},
        {"status": "posted", "transaction_id": uuid4()},
    ]

    for fields in wrong:
        with book.session() as session, pytest.raises((IntegrityError, InternalError)):
            bare_decision(session, of, **fields)
    with book.session() as session, pytest.raises(IntegrityError):
        bare_decision(session, another)
    with book.session() as session, pytest.raises(IntegrityError):
        session.execute(
            text("UPDATE adjustments SET amount_micros = 1 WHERE adjustment_id = :id"),
            {"id": of.adjustment_id},
        )
    with book.session() as session, pytest.raises(IntegrityError):
        session.execute(text("DELETE FROM adjustments"))


def test_verification_finds_an_adjustment_that_its_posting_does_not_bear_out(
    own_book: Ledger,
) -> None:
    book = own_book
    user = book.user(20 * USD)
    posted = decide(book, decision(propose(book, proposal(user, -5 * USD))))
    decide(book, decision(propose(book, proposal(user)), is_approved=False))
    assert posted.transaction_id is not None
    book.do(
        Reverse(
            idempotency_key="back",
            user_id=user,
            transaction_id=posted.transaction_id,
            reason="A mistake",
            actor="you",
        )
    )
    chain.seal(book.database)
    right = verification.verify(book.database)
    with book.session() as session:
        session.execute(text("ALTER TABLE adjustments DISABLE TRIGGER USER"))
        session.execute(text("UPDATE adjustments SET amount_micros = 1 WHERE status = 'posted'"))
        session.commit()
    wrong = verification.verify(book.database)

    assert right.clean, right.first_difference
    assert (wrong.first_difference or "").startswith(f"adjustment {posted.adjustment_id}")


def test_an_audit_is_told_which_corrections_a_second_person_approved(own_book: Ledger) -> None:
    book = own_book
    user = book.user(20 * USD)
    decide(book, decision(propose(book, proposal(user))))
    chain.seal(book.database)

    with book.database.read() as session:
        made = inflows.page(session, ListCredits()).credits

    assert [(each.kind, each.is_approved) for each in made] == [
        (TransactionKind.TOPUP, False),
        (TransactionKind.ADJUSTMENT, True),
    ]
