"""Every transaction says who had it made, and money from nowhere is listed with its caller."""

from uuid import UUID

import pytest
from kombu import Connection, Producer
from sqlalchemy import text

from chassis.clock import utc_now
from chassis.context import CallContext
from chassis.identifiers import new_id
from contracts.topup import TopupKind, TopupPaid
from contracts.wallet import (
    Adjust,
    CreditPage,
    Export,
    GetTransaction,
    ListCredits,
    OpenAccount,
    Refund,
)
from services.wallet import chain, export, inflows, ledger, statements, verification
from tests.conftest import StackFactory
from tests.patience import eventually
from tests.wallet.conftest import USD, Ledger, credit, debit, transfer


def credit_by(book: Ledger, caller: str | None, user_id: UUID) -> UUID:
    with book.database.begin() as session:
        call = CallContext(caller=caller)
        (made,) = ledger.post(session, book.now, [credit(user_id, 5 * USD)], [call])
    transaction_id: UUID = made.transaction_id  # type: ignore[union-attr]
    return transaction_id


@pytest.mark.parametrize("caller", ["alice", None])
def test_a_transaction_and_its_export_name_the_caller(book: Ledger, caller: str | None) -> None:
    user_id = book.user()
    transaction_id = credit_by(book, caller, user_id)

    with book.database.read() as session:
        told = statements.get_transaction(session, user_id, transaction_id)
        (entry,) = export.page(session, Export(user_id=user_id)).entries
    assert (told.caller, entry.caller) == (caller, caller)


def test_a_repetition_is_answered_like_the_first_call(book: Ledger) -> None:
    command = credit(book.user(), 5 * USD)
    first = book.transaction(command)

    assert book.transaction(command) == first.model_copy(update={"replayed": True})


def test_links_from_before_callers_were_recorded_still_hold(own_book: Ledger) -> None:
    user_id = own_book.user()
    transaction_id = credit_by(own_book, None, user_id)
    credit_by(own_book, "alice", user_id)
    chain.seal(own_book.database)

    with own_book.database.read() as session:
        lines = list(chain.lines(session))
    assert '"correction":"","corrects_transaction_id":"","description":"Top-up"' in lines[0]
    assert str(transaction_id) in lines[0]
    assert '"caller"' not in lines[0]
    assert '"caller":"alice"' in lines[1]
    assert chain.check_lines(lines)[0] is None
    assert verification.verify(own_book.database).clean


def test_a_sealed_caller_cannot_be_changed_unnoticed(own_book: Ledger) -> None:
    credit_by(own_book, "mallory", own_book.user())
    chain.seal(own_book.database)
    with own_book.session() as session:
        session.execute(text("ALTER TABLE transactions DISABLE TRIGGER USER"))
        session.execute(text("UPDATE transactions SET caller = 'alice'"))
        assert "the chain breaks" in str(verification.verdict(session).first_difference)
        session.rollback()


def listed(book: Ledger, after: int = 0) -> CreditPage:
    chain.seal(book.database)
    with book.database.read() as session:
        return inflows.page(session, ListCredits(after_position=after))


def test_credits_and_corrections_by_hand_are_listed_and_nothing_else(own_book: Ledger) -> None:
    alice, bob = own_book.user(20 * USD), own_book.user()
    paid = own_book.transaction(debit(alice, 8 * USD))
    own_book.do(
        Refund(idempotency_key="r", user_id=alice, transaction_id=paid.transaction_id,
               description="Back")
    )  # fmt: skip
    own_book.do(transfer(alice, bob, 3 * USD))
    for key, amount_micros in (("up", 2 * USD), ("down", -1 * USD)):
        own_book.do(
            Adjust(idempotency_key=key, user_id=bob, amount_micros=amount_micros,
                   reason="A correction", actor="a person")
        )  # fmt: skip

    page = listed(own_book)

    assert [(made.user_id, made.amount_micros) for made in page.credits] == [
        (alice, 20 * USD),
        (bob, 2 * USD),
        (bob, -1 * USD),
    ]
    assert listed(own_book, page.next_position).credits == []
    assert listed(own_book, 2**63 - 1).next_position == page.next_position


def test_pages_go_on_where_the_last_one_ended(
    own_book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflows, "PAGE_SIZE", 2)
    user_id = own_book.user()
    made = [credit_by(own_book, "alice", user_id) for _ in range(5)]

    found, page = [], listed(own_book)
    found += page.credits
    while not page.is_last:
        page = listed(own_book, page.next_position)
        found += page.credits

    assert [item.transaction_id for item in found] == made


def test_the_login_and_the_event_that_made_a_credit_are_told(service_stack: StackFactory) -> None:
    system = service_stack("wallet")
    user_id, topup_id = new_id(), new_id()
    system.rpc.call(OpenAccount(idempotency_key="open", user_id=user_id))
    by_hand = system.rpc.call(credit(user_id, 5 * USD))
    paid = TopupPaid(
        event_id=new_id(), occurred_at=utc_now(), topup_id=topup_id, user_id=user_id,
        amount_micros=7 * USD, kind=TopupKind.MANUAL, payment_id="pi_1",
    )  # fmt: skip
    with Connection(system.vhost.uri("topup")) as connection:
        Producer(connection.default_channel).publish(
            paid.model_dump(mode="json"),
            exchange="topup.events",
            routing_key=paid.type,
            headers={"nameko.caller": "alice"},
            serializer="json",
        )

    found = eventually(
        lambda: system.rpc.call(ListCredits()).credits, lambda found: len(found) == 2
    )

    assert [made.caller for made in found] == ["mycelium_admin", "topup.events"]
    told = system.rpc.call(GetTransaction(user_id=user_id, transaction_id=by_hand.transaction_id))
    assert told.caller == "mycelium_admin"
    system.close()
