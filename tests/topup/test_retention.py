"""What the top-up service has forgotten charges nobody when it is told again."""

from datetime import timedelta

from sqlalchemy import text

from chassis.retention import forget
from services.topup import retention
from services.topup.charging import charges
from services.topup.settings import TopupSettings
from tests.topup.conftest import SECRET, USD, Desk

SETTINGS = TopupSettings(
    amqp_uri="", database_url="", stripe_api_key="sk_test_x", stripe_webhook_secret=SECRET
)


def test_an_old_event_of_a_forgotten_purchase_charges_nobody(desk: Desk) -> None:
    customer = desk.customer()
    raised_at = desk.clock()
    customer.ask(reference="bought long ago", needed_micros=5 * USD)
    customer.credited()
    customer.end_purchase("bought long ago")
    desk.wallet.balances[customer.user_id] = 0
    charged_cents = customer.charged_cents()
    now = desk.clock.advance(days=200)
    gone = forget(desk.till.database, now, retention.kept(SETTINGS))

    again = customer.raise_trigger(
        reference="bought long ago", needed_micros=5 * USD, raised_at=raised_at
    )
    assert again is not None
    charges.pursue(desk.till, again)
    desk.drain()

    assert gone["triggers"] > 0
    assert customer.charged_cents() == charged_cents


def test_the_row_of_a_card_that_was_replaced_goes_and_the_saved_one_stays(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.add_card()
    (saved,) = customer.cards()
    now = desk.clock()
    with desk.till.database.begin() as session:
        session.execute(
            text("UPDATE cards SET detached_at = :now WHERE removed_at IS NOT NULL"), {"now": now}
        )

    forget(desk.till.database, now + timedelta(days=91), retention.kept(SETTINGS))

    with desk.till.database.read() as session:
        rows = session.scalars(text("SELECT payment_method_id FROM cards")).all()
    assert rows == [saved]
