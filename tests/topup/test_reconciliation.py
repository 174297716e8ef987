"""Reconciliation: three books that agree, and every way in which they may not."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select

from chassis.identifiers import new_id
from chassis.metrics import exposition
from contracts.errors import Unavailable
from services.topup import reconcile
from services.topup.automatic import pauses
from services.topup.charging import adoption, reconciliation, reversals, webhooks
from services.topup.models import Comparison, Difference, Reversal, Topup
from services.topup.processor import OutcomeUnknown
from services.topup.wallet_questions import Entry
from tests.topup.conftest import NOON, USD, Customer, Desk
from tests.topup.test_webhooks import event_about

SINCE = NOON.replace(hour=0) - timedelta(days=1)
UNTIL = NOON.replace(hour=0) + timedelta(days=1)


@pytest.fixture
def customer(desk: Desk) -> Customer:
    """Somebody who was charged once, credited once, and had five dollars refunded."""
    customer = desk.customer()
    customer.ask()
    customer.credited()
    payment_id = str(customer.topups()[0].payment_id)
    desk.till.processor.refund(payment_id, 500, idempotency_key="refund")
    reversals.take_refunds(desk.till, payment_id)
    (taken,) = customer.events("topup_reversed")
    desk.wallet.entries[f"reversal:{taken['reversal_id']}"] = Entry(-5 * USD, desk.clock())
    return customer


def codes(desk: Desk, since: datetime = SINCE, until: datetime = UNTIL) -> list[str]:
    """What differs, once everything has had the time to settle."""
    desk.clock.advance(hours=1)
    return [found.code for found in reconciliation.reconcile(desk.till, since, until)]


def refund(desk: Desk, customer: Customer) -> str:
    """Three dollars more go back, which we hear of and the wallet takes."""
    payment_id = str(customer.topups()[0].payment_id)
    made = desk.till.processor.refund(payment_id, 300, idempotency_key="another")
    take_refunds(desk, payment_id, made["id"])
    return str(made["id"])


def take_refunds(desk: Desk, payment_id: str, refund_id: str) -> None:
    reversals.take_refunds(desk.till, payment_id)
    desk.wallet.entries[f"reversal:{refund_id}"] = Entry(-3 * USD, desk.clock())


def change(desk: Desk, customer: Customer, **values: Any) -> Topup:
    with desk.till.database.begin() as session:
        topup = session.get_one(Topup, customer.topups()[0].topup_id)
        for name, value in values.items():
            setattr(topup, name, value)
    return topup


def test_books_that_agree_show_nothing(desk: Desk, customer: Customer) -> None:
    assert codes(desk) == []


def test_a_charge_that_no_topup_knows_is_found(desk: Desk, customer: Customer) -> None:
    desk.till.processor.charge_off_session(
        customer_id=customer.customer_id,
        payment_method_id=customer.cards()[0],
        amount_cents=700,
        topup_id="00000000-0000-7000-8000-000000000000",
        user_id=str(customer.user_id),
    )

    assert codes(desk) == ["charge_without_topup"]


def orphan(desk: Desk, customer: Customer) -> UUID:
    """A charge whose top-up is not there, as after a restore to a moment before it."""
    topup_id = new_id()
    desk.till.processor.charge_off_session(
        customer_id=customer.customer_id,
        payment_method_id=customer.cards()[0],
        amount_cents=700,
        topup_id=str(topup_id),
        user_id=str(customer.user_id),
    )
    return topup_id


def adopted(desk: Desk) -> list[Topup]:
    desk.clock.advance(hours=1)
    found = reconciliation.reconcile(desk.till, SINCE, UNTIL)
    orphans = [item.payment_id for item in found if item.code == reconciliation.WITHOUT_TOPUP]
    made = [adoption.adopt(desk.till, payment_id) for payment_id in orphans]
    return [topup for topup in made if topup is not None]


def test_a_charge_that_no_topup_knows_is_adopted_and_credited_once(
    desk: Desk, customer: Customer
) -> None:
    topup_id = orphan(desk, customer)
    told = len(customer.events("topup_paid"))

    (topup,) = adopted(desk)

    assert (topup.topup_id, topup.user_id, topup.amount_micros) == (
        topup_id,
        customer.user_id,
        7 * USD,
    )
    assert customer.events("topup_paid")[told]["topup_id"] == str(topup_id)
    assert adoption.adopt(desk.till, str(topup.payment_id)) is None
    desk.wallet.entries[f"topup:{topup_id}"] = Entry(7 * USD, desk.clock())
    assert codes(desk) == []


def test_a_charge_that_the_wallet_has_credited_is_adopted_without_another_credit(
    desk: Desk, customer: Customer
) -> None:
    topup_id = orphan(desk, customer)
    desk.wallet.entries[f"topup:{topup_id}"] = Entry(7 * USD, desk.clock())
    told = len(customer.events("topup_paid"))

    (topup,) = adopted(desk)

    assert (topup.status, len(customer.events("topup_paid"))) == ("credited", told)
    assert codes(desk) == []


def test_the_processor_is_asked_once_for_a_payment_of_which_nothing_went_back(
    desk: Desk, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan(desk, customer)
    ask, asked = desk.till.processor._call, []

    def call(method: Any, *arguments: Any, **named: Any) -> Any:
        asked.append(method.__qualname__)
        return ask(method, *arguments, **named)

    monkeypatch.setattr(desk.till.processor, "_call", call)
    monkeypatch.setattr(desk.till.processor, "refunds_of", pytest.fail)

    assert len(adopted(desk)) == 1
    assert asked == ["PaymentIntentService.retrieve"]


def paid_with(desk: Desk, customer: Customer, topup_id: UUID) -> str:
    (payment,) = desk.till.processor.find_payments(customer.customer_id, str(topup_id), 0)
    return str(payment["id"])


def reversed_since(customer: Customer, topup_id: UUID) -> list[tuple[str, int]]:
    return [
        (told["reversal_id"], told["amount_micros"])
        for told in customer.events("topup_reversed")
        if told["topup_id"] == str(topup_id)
    ]


def run_adoption(desk: Desk) -> int:
    return reconcile.run(desk.till, SINCE, UNTIL, adopts=True)


@pytest.mark.parametrize("error", [OutcomeUnknown("away"), reversals.Overtaken("asked anew")])
def test_what_went_back_of_a_payment_is_taken_once_by_the_next_run_after_a_failure(
    desk: Desk, customer: Customer, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    topup_id = orphan(desk, customer)
    payment_id = paid_with(desk, customer, topup_id)
    made = desk.till.processor.refund(payment_id, 300, idempotency_key="meanwhile")
    desk.clock.advance(hours=1)

    def fail(_payment_id: str) -> None:
        raise error

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(desk.till.processor, "refunds_of", fail)
        first = run_adoption(desk)
    said = capsys.readouterr()
    desk.wallet.entries[f"topup:{topup_id}"] = Entry(7 * USD, desk.clock())
    taken_before = reversed_since(customer, topup_id)

    again, once_more = run_adoption(desk), run_adoption(desk)

    assert (first, payment_id in said.err, made["id"] in said.err) == (1, True, True)
    assert (taken_before, again, once_more) == ([], 0, 0)
    assert reversed_since(customer, topup_id) == [(made["id"], 3 * USD)]


def test_adopting_a_payment_whose_topup_is_there_takes_what_went_back(
    desk: Desk, customer: Customer
) -> None:
    topup_id = orphan(desk, customer)
    adopted(desk)
    payment_id = paid_with(desk, customer, topup_id)
    made = desk.till.processor.refund(payment_id, 300, idempotency_key="unheard")

    assert adoption.adopt(desk.till, payment_id) is None
    assert reversed_since(customer, topup_id) == [(made["id"], 3 * USD)]


def test_a_dispute_of_an_adopted_payment_is_taken_in_the_same_run(
    desk: Desk, customer: Customer
) -> None:
    topup_id = orphan(desk, customer)
    payment_id = paid_with(desk, customer, topup_id)
    dispute = desk.sandbox.post(f"charges/{payment_id}/dispute", amount=200)
    desk.clock.advance(hours=1)

    run_adoption(desk)

    assert reversed_since(customer, topup_id) == [(dispute["id"], 2 * USD)]
    assert customer.settings().paused_code == pauses.DISPUTE


def test_a_payment_that_cannot_be_adopted_keeps_no_other_from_it(
    desk: Desk,
    customer: Customer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = {orphan(desk, customer), orphan(desk, customer)}
    desk.clock.advance(hours=1)
    ask, failures = desk.wallet.entry, [Unavailable("The wallet does not answer.")]

    def entry(key: str) -> Entry | None:
        if failures and key in {f"topup:{topup_id}" for topup_id in both}:
            raise failures.pop()
        return ask(key)

    monkeypatch.setattr(desk.wallet, "entry", entry)
    code = run_adoption(desk)

    said = capsys.readouterr()
    (left,) = both - known(customer)
    assert (code, paid_with(desk, customer, left) in said.err) == (1, True)
    assert "1 payments have their top-up back." in said.out


def known(customer: Customer) -> set[UUID]:
    return {topup.topup_id for topup in customer.topups()}


def test_a_payment_of_another_product_in_the_same_account_is_none_of_ours(
    desk: Desk, customer: Customer
) -> None:
    stripe = desk.till.processor._client.v1
    foreign = stripe.payment_intents.create(
        {
            "amount": 700,
            "currency": "usd",
            "customer": customer.customer_id,
            "payment_method": customer.cards()[0],
            "confirm": True,
            "off_session": True,
            "metadata": {"order": "of another shop"},
        }
    )
    desk.till.processor.refund(foreign.id, 300, idempotency_key="foreign")

    webhooks.store(desk.till, event_about("payment_intent.succeeded", foreign.to_dict()))
    desk.drain()

    assert (foreign.status, codes(desk), customer.statuses()) == ("succeeded", [], ["credited"])


def test_a_charge_that_was_not_recorded_is_found(desk: Desk, customer: Customer) -> None:
    topup = change(desk, customer, status="failed")
    del desk.wallet.entries[f"topup:{topup.topup_id}"]

    assert codes(desk) == ["charged_not_paid"]


def test_a_credit_without_a_payment_is_found(desk: Desk, customer: Customer) -> None:
    change(desk, customer, status="failed")

    assert sorted(codes(desk)) == ["charged_not_paid", "credited_not_paid"]


def test_a_payment_that_was_not_credited_is_found(desk: Desk, customer: Customer) -> None:
    (topup,) = customer.topups()
    del desk.wallet.entries[f"topup:{topup.topup_id}"]

    assert codes(desk) == ["paid_not_credited"]


def test_a_credit_of_another_amount_is_found(desk: Desk, customer: Customer) -> None:
    (topup,) = customer.topups()
    desk.wallet.entries[f"topup:{topup.topup_id}"] = Entry(26 * USD, desk.clock())

    assert codes(desk) == ["credit_differs"]


def test_a_topup_that_the_processor_does_not_know_is_found(desk: Desk, customer: Customer) -> None:
    change(desk, customer, payment_id="pi_of_nobody")

    assert "paid_without_charge" in codes(desk)


def test_one_topup_charged_twice_is_found(desk: Desk, customer: Customer) -> None:
    desk.clock.advance(hours=2)
    customer.charge_again()

    assert codes(desk) == ["charged_twice"]


def test_a_second_charge_that_was_given_back_is_no_difference(
    desk: Desk, customer: Customer
) -> None:
    second = customer.charge_again()["id"]
    desk.till.processor.refund(second, None, idempotency_key="second")

    assert codes(desk) == []


def test_a_charge_of_another_amount_is_found(desk: Desk, customer: Customer) -> None:
    topup = change(desk, customer, amount_micros=26 * USD)
    desk.wallet.entries[f"topup:{topup.topup_id}"] = Entry(26 * USD, desk.clock())

    assert codes(desk) == ["amount_differs"]


@pytest.mark.parametrize(("movement", "moved"), [(None, "$0.00"), ({"amount": 2_400}, "$24.00")])
def test_a_charge_that_did_not_reach_the_balance_is_found(
    desk: Desk, customer: Customer, movement: Any, moved: str
) -> None:
    listed = desk.till.processor.payments_between

    def with_movement(since_s: int, until_s: int) -> Any:
        payments = listed(since_s, until_s)
        for payment in payments:
            payment["latest_charge"]["balance_transaction"] = movement
        return payments

    desk.till.processor.payments_between = with_movement  # type: ignore[method-assign]

    desk.clock.advance(hours=1)
    (found,) = reconciliation.reconcile(desk.till, SINCE, UNTIL)

    assert (found.code, found.message) == (
        "balance_differs",
        f"$25.00 was taken, and {moved} reached the processor's balance",
    )


def test_money_that_reaches_the_balance_after_the_day_has_ended_is_no_difference(
    desk: Desk, customer: Customer
) -> None:
    desk.clock.set(UNTIL - timedelta(seconds=1))
    customer.ask(needed_micros=90 * USD)
    payment_id = str(customer.topups()[-1].payment_id)
    at_once = desk.till.processor.get_payment(payment_id)["latest_charge"]
    customer.credited()
    desk.clock.set(UNTIL + reconciliation.SETTLES_WITHIN)

    reconcile.daily(desk.till)

    assert (at_once["balance_transaction"], standing(desk)) == (None, [])


def test_money_that_is_not_in_the_balance_when_the_day_is_compared_differs_until_it_is(
    desk: Desk, customer: Customer
) -> None:
    listed = desk.till.processor.payments_between

    def not_yet(since_s: int, until_s: int) -> Any:
        payments = listed(since_s, until_s)
        for payment in payments:
            payment["latest_charge"]["balance_transaction"] = None
        return payments

    desk.till.processor.payments_between = not_yet  # type: ignore[method-assign]
    desk.clock.set(UNTIL + timedelta(hours=1))
    reconcile.daily(desk.till)
    before = standing(desk)
    desk.till.processor.payments_between = listed  # type: ignore[method-assign]
    desk.clock.advance(days=1)
    reconcile.daily(desk.till)

    assert (before, standing(desk)) == (["balance_differs"], [])


def test_a_refund_that_we_never_heard_of_is_found(desk: Desk, customer: Customer) -> None:
    payment_id = str(customer.topups()[0].payment_id)
    desk.till.processor.refund(payment_id, 300, idempotency_key="another")

    assert codes(desk) == ["reversal_differs"]


def test_a_refund_that_the_wallet_did_not_take_back_is_found(
    desk: Desk, customer: Customer
) -> None:
    desk.wallet.entries = {
        key: entry for key, entry in desk.wallet.entries.items() if key.startswith("topup:")
    }

    assert codes(desk) == ["reversal_not_in_ledger"]


def test_a_refund_that_the_processor_does_not_know_is_found(desk: Desk, customer: Customer) -> None:
    with desk.till.database.begin() as session:
        (known,) = reversals.of_topup(session, customer.topups()[0].topup_id)
        session.delete(known)
        session.flush()
        session.add(
            Reversal(
                reversal_id="re_never", source_id="re_never", topup_id=known.topup_id,
                user_id=known.user_id, amount_micros=5 * USD, is_dispute=False,
                status="succeeded", asked_at=known.taken_at, taken_at=known.taken_at,
            )
        )  # fmt: skip
    desk.wallet.entries["reversal:re_never"] = Entry(-5 * USD, desk.clock())

    assert codes(desk) == ["reversal_differs", "reversal_differs"]


def test_a_refund_that_failed_and_that_the_wallet_did_not_return_is_found(
    desk: Desk, customer: Customer
) -> None:
    made = refund(desk, customer)
    desk.sandbox.post(f"refunds/{made}/fail")
    reversals.take_refunds(desk.till, str(customer.topups()[0].payment_id))

    assert codes(desk) == ["restoration_not_in_ledger"]


def test_a_dispute_that_is_won_in_a_later_period_differs_in_neither(
    desk: Desk, customer: Customer
) -> None:
    payment_id = customer.topups()[0].payment_id
    dispute = desk.sandbox.post(f"charges/{payment_id}/dispute", amount=2_000)
    reversals.take_dispute(desk.till, dispute["id"])
    desk.wallet.entries[f"reversal:{dispute['id']}"] = Entry(-20 * USD, desk.clock())
    desk.clock.advance(days=30)
    desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome="won")
    reversals.take_dispute(desk.till, dispute["id"])
    desk.wallet.entries[f"restored:{dispute['id']}"] = Entry(20 * USD, desk.clock())

    later = timedelta(days=30)
    assert (codes(desk), codes(desk, SINCE + later, UNTIL + later)) == ([], [])


def test_a_charge_over_the_end_of_a_period_differs_in_neither(
    desk: Desk, customer: Customer
) -> None:
    charge = desk.till.processor.charge_off_session

    def slow(**call: Any) -> Any:
        answer = charge(**call)
        desk.clock.advance(seconds=2)
        return answer

    desk.till.processor.charge_off_session = slow  # type: ignore[method-assign]
    desk.clock.set(UNTIL - timedelta(seconds=1))
    customer.ask(needed_micros=90 * USD)
    customer.credited()

    assert (codes(desk), codes(desk, UNTIL, UNTIL + timedelta(days=1))) == ([], [])


def test_a_refund_over_the_end_of_a_period_differs_in_neither(
    desk: Desk, customer: Customer
) -> None:
    desk.clock.set(UNTIL - timedelta(seconds=30))
    payment_id = str(customer.topups()[0].payment_id)
    made = desk.till.processor.refund(payment_id, 300, idempotency_key="late")
    desk.clock.advance(minutes=2)
    take_refunds(desk, payment_id, made["id"])

    assert (codes(desk), codes(desk, UNTIL, UNTIL + timedelta(days=1))) == ([], [])


def test_a_credit_that_came_two_days_late_differs_on_neither_day(
    desk: Desk, customer: Customer
) -> None:
    customer.ask(needed_micros=90 * USD)
    desk.clock.advance(days=2)
    customer.credited()

    later = UNTIL + timedelta(days=2)
    assert (codes(desk), codes(desk, later - timedelta(days=1), later)) == ([], [])


def test_what_went_back_a_moment_ago_is_left_for_the_next_comparison(
    desk: Desk, customer: Customer
) -> None:
    desk.clock.advance(hours=1)
    payment_id = str(customer.topups()[0].payment_id)
    desk.till.processor.refund(payment_id, 300, idempotency_key="just now")

    found = reconciliation.reconcile(desk.till, SINCE, UNTIL)

    assert (found, codes(desk)) == ([], ["reversal_differs"])


def test_a_credit_in_the_ledger_that_is_nobodys_is_found(desk: Desk, customer: Customer) -> None:
    desk.wallet.entries["topup:from-nowhere"] = Entry(9 * USD, desk.clock())

    assert codes(desk) == ["ledger_total_differs"]


def test_a_difference_keeps_the_time_it_was_found_until_it_is_gone(
    desk: Desk, customer: Customer
) -> None:
    (topup,) = customer.topups()
    entry = desk.wallet.entries.pop(f"topup:{topup.topup_id}")
    codes(desk)
    first = desk.clock()
    desk.clock.advance(hours=5)
    codes(desk)
    desk.wallet.entries[f"topup:{topup.topup_id}"] = entry

    codes(desk)

    with desk.till.database.read() as session:
        kept = session.get_one(Difference, f"paid_not_credited:{topup.topup_id}")
    assert (kept.found_at, kept.gone_at) == (first, desk.clock())


def test_a_difference_of_the_instant_in_which_a_period_ends_is_the_next_periods(
    desk: Desk, customer: Customer
) -> None:
    (topup,) = customer.topups()
    entry = desk.wallet.entries.pop(f"topup:{topup.topup_id}")
    codes(desk)
    key = f"paid_not_credited:{topup.topup_id}"
    with desk.till.database.begin() as session:
        session.get_one(Difference, key).occurred_at = UNTIL
    desk.wallet.entries[f"topup:{topup.topup_id}"] = entry

    codes(desk)

    with desk.till.database.read() as session:
        assert session.get_one(Difference, key).gone_at is None


def test_the_metric_counts_the_differences_that_stand(desk: Desk, customer: Customer) -> None:
    (topup,) = customer.topups()
    del desk.wallet.entries[f"topup:{topup.topup_id}"]
    codes(desk)

    shown = exposition(desk.till.database, "topup", reconcile.GAUGES).decode()

    assert "topup_reconciliation_differences 1.0" in shown


def test_books_that_were_never_compared_have_no_age_and_no_differences(desk: Desk) -> None:
    with desk.till.database.begin() as session:
        session.execute(delete(Comparison))
        session.execute(delete(Difference))

    shown = exposition(desk.till.database, "topup", reconcile.GAUGES).decode()

    assert "# TYPE topup_reconciliation_age_seconds gauge" in shown
    assert [line for line in shown.splitlines() if not line.startswith("#")] == []


def compared(desk: Desk) -> list[Comparison]:
    with desk.till.database.read() as session:
        return list(session.scalars(select(Comparison).order_by(Comparison.compared_at)))


def standing(desk: Desk) -> list[str]:
    with desk.till.database.read() as session:
        return list(session.scalars(select(Difference.code).where(Difference.gone_at.is_(None))))


def test_the_daily_comparison_runs_once_a_day(desk: Desk, customer: Customer) -> None:
    for _ in range(30):
        reconcile.daily(desk.till)
        desk.clock.advance(hours=1)

    assert len(compared(desk)) == 2


def test_the_daily_comparison_waits_until_the_day_has_settled(
    desk: Desk, customer: Customer
) -> None:
    desk.clock.set(UNTIL + timedelta(minutes=14))
    reconcile.daily(desk.till)
    early = compared(desk)
    desk.clock.set(UNTIL + timedelta(minutes=15))
    reconcile.daily(desk.till)

    assert (early, [done.until for done in compared(desk)]) == ([], [UNTIL])


def test_the_daily_comparison_compares_the_ledgers_totals(desk: Desk, customer: Customer) -> None:
    desk.wallet.entries["topup:from-nowhere"] = Entry(9 * USD, desk.clock())
    desk.clock.set(UNTIL + timedelta(minutes=15))

    reconcile.daily(desk.till)

    assert standing(desk) == ["ledger_total_differs"]


def test_a_credit_that_is_nobodys_stands_however_often_the_books_are_compared(
    desk: Desk, customer: Customer
) -> None:
    desk.wallet.entries["topup:from-nowhere"] = Entry(9 * USD, desk.clock())
    desk.clock.set(UNTIL + timedelta(hours=1))
    for _ in range(6):
        reconcile.daily(desk.till)
        desk.clock.advance(days=1)

    assert standing(desk) == ["ledger_total_differs"]


def test_after_a_week_away_every_day_of_it_is_compared(desk: Desk, customer: Customer) -> None:
    reconcile.daily(desk.till)
    payment_id = str(customer.topups()[0].payment_id)
    desk.till.processor.refund(payment_id, 300, idempotency_key="unheard")
    desk.clock.advance(days=7)

    reconcile.daily(desk.till)

    assert standing(desk) == ["reversal_differs"]


def test_the_first_comparison_begins_with_the_first_topup(desk: Desk, customer: Customer) -> None:
    desk.clock.advance(days=7)

    reconcile.daily(desk.till)

    assert [f"{done.since:%Y-%m-%d}" for done in compared(desk)] == ["2027-03-10"]


def test_a_difference_that_is_mended_after_four_days_is_gone(
    desk: Desk, customer: Customer
) -> None:
    (topup,) = customer.topups()
    entry = desk.wallet.entries.pop(f"topup:{topup.topup_id}")
    for _ in range(5):
        desk.clock.advance(days=1)
        reconcile.daily(desk.till)
    before = standing(desk)
    desk.wallet.entries[f"topup:{topup.topup_id}"] = entry

    desk.clock.advance(days=1)
    reconcile.daily(desk.till)

    assert (before, standing(desk)) == (["paid_not_credited"], [])


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("2027-03-01", "2027-03-05", ("2027-03-01 00:00", "2027-03-05 00:00")),
        (None, None, ("2027-03-07 00:00", "2027-03-10 11:45")),
        ("2027-03-01", "2027-04-01", ("2027-03-01 00:00", "2027-03-10 11:45")),
    ],
)
def test_a_period_is_whole_days_up_to_a_quarter_of_an_hour_ago(
    since: str | None, until: str | None, expected: tuple[str, str]
) -> None:
    first, last = reconcile.period(since, until, NOON)

    assert (f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}") == expected


def test_the_report_tells_each_difference_with_its_age() -> None:
    found = reconciliation.Found(
        "paid_not_credited", "x", "$5.00", datetime(2027, 3, 8, tzinfo=UTC)
    )

    assert reconcile.report([found], NOON).split() == [
        "2d", "12h", "paid_not_credited", "x", "$5.00", "1", "differences",
    ]  # fmt: skip
