"""What must hold once everybody has an answer and nothing is under way, whatever went wrong before.

:func:`settles` waits for that; :func:`differences` names everything that does not agree. What
people paid and were promised comes from their own notes and from the card processor, and what it
costs from the price list; only where the product decides by itself, as it does about when a month
ends, its records are believed, and held against the ledger.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC
from typing import Any
from uuid import UUID

from kombu import Connection

from chassis.broker import dead_letter_queue
from chassis.clock import utc_now
from chassis.database import connect
from contracts.keys import period_key, purchase_key
from contracts.wallet import Verify
from deploy.local.broker import Node
from deploy.parts import DATABASES, LISTENERS
from services.legacy.pools import verifying
from services.topup.processor import REFUND_ID
from tests.faults.chaos.messages import HANDLERS, POISON
from tests.faults.chaos.people import PRICES, USD, Crowd, Person
from tests.faults.chaos.product import (
    PATIENCE_S,
    SETTINGS,
    STOCK,
    STOCKED,
    Product,
)

UNDER_WAY = {
    "billing": {
        "purchases under way": "SELECT count(*) FROM purchases"
        " WHERE status IN ('pending', 'awaiting_funds')",
        "periods under way": "SELECT count(*) FROM periods"
        " WHERE status IN ('closing', 'refunding')",
        # Leased, or left by somebody who died: it is asked about again when the lease runs out.
        "renewals under way": "SELECT count(*) FROM deployments"
        " WHERE due_at < CAST(:now AS timestamptz) + interval '65 seconds'",
        "refunds under way": "SELECT count(*) FROM refunds WHERE done_at IS NULL",
    },
    "topup": {
        "charges under way": "SELECT count(*) FROM topups WHERE status IN"
        " ('processing', 'unknown', 'paid') OR status = 'created' AND kind = 'auto'",
        # Whatever asks for a charge may make one in a moment, while the books are being compared.
        "refunds to cards": "SELECT count(*) FROM card_refunds"
        " WHERE status IN ('requested', 'held', 'sent')",
        "notices of the card processor": "SELECT count(*) FROM notices"
        " WHERE processed_at IS NULL AND given_up_at IS NULL",
        "charges about to be made": "SELECT count(*) FROM triggers"
        " WHERE due_at < CAST(:now AS timestamptz) + interval '65 seconds'",
    },
    "catalog": {
        "stock held": "SELECT count(*) FROM reservations"
        " WHERE released_at IS NULL AND held_until IS NOT NULL",
    },
    "legacy": {
        "orders in pools": "SELECT count(*) FROM pool_orders WHERE due_at IS NOT NULL",
    },
    "wallet": {"holds": "SELECT count(*) FROM holds WHERE status = 'held'"},
}
CHARGED = """
SELECT t.user_id, date_trunc(:unit, t.created_at AT TIME ZONE 'UTC') AS since,
    sum(t.amount_micros), coalesce(s.daily_limit_micros, 0), coalesce(s.monthly_limit_micros, 0)
FROM topups AS t LEFT JOIN auto_topup_settings AS s USING (user_id)
WHERE t.kind = 'auto' AND t.status IN ('paid', 'credited')
GROUP BY t.user_id, since, s.daily_limit_micros, s.monthly_limit_micros
"""
BY_CARD = """
SELECT coalesce(sum(e.amount_micros), 0) FROM entries AS e JOIN accounts AS a USING (account_id)
WHERE a.user_id = :user_id AND EXISTS (
    SELECT FROM entries AS other JOIN accounts AS house USING (account_id)
    WHERE other.transaction_id = e.transaction_id AND house.house_name = 'card_receipts')
"""
"""What a person's wallet got from cards, less what went back to them."""
UNSENT = "SELECT count(*) FROM outbox WHERE published_at IS NULL"


def under_way(product: Product) -> dict[str, int]:
    """What is not done yet, by its name."""
    now = utc_now() + product.ahead
    found = {
        name: int(
            product.asks(service, statement, **{"now": now} if ":now" in statement else {})[0][0]
        )
        for service, statements in UNDER_WAY.items()
        for name, statement in statements.items()
    }
    for service in DATABASES:
        found[f"unsent by {service}"] = int(product.asks(service, UNSENT)[0][0])
    found["waiting in queues"] = waiting(product.node, product.vhost.name)
    found["notices on their way"] = len(_undelivered(product))
    return {name: count for name, count in found.items() if count}


def _undelivered(product: Product) -> list[Any]:
    return [
        notice
        for state in ("new", "pending")
        for notice in product.sandbox.session.get(
            f"{product.sandbox_url}/_sandbox/webhooks", params={"state": state}, timeout=20
        ).json()["webhooks"]
    ]


