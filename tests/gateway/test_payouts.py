"""Money that leaves a wallet, over the API: who sells is paid, a user sends credits to another."""

from collections.abc import Callable
from decimal import Decimal
from json import loads
from typing import Any

import pytest

from contracts.billing import ListPayouts, MarkPayoutPaid, PayoutPaid, PayoutRefused
from services.gateway.notifications import messages
from tests.gateway import test_hooks, test_sales
from tests.gateway.conftest import Api, error_of, granted, read
from tests.gateway.test_api import give
from tests.patience import eventually

seller = test_sales.seller
receiver = test_hooks.receiver


def test_what_was_earned_is_asked_for_sent_and_told(
    system: Any, api: Api, seller: Api, product: dict[str, Any]
) -> None:
    give(system, api, 25)
    body = {"product_id": product["product_id"], "quantity": 4}
    granted(api.command("/api/wallet/instant-purchase", body))

    asked = seller.command("/api/payouts", {"amount": 12.5}, key="once")
    again = seller.command("/api/payouts", {"amount": 12.5}, key="once")

    payout = granted(asked)
    assert (asked.status_code, granted(again)) == (201, payout)
    assert (payout["amount_usd"], payout["status"]) == (Decimal("12.50"), "held")
    listed = granted(seller.get("/api/payouts"))
    assert (listed["payouts"], listed["payable_usd"], listed["owed_usd"]) == (
        [payout],
        Decimal("5.50"),
        0,
    )
    assert granted(seller.get("/api/wallet/info"))["available"] == Decimal("5.50")
    assert granted(api.get("/api/payouts"))["payouts"] == []
    (waiting,) = system.rpc.call(ListPayouts(user_id=seller.user_id)).payouts
    system.rpc.call(
        MarkPayoutPaid(
            idempotency_key=f"paid:{waiting.payout_id}",
            payout_id=waiting.payout_id,
            reference="SEPA 7",
            actor="operator-7",
        )
    )
    (paid,) = granted(seller.get("/api/payouts"))["payouts"]
    assert (paid["status"], paid["reference"]) == ("paid", "SEPA 7")
    told = eventually(
        lambda: read(seller.get("/api/notifications"))["notifications"],
        lambda found: any(each["kind"] == "payout_paid" for each in found),
    )
    (message,) = [each for each in told if each["kind"] == "payout_paid"]
    assert (message["title"], "SEPA 7" in message["body"]) == ("$12.50 was paid out", True)


def test_credits_that_are_sent_arrive_once_and_both_sides_are_told(
    system: Any, api: Api, new_member: Callable[[], Api], receiver: test_hooks.Receiver
) -> None:
    give(system, api, 25)
    friend, stranger = new_member(), new_member()
    granted(friend.post("/api/webhooks", {"url": receiver.url}))
    body = {"to_email": friend.email.upper(), "amount": 10.5}

    sent = [api.command("/api/wallet/transfers", body, key="once") for _ in range(2)]

    assert [each.status_code for each in sent] == [201, 201]
    assert granted(sent[0]) == granted(sent[1])
    assert granted(sent[0])["balance_after"] == Decimal("14.50")
    for who, balance in ((api, "14.50"), (friend, "10.50"), (stranger, "0.00")):
        assert granted(who.get("/api/wallet/info"))["balance"] == Decimal(balance)
    titles = {
        kind: eventually(
            lambda who=who: [
                each["title"]
                for each in read(who.get("/api/notifications"))["notifications"]
                if each["kind"].startswith("transfer_")
            ],
            bool,
        )
        for kind, who in (("sent", api), ("received", friend))
    }
    assert titles == {
        "sent": [f"You sent $10.50 to {friend.email}"],
        "received": [f"{api.email} sent you $10.50"],
    }
    told = eventually(
        lambda: {each["type"]: each["data"] for _, body in receiver.got for each in [loads(body)]},
        lambda found: len(found) == 2,
    )
    assert (told["ping"], told["wallet_credited"]["amount_usd"]) == ({}, 10.5)
    assert told["wallet_credited"]["from_user_id"] == str(api.user_id)


def test_who_has_earned_too_little_hears_how_much_it_is(api: Api) -> None:
    answer = api.command("/api/payouts", {"amount": 12.5})

    assert error_of(answer) == (402, "insufficient_funds")
    assert "$0.00 of what you earned" in read(answer)["error"]["message"]


@pytest.mark.parametrize("amount", [0, -5, 9.99, 10.001, "10", None])
def test_an_amount_that_makes_no_sense_is_refused(api: Api, amount: object) -> None:
    assert error_of(api.command("/api/payouts", {"amount": amount})) == (422, "bad_request")


def test_what_is_told_of_a_payout_says_what_became_of_the_money() -> None:
    ids = dict.fromkeys(
        ("event_id", "user_id", "payout_id"), "00000000-0000-4000-8000-000000000000"
    )
    said = {**ids, "occurred_at": "2026-11-28T12:00:00Z", "amount_micros": 12_500_000}

    paid = messages.payout_paid(PayoutPaid.model_validate({**said, "reference": "SEPA 7"}))
    refused = messages.payout_refused(
        PayoutRefused.model_validate({**said, "reason": "No account."})
    )

    assert (paid.title, paid.body) == (
        "$12.50 was paid out",
        "It was sent to you and left your wallet. Reference: SEPA 7",
    )
    assert (refused.title, refused.body) == (
        "Your payout of $12.50 was not made",
        "No account. The money is in your wallet, and can be spent again.",
    )
