"""Saved cards: mirrored, removed, replaced, and warned about."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import import_module

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import text

from chassis.identifiers import new_id
from contracts.errors import BadRequest, IdempotencyConflict, NotFound
from contracts.topup import ListPaymentMethods, RemovePaymentMethod, StartCardSetup
from services.topup.automatic import card_changes
from services.topup.cards import customers, saved_cards
from services.topup.charging import charges, checkout, webhooks
from services.topup.models import Card as CardRow
from services.topup.processor import ProcessorError
from tests.topup.conftest import NOON, USD, Card, Customer, Desk


def remove(desk: Desk, customer: Customer, payment_method_id: str) -> None:
    with desk.till.database.begin() as session:
        card_changes.remove(session, customer.user_id, payment_method_id, desk.clock())
    saved_cards.detach(desk.till, payment_method_id)


def default_of(desk: Desk, customer: Customer) -> str | None:
    with desk.till.database.read() as session:
        found = saved_cards.default_of(session, customer.user_id)
        return found.payment_method_id if found else None


def test_the_key_of_a_page_for_saving_a_card_is_for_one_request(desk: Desk) -> None:
    command = StartCardSetup(idempotency_key="key", user_id=new_id(), email="a@example.com")
    first, again = (checkout.start_card_setup(desk.till, command) for _ in range(2))

    assert again == first
    other = command.model_copy(update={"return_path": "/elsewhere"})
    with pytest.raises(IdempotencyConflict):
        checkout.start_card_setup(desk.till, other)


def test_the_first_card_is_the_default(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.add_card(Card.MASTERCARD)

    assert default_of(desk, customer) == customer.cards()[0]


def test_a_card_that_several_notices_tell_of_at_once_is_kept_once(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    known = desk.till.processor.get_payment_method(customer.cards()[0])
    told = {
        **known,
        "id": f"{known['id']}_again",
        "card": {**known["card"], "fingerprint": "of another number"},
    }

    def keep(_number: int) -> None:
        with desk.till.database.begin() as session:
            card_changes.keep(session, told, desk.clock())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(keep, range(16)))

    assert sorted(customer.cards()) == sorted([known["id"], told["id"]])


def test_the_cards_are_listed_page_by_page_to_the_end(desk: Desk) -> None:
    customer, stranger = desk.customer(enabled=False), desk.customer(enabled=False)
    (known,) = customer.cards()
    method = desk.till.processor.get_payment_method(known)
    for number in range(4):
        card = {**method["card"], "fingerprint": f"of another number {number}"}
        with desk.till.database.begin() as session:
            card_changes.keep(session, {**method, "id": f"pm_{number}", "card": card}, NOON)

    seen: list[str] = []
    cursor = None
    while cursor is not None or not seen:
        request = ListPaymentMethods(user_id=customer.user_id, cursor=cursor, limit=3)
        with desk.till.database.read() as session:
            page = saved_cards.page(session, request, NOON)
        seen += [card.payment_method_id for card in page.payment_methods]
        cursor = page.next_cursor

    assert len(page.payment_methods) == 2
    assert seen == [known, "pm_3", "pm_2", "pm_1", "pm_0"]
    assert stranger.cards()[0] not in seen


def test_another_card_can_be_made_the_default(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    second = customer.add_card(Card.MASTERCARD)

    with desk.till.database.begin() as session:
        saved_cards.set_default(session, customer.user_id, second)

    assert default_of(desk, customer) == second


def test_removing_the_default_makes_another_one_it(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    first, second = customer.cards()[0], customer.add_card(Card.MASTERCARD)

    remove(desk, customer, first)

    assert (customer.cards(), default_of(desk, customer)) == ([second], second)


def test_a_removed_card_is_detached_at_the_processor(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    (card,) = customer.cards()

    remove(desk, customer, card)

    assert desk.till.processor.get_payment_method(card)["customer"] is None


def test_a_card_removed_by_its_owner_is_detached_by_itself(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    (card,) = customer.cards()
    command = RemovePaymentMethod(user_id=customer.user_id, payment_method_id=card)

    left = card_changes.remove_by_hand(desk.till, command)
    desk.drain()

    assert left.payment_methods == []
    assert desk.till.processor.get_payment_method(card)["customer"] is None


def to_detach(desk: Desk) -> list[str]:
    with desk.till.database.begin() as session:
        return list(saved_cards.to_detach(session, desk.clock()))


def test_a_detachment_that_fails_is_repeated(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    (card,) = customer.cards()
    desk.sandbox.switch("reset_before", match={"path": "/v1/payment_methods/*/detach"})
    remove(desk, customer, card)
    left = to_detach(desk)

    saved_cards.detach(desk.till, card)

    desk.clock.advance(minutes=6)
    assert (left, to_detach(desk)) == ([card], [])


def test_removing_the_card_of_automatic_topup_pauses_it_and_says_so(desk: Desk) -> None:
    customer = desk.customer()

    remove(desk, customer, customer.cards()[0])

    assert [event["code"] for event in customer.events("auto_topup_paused")] == ["card_removed"]


def test_removing_it_goes_on_with_the_backup_card(desk: Desk) -> None:
    customer = desk.customer()
    first = customer.cards()[0]
    backup = customer.add_card(Card.MASTERCARD)
    desk.wallet.balances[customer.user_id] = 10**12
    customer.configure(payment_method_id=first, backup_payment_method_id=backup)

    remove(desk, customer, first)

    settings = customer.settings()
    assert (settings.payment_method_id, settings.paused_code) == (backup, "")


def test_somebody_elses_card_cannot_be_removed(desk: Desk) -> None:
    other = desk.customer(enabled=False)
    customer = desk.customer(enabled=False)

    with pytest.raises(NotFound):
        remove(desk, customer, other.cards()[0])


def test_a_card_that_vanished_at_the_processor_pauses_automatic_topup(desk: Desk) -> None:
    customer = desk.customer()
    (card,) = customer.cards()
    desk.till.processor.detach_payment_method(card)

    customer.ask()

    assert (customer.statuses(), customer.settings().paused_code) == (["failed"], "card_refused")


def detach_at_the_processor(desk: Desk, payment_method_id: str) -> None:
    """As from its dashboard, and the notice of it."""
    method = desk.till.processor.detach_payment_method(payment_method_id)
    with desk.till.database.begin() as session:
        card_changes.keep(session, method, desk.clock())


def begin_a_customer(desk: Desk) -> Customer:
    """Somebody for whom the processor has not answered yet."""
    customer = Customer(desk, new_id())
    desk.sandbox.switch("reset_before", match={"path": "/v1/customers"})
    with pytest.raises(ProcessorError):
        customers.ensure(desk.till, customer.user_id, "b@example.com")
    return customer


def test_a_card_detached_at_the_processor_is_removed_for_its_owner(desk: Desk) -> None:
    customer = desk.customer()
    begin_a_customer(desk)

    detach_at_the_processor(desk, customer.cards()[0])

    assert (customer.cards(), customer.settings().paused_code) == ([], "card_removed")


def test_a_card_of_nobodys_goes_to_nobody(desk: Desk) -> None:
    other = desk.customer(enabled=False)
    (card,) = other.cards()
    with desk.till.database.begin() as session:
        session.delete(session.get_one(CardRow, card))
    stranger = begin_a_customer(desk)

    detach_at_the_processor(desk, card)

    assert (other.cards(), stranger.cards()) == ([], [])


def tell_of_deletion(desk: Desk, customer_id: str) -> None:
    event = {
        "object": "event",
        "id": f"evt_{new_id()}",
        "type": "customer.deleted",
        "data": {"object": {"id": customer_id}},
    }
    webhooks.store(desk.till, event)
    desk.drain()


def test_after_a_customer_was_deleted_buying_and_saving_a_card_make_another(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    old, gone = customer.customer_id, customer.cards()
    desk.sandbox.delete_customer(old)

    topup = customer.start_topup()
    new_card = customer.add_card()

    assert topup.checkout_url
    assert customer.customer_id != old
    assert (customer.cards(), new_card in gone) == ([new_card], False)


def test_the_notice_of_a_deleted_customer_removes_the_cards_and_pauses(desk: Desk) -> None:
    customer = desk.customer()
    first, backup = customer.cards()[0], customer.add_card(Card.MASTERCARD)
    customer.configure(payment_method_id=first, backup_payment_method_id=backup)
    customer_id = customer.customer_id
    desk.sandbox.delete_customer(customer_id)

    for _ in range(2):
        tell_of_deletion(desk, customer_id)

    settings = customer.settings()
    assert (customer.cards(), settings.paused_code) == ([], "card_removed")
    assert (settings.payment_method_id, settings.backup_payment_method_id) == (None, None)


def test_that_a_customer_was_deleted_is_not_believed_but_asked(desk: Desk) -> None:
    customer = desk.customer()

    tell_of_deletion(desk, customer.customer_id)

    assert (len(customer.cards()), customer.settings().paused_code) == (1, "")


def test_a_charge_to_a_deleted_customer_pauses_until_a_card_is_added(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.delete_customer(customer.customer_id)
    customer.ask(needed_micros=5 * USD)
    paused = customer.settings().paused_code

    customer.add_card(Card.MASTERCARD)
    desk.sweep()

    assert (paused, customer.statuses()) == ("card_removed", ["failed", "paid"])


def test_an_expiring_card_is_told_of_once(desk: Desk) -> None:
    customer = desk.customer()
    with desk.till.database.begin() as session:
        card = session.get_one(CardRow, customer.cards()[0])
        card.exp_year, card.exp_month = 2027, 4
    for _ in range(3):
        saved_cards.warn_of_expiry(desk.till.database, desk.clock())

    (told,) = customer.events("card_expiring")
    assert told["is_auto_topup"]


def test_a_card_that_is_good_for_years_is_not_told_of(desk: Desk) -> None:
    customer = desk.customer()

    told = saved_cards.warn_of_expiry(desk.till.database, datetime(2027, 3, 10, tzinfo=UTC))

    assert (told, customer.events("card_expiring")) == (0, [])


def test_a_removed_card_is_queued_once_while_the_workers_are_busy(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    (card,) = customer.cards()
    with desk.till.database.begin() as session:
        card_changes.remove(session, customer.user_id, card, desk.clock())

    queued = []
    for _ in range(4):
        queued += to_detach(desk)
        desk.clock.advance(seconds=30)

    assert queued == [card]


# One card is one entry


def test_the_same_card_saved_again_is_one_entry_and_the_old_one_is_detached(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    (old,) = customer.cards()

    new = customer.add_card()
    for payment_method_id in to_detach(desk):
        saved_cards.detach(desk.till, payment_method_id)

    attached = [desk.till.processor.get_payment_method(card)["customer"] for card in (old, new)]
    assert customer.cards() == [new]
    assert attached == [None, customer.customer_id]


def test_a_card_saved_again_keeps_its_roles(desk: Desk) -> None:
    customer = desk.customer()
    first = customer.cards()[0]
    backup = customer.add_card(Card.MASTERCARD)
    desk.wallet.balances[customer.user_id] = 10**12
    customer.configure(payment_method_id=first, backup_payment_method_id=backup)

    first_again, backup_again = customer.add_card(), customer.add_card(Card.MASTERCARD)

    settings = customer.settings()
    assert settings.payment_method_id == first_again
    assert settings.backup_payment_method_id == backup_again
    assert settings.paused_code == ""
    assert default_of(desk, customer) == first_again


def test_the_same_card_is_no_backup_of_itself(desk: Desk) -> None:
    customer = desk.customer()
    first = customer.cards()[0]
    again = customer.add_card()

    with pytest.raises(NotFound):
        customer.configure(payment_method_id=first, backup_payment_method_id=again)
    with pytest.raises(BadRequest, match="another card"):
        customer.configure(payment_method_id=again, backup_payment_method_id=again)


def test_a_card_that_is_saved_while_paying_is_the_entry_that_it_had(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    (old,) = customer.cards()

    topup = customer.start_topup(save_card=True)
    desk.sandbox.pay(str(customer.topups()[0].session_id))
    checkout.refresh(desk.till, customer.user_id, topup.topup_id)

    (now,) = customer.cards()
    assert now != old


def test_a_card_saved_in_several_tabs_at_once_is_one_entry(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    known = desk.till.processor.get_payment_method(customer.cards()[0])

    def keep(number: int) -> None:
        with desk.till.database.begin() as session:
            card_changes.keep(session, {**known, "id": f"{known['id']}_{number}"}, desk.clock())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(keep, range(8)))

    assert len(customer.cards()) == 1
    assert default_of(desk, customer) == customer.cards()[0]


def test_late_news_of_the_entry_that_was_replaced_does_not_bring_it_back(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    (old,) = customer.cards()
    described = desk.till.processor.get_payment_method(old)
    new = customer.add_card()

    with desk.till.database.begin() as session:
        card_changes.keep(session, described, desk.clock())

    assert customer.cards() == [new]


def test_the_same_number_of_somebody_else_is_a_card_of_its_own(desk: Desk) -> None:
    customer, other = desk.customer(enabled=False), desk.customer(enabled=False)

    assert (len(customer.cards()), len(other.cards())) == (1, 1)


def test_a_charge_that_waits_for_the_replaced_entry_is_decided_anew(desk: Desk) -> None:
    customer = desk.customer()
    desk.clock.advance(minutes=10)
    trigger_id = customer.raise_trigger()
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)
    new = customer.add_card()

    desk.drain()
    for _ in range(3):
        desk.clock.advance(minutes=2)
        desk.sweep()

    first, second = customer.topups()
    assert (first.status, second.status) == ("cancelled", "paid")
    assert second.payment_method_id == new


def test_cards_that_were_saved_twice_before_become_one_entry(desk: Desk) -> None:
    """The migration, on a database as it was before it."""
    customer = desk.customer()
    (kept,) = customer.cards()
    migration = import_module("services.topup.migrations.versions.0008_one_card_one_entry")
    with desk.till.database.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(text("DROP INDEX cards_one_entry_each"))
        connection.execute(
            text(
                "INSERT INTO cards SELECT 'pm_older', user_id, brand, last4, exp_month, exp_year,"
                " fingerprint, false, added_at - interval '1 day' FROM cards"
            )
        )
        connection.execute(
            text("UPDATE auto_topup_settings SET backup_payment_method_id = 'pm_older'")
        )

        with Operations.context(MigrationContext.configure(connection)):
            migration.upgrade()

        saved = connection.scalars(
            text("SELECT payment_method_id FROM cards WHERE removed_at IS NULL AND is_default")
        ).all()
        chosen = connection.execute(
            text("SELECT payment_method_id, backup_payment_method_id FROM auto_topup_settings")
        ).one()
        transaction.rollback()
    assert (saved, tuple(chosen)) == ([kept], (kept, None))


@pytest.mark.parametrize(
    ("year", "month", "soon"),
    [(2027, 2, True), (2027, 3, True), (2027, 4, True), (2027, 5, False), (2028, 3, False)],
)
def test_a_card_expires_soon_in_this_month_and_the_next(year: int, month: int, soon: bool) -> None:
    card = CardRow(
        payment_method_id="pm_1", brand="visa", last4="4242", exp_year=year, exp_month=month,
        is_default=True,
    )  # fmt: skip

    assert (NOON.year, NOON.month) == (2027, 3)
    assert saved_cards.reply(card, None, NOON).expires_soon is soon