def waiting(node: Node, vhost: str) -> int:
    """Messages for handlers, those that one of them has in hand and those that are put aside for
    another try included."""
    delays = SETTINGS["RETRY_DELAYS_S"].split(",")
    names = [handler.queue for handler in HANDLERS]
    names += [f"{service}.retry.{delay}s" for service in LISTENERS for delay in delays]
    messages = node.messages(vhost)
    # Some of them nobody has had a reason to make.
    return sum(messages.get(name, 0) for name in names)


def settles(product: Product, crowd: Crowd) -> None:
    """Wait until everybody has an answer and nothing is under way."""
    product.comes_to_be_ready()
    crowd.gets_answers()
    drops_what_waits(crowd)
    deadline, still, quiet = time.monotonic() + PATIENCE_S, {}, 0
    while quiet < 2:
        still = under_way(product)
        quiet = 0 if still else quiet + 1
        assert time.monotonic() < deadline, f"after {PATIENCE_S:.0f} s: {still}"
        time.sleep(0.4)


def drops_what_waits(crowd: Crowd) -> None:
    """Whoever waits for money gives up, so that everything has an end."""
    for person in crowd.people:
        waiting = person.told("/api/purchases?limit=100")["purchases"]
        for purchase in waiting:
            if purchase["status"] in ("pending", "awaiting_funds"):
                person.http.post(
                    f"{person.product.base_url}/api/purchases/{purchase['purchase_id']}/cancel",
                    headers={"Idempotency-Key": f"drop-{purchase['purchase_id']}"},
                    timeout=30,
                )


def differences(product: Product, crowd: Crowd) -> list[str]:
    """Everything that does not agree, one sentence each."""
    found = [*_of_the_ledger(product), *_of_payments(product, crowd), *_of_stock(product)]
    for person in crowd.people:
        found += [
            *_of_purchases(product, person),
            *_of_prices(product, person),
            *_of_the_wallet(product, crowd, person),
            *_of_disputes(product, person),
        ]
    found += [*_of_refunds(product, crowd), *_of_limits(product), *_of_renewals(product)]
    return [*found, *_of_counts(product), *_of_pools(product), *_of_dead_letters(product)]


def _of_the_ledger(product: Product) -> Iterator[str]:
    difference = product.rpc.call(Verify(), timeout_s=60).first_difference
    if difference is not None:
        yield f"the ledger: {difference}"


def _of_payments(product: Product, crowd: Crowd) -> Iterator[str]:
    """Σ credits = Σ captured, for everybody together and for each one."""
    [[credited]] = product.asks(
        "wallet",
        "SELECT coalesce(-sum(amount_micros), 0) FROM entries JOIN accounts USING (account_id)"
        " WHERE house_name = 'card_receipts'",
    )
    captured = _captured_micros(product, None)
    if credited != captured:
        yield f"the cards paid {captured}, the wallets have {credited} of it"
    for person in crowd.people:
        [[came]] = product.asks("wallet", BY_CARD, user_id=person.user_id)
        paid = _captured_micros(product, _customer(product, person))
        if came != paid:
            yield f"{person.user_id} paid {paid} by card and was credited {came}"
        if not person.is_topped_up and _entries(product, person.user_id, "auto_topup"):
            yield f"{person.user_id} never switched automatic top-up on, and was charged by it"


def _customer(product: Product, person: Person) -> str:
    rows = product.asks("topup", "SELECT customer_id FROM customers WHERE user_id = :user_id",
                        user_id=person.user_id)  # fmt: skip
    return str(rows[0][0])


def _captured_micros(product: Product, customer: str | None) -> int:
    answer = product.sandbox.session.get(
        f"{product.sandbox_url}/_sandbox/totals",
        params={"customer": customer} if customer else {},
        timeout=20,
    ).json()
    cents = answer["paid_cents"] - answer["refunded_cents"] - answer["disputed_cents"]
    return int(cents) * USD // 100


def _entries(product: Product, user_id: UUID, *kinds: str) -> list[tuple[int, UUID]]:
    return [
        (int(amount), transaction_id)
        for amount, transaction_id in product.asks(
            "wallet",
            "SELECT e.amount_micros, e.transaction_id FROM entries AS e"
            " JOIN accounts AS a USING (account_id)"
            " WHERE a.user_id = :user_id AND e.kind = ANY(:kinds)",
            user_id=user_id,
            kinds=list(kinds),
        )
    ]


def _of_purchases(product: Product, person: Person) -> Iterator[str]:
    """No purchase is lost or doubled, and each completed one was paid and delivered once."""
    rows = product.asks(
        "billing",
        "SELECT p.purchase_id::text, p.status, p.total_micros,"
        " (SELECT count(*) FROM deployments AS d WHERE d.purchase_id = p.purchase_id),"
        " (SELECT sum(quantity) FROM purchase_lines AS l WHERE l.purchase_id = p.purchase_id)"
        " FROM purchases AS p WHERE p.user_id = :user_id",
        user_id=person.user_id,
    )
    known = {row[0]: row for row in rows}
    promised = set(person.purchases.values())
    if len(promised) != len(person.purchases):
        yield f"{person.user_id}: two keys are one purchase"
    for lost in promised - set(known):
        yield f"purchase {lost} was promised and is not there"
    for purchase_id, status, total, delivered, wanted in known.values():
        if purchase_id not in promised and status != "failed":
            yield f"purchase {purchase_id} is {status}, and nobody was promised it"
        paid = product.asks(
            "wallet",
            "SELECT coalesce(t.amount_micros, 0) FROM keys AS k"
            " JOIN transactions AS t ON t.transaction_id = k.transaction_id"
            " WHERE k.idempotency_key = :key",
            key=purchase_key(UUID(purchase_id)),
        )
        due = [(total,)] if status == "completed" else []
        if [tuple(row) for row in paid] != due:
            yield f"purchase {purchase_id} of {total} is {status}, and was paid {paid}"
        if delivered != (wanted if status == "completed" else 0):
            yield f"purchase {purchase_id} is {status}, and delivered {delivered} of {wanted}"


def _of_prices(product: Product, person: Person) -> Iterator[str]:
    """Each purchase, and each month after it, costs what the list said of what was chosen."""
    for purchase_id, slug in person.chosen.items():
        price = PRICES[slug] * USD
        charged = product.asks(
            "billing",
            "SELECT 'it', total_micros FROM purchases WHERE purchase_id = :purchase_id"
            " UNION ALL SELECT 'a month of it', amount_micros FROM periods"
            " JOIN deployments USING (deployment_id)"
            " WHERE purchase_id = :purchase_id AND kind = 'month'",
            purchase_id=UUID(purchase_id),
        )
        for what, amount in charged:
            if amount != price:
                yield f"purchase {purchase_id} is of {slug} for {price}, and {what} cost {amount}"


def _of_the_wallet(product: Product, crowd: Crowd, person: Person) -> Iterator[str]:
    """The balance is what came by card, from friends and by trades, less what was spent."""
    paid = _captured_micros(product, _customer(product, person))
    bought = int(
        product.asks(
            "billing",
            "SELECT coalesce(sum(total_micros - refunded_micros), 0) FROM purchases"
            " WHERE user_id = :user_id AND status = 'completed'",
            user_id=person.user_id,
        )[0][0]
    )
    renewed = int(
        product.asks(
            "billing",
            "SELECT coalesce(sum(amount_micros), 0) FROM periods"
            " WHERE user_id = :user_id AND status = 'paid'",
            user_id=person.user_id,
        )[0][0]
    )
    sent = sum(amount for _, amount in person.sent.values())
    got = sum(
        amount
        for other in crowd.people
        for whom, amount in other.sent.values()
        if whom == person.user_id
    )
    [[balance]] = product.asks(
        "wallet",
        "SELECT balance_micros FROM balances JOIN accounts USING (account_id)"
        " WHERE user_id = :user_id",
        user_id=person.user_id,
    )
    traded = person.traded_micros
    expected = paid - bought - renewed - sent + got + traded
    if balance != expected:
        yield (
            f"{person.user_id} has {balance}, not {expected}: by card {paid}, bought {bought},"
            f" renewed {renewed}, sent {sent}, got {got}, traded {traded}"
        )


def _of_refunds(product: Product, crowd: Crowd) -> Iterator[str]:
    """Each refund that was promised was made once, as it was asked for, and no other one was."""
    made = defaultdict(list)
    for refund in product.sandbox.listed("refunds"):
        made[refund["metadata"].get(REFUND_ID, "")].append(refund["amount"])
    promised = {key: cents for person in crowd.people for key, cents in person.refunds.items()}
    for refund_id in set(made) - set(promised):
        yield f"refund {refund_id} of {made[refund_id]} cents was made, and nobody was promised it"
    for refund_id, cents in promised.items():
        [[status]] = product.asks(
            "topup",
            "SELECT status FROM card_refunds WHERE refund_id = :refund_id",
            refund_id=UUID(refund_id),
        )
        due = [cents] if status in ("pending", "succeeded", "failed") else []
        if made[refund_id] != due:
            yield f"refund {refund_id} of {cents} cents is {status}: {made[refund_id]} were made"


def _of_disputes(product: Product, person: Person) -> Iterator[str]:
    """Who owes something, or has a payment that the bank has taken back, is frozen; nobody else
    is. Support has opened the wallets of those that were before."""
    [[available, status]] = product.asks(
        "wallet",
        "SELECT balance_micros - held_micros, status FROM balances"
        " JOIN accounts USING (account_id) WHERE user_id = :user_id",
        user_id=person.user_id,
    )
    lost = person.lost()
    is_new = bool(lost - person.forgiven)
    if (available < 0 or is_new) and status != "frozen":
        yield f"{person.user_id} has {available} and lost {lost}, and the wallet is {status}"
    if status == "frozen" and available >= 0 and not lost:
        yield f"{person.user_id} has {available}, lost nothing, and is frozen"


def _of_stock(product: Product) -> Iterator[str]:
    [[left]] = product.asks(
        "catalog", "SELECT stock FROM products WHERE slug = :slug", slug=STOCKED
    )
    [[sold]] = product.asks(
        "billing",
        "SELECT coalesce(sum(quantity), 0) FROM purchase_lines JOIN purchases USING (purchase_id)"
        " WHERE is_stocked AND status = 'completed' AND unit_price_micros = :price",
        price=PRICES[STOCKED] * USD,
    )
    if left != STOCK - sold:
        yield f"{sold} of {STOCK} were sold, and {left} are left"


def _of_limits(product: Product) -> Iterator[str]:
    """No automatic charge exceeds what its owner allowed for the day or the month: nothing, where
    nothing was ever saved."""
    for place, unit in enumerate(("day", "month")):
        for user_id, since, charged, *allowed in product.asks("topup", CHARGED, unit=unit):
            if charged > allowed[place]:
                yield f"{user_id} allowed {allowed[place]} a {unit}: {charged} on {since}"


def _of_renewals(product: Product) -> Iterator[str]:
    """No month is paid twice, and each paid period is a debit of its amount."""
    for [deployment_id] in product.asks(
        "billing",
        "SELECT a.deployment_id FROM periods AS a JOIN periods AS b USING (deployment_id)"
        " WHERE a.kind = 'month' AND b.kind = 'month' AND a.status = 'paid' AND b.status = 'paid'"
        " AND a.starts_at < b.starts_at AND a.ends_at > b.starts_at",
    ):
        yield f"deployment {deployment_id} paid twice for the same time"
    periods = product.asks(
        "billing", "SELECT deployment_id, kind, starts_at, amount_micros, status FROM periods"
    )
    keys = {
        period_key(deployment_id, kind, starts_at.astimezone(UTC)): (amount, status)
        for deployment_id, kind, starts_at, amount, status in periods
    }
    debited = {
        key: -int(amount)
        for key, amount in product.asks(
            "wallet",
            "SELECT k.idempotency_key, e.amount_micros FROM keys AS k JOIN entries AS e"
            " ON e.transaction_id = k.transaction_id AND e.account_id = k.account_id"
            " WHERE k.idempotency_key = ANY(:keys)",
            keys=list(keys),
        )
    }
    for key, (amount, status) in keys.items():
        if debited.get(key, 0) != (amount if status in ("paid", "refunded") else 0):
            yield f"{key} of {amount} is {status}, and the ledger has {debited.get(key, 0)}"


def _of_counts(product: Product) -> Iterator[str]:
    """Analytics heard of every purchase once."""
    [[completed]] = product.asks(
        "billing", "SELECT count(*) FROM purchases WHERE status = 'completed'"
    )
    [[heard]] = product.asks(
        "analytics",
        "SELECT coalesce(sum(value), 0) FROM counts"
        " WHERE figure = 'purchases_completed' AND grain = 'day'",
    )
    if heard != completed:
        yield f"{completed} purchases completed, and analytics counted {heard}"


def _of_pools(product: Product) -> Iterator[str]:
    """The book of the pools by itself, and what it says of dollars beside the wallet's."""
    database = connect(product.straight_url("legacy"), pool_size=1)
    for difference in verifying.verify(database, product.rpc):
        yield f"the pools: {difference}"
    database.engine.dispose()


def _of_dead_letters(product: Product) -> Iterator[str]:
    """Those that a test spoiled are taken away; any other one is a fault."""
    with Connection(product.vhost.admin_uri, connect_timeout=5) as connection:
        for service in LISTENERS:
            try:
                queue = dead_letter_queue(service)(connection.channel())
                message = queue.get(accept=None)
            except connection.channel_errors:
                continue
            while message is not None:
                body = (
                    message.body
                    if isinstance(message.body, str)
                    else bytes(message.body).decode(errors="replace")
                )
                if POISON not in body:
                    yield f"a dead letter of {service}: {message.headers} {body[:200]}"
                message.ack()
                message = queue.get(accept=None)
