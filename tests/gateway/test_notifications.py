"""Notifications: what is stored about an event, once, and who may read it."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.billing import (
    ChangeCause,
    DeletionAnnounced,
    DeploymentChanged,
    DeploymentRenewed,
    DeploymentStatus,
    OwedShortOfFunds,
    PriceAnnounced,
    PurchaseEnded,
    PurchaseStatus,
    RenewalAnnounced,
    RenewalShortOfFunds,
    RunwayLow,
)
from contracts.errors import NotFound
from contracts.messages import UserEvent
from contracts.topup import AutoTopupRefused, RefusalCode, TopupFailed, TopupKind, Trigger
from contracts.wallet import (
    AccountFroze,
    BalanceLow,
    BalanceRestored,
    TransactionKind,
    WalletCredited,
)
from services.gateway.hooks import storage as hooks
from services.gateway.models import Mail
from services.gateway.notifications import messages, storage, topics
from services.gateway.notifier import NotifierService
from services.gateway.pages.glance import look
from services.gateway.people import time_zones
from tests.gateway.conftest import Api, add_user, error_of, read

USER = UUID(int=1)
MESSAGE = storage.Message("topup_credited", "success", "Credits arrived", "It is $25.00.")


def tell(database: Connected, user_id: UUID, event_id: UUID | None = None) -> UUID:
    with database.begin() as session:
        storage.tell(session, utc_now(), user_id, event_id or uuid4(), MESSAGE)
        return storage.newest(session, user_id)[0].notification_id


def test_the_same_event_is_told_once(database: Connected) -> None:
    event_id = uuid4()
    tell(database, USER, event_id)
    tell(database, USER, event_id)

    with database.read() as session:
        assert len(storage.newest(session, USER)) == 1


def test_reading_keeps_the_time_of_the_first_reading(database: Connected) -> None:
    notification_id, now = tell(database, USER), utc_now()
    with database.begin() as session:
        storage.mark_read(session, now, USER, notification_id)
        storage.mark_read(session, now + timedelta(hours=1), USER, notification_id)

    with database.read() as session:
        assert storage.newest(session, USER)[0].read_at == now
        assert storage.unread_counts(session, [(USER, None)]) == [0]


def test_unread_ones_are_counted_no_further_than_is_asked(database: Connected) -> None:
    for _ in range(3):
        tell(database, USER)

    with database.read() as session:
        counts = storage.unread_counts(session, [(USER, 2), (USER, 4), (USER, None)])

    assert counts == [2, 3, 3]


def test_reading_somebody_elses_is_not_found(database: Connected) -> None:
    notification_id = tell(database, USER)

    with pytest.raises(NotFound), database.begin() as session:
        storage.mark_read(session, utc_now(), UUID(int=2), notification_id)


@pytest.fixture
def three_users(database: Connected) -> list[UUID]:
    """Three users with one notification each, told in this order: the middle one is looked at."""
    users = [uuid4() for _ in range(3)]
    for user_id in users:
        tell(database, user_id)
    return users


def test_others_notifications_are_neither_listed_nor_counted(
    database: Connected, three_users: list[UUID]
) -> None:
    mine = three_users[1]

    with database.read() as session:
        listed = [notice.user_id for notice in storage.newest(session, mine)]
        (counted,) = storage.unread_counts(session, [(mine, None)])

    assert (listed, counted) == ([mine], 1)


def test_reading_all_reads_none_of_others(database: Connected, three_users: list[UUID]) -> None:
    with database.begin() as session:
        storage.mark_read(session, utc_now(), three_users[1], None)

    with database.read() as session:
        unread = storage.unread_counts(session, [(user_id, None) for user_id in three_users])
    assert unread == [1, 0, 1]


def test_several_see_at_once_what_each_has_not_read_and_whether_it_asks_for_something(
    database: Connected, three_users: list[UUID]
) -> None:
    failed = storage.Message("topup_failed", "danger", "The card was declined", "Try another one.")
    with database.begin() as session:
        storage.tell(session, utc_now(), three_users[0], uuid4(), failed)
        storage.tell(session, utc_now(), three_users[1], uuid4(), failed)
        storage.mark_read(session, utc_now(), three_users[1], None)

    with database.read() as session:
        glances = look(session, [*three_users, three_users[0]])

    seen = [(each.unread, each.asks_for_something) for each in glances]
    assert seen == [(2, True), (0, False), (1, False), (2, True)]


@pytest.mark.parametrize("other", [0, 2])
def test_somebody_elses_is_not_found_and_stays_unread(
    database: Connected, three_users: list[UUID], other: int
) -> None:
    with database.read() as session:
        (theirs,) = storage.newest(session, three_users[other])

    with pytest.raises(NotFound), database.begin() as session:
        storage.mark_read(session, utc_now(), three_users[1], theirs.notification_id)

    with database.read() as session:
        assert storage.unread_counts(session, [(three_users[other], None)]) == [1]


def test_the_api_pages_and_marks_read(member: Api, database: Connected) -> None:
    assert member.user_id is not None
    told = [str(tell(database, member.user_id)) for _ in range(3)]

    first = read(member.get("/api/notifications?limit=2"))
    second = read(member.get(f"/api/notifications?limit=2&cursor={first['next_cursor']}"))
    member.post(f"/api/notifications/{told[0]}/read")
    unread = read(member.get("/api/notifications?unread=true"))

    seen = [item["notification_id"] for item in first["notifications"] + second["notifications"]]
    assert seen == told[::-1]
    assert second["next_cursor"] is None
    assert unread["unread_count"] == 2


def test_the_api_hides_somebody_elses(member: Api, database: Connected) -> None:
    others = tell(database, USER)

    assert error_of(member.post(f"/api/notifications/{others}/read")) == (404, "not_found")
    assert read(member.get("/api/notifications"))["notifications"] == []


def test_an_automatic_charge_is_told_with_the_new_balance() -> None:
    event = WalletCredited(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=USER,
        transaction_id=uuid4(),
        kind=TransactionKind.AUTO_TOPUP,
        amount_micros=25_000_000,
        balance_micros=33_000_000,
        available_micros=33_000_000,
    )

    message = messages.wallet_credited(event)

    assert message is not None
    assert "$25.00" in message.title
    assert "$33.00" in message.body


@pytest.mark.parametrize(
    ("status", "is_told"), [(PurchaseStatus.CANCELLED, False), (PurchaseStatus.EXPIRED, True)]
)
def test_who_cancels_a_purchase_is_not_warned_of_it(status: PurchaseStatus, is_told: bool) -> None:
    reason = "The money for this purchase did not come in time. You were not charged for it."
    event = PurchaseEnded(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=USER,
        purchase_id=uuid4(),
        status=status,
        status_code="cancelled_by_buyer" if status is PurchaseStatus.CANCELLED else "expired",
        reason=reason,
    )

    told = messages.purchase_ended(event)

    assert (told.body if told else None) == (reason if is_told else None)


def test_what_others_wrote_ends_in_a_full_stop_before_the_next_sentence() -> None:
    froze = AccountFroze(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=USER,
        balance_micros=25_000_000,
        reason="$25.00 disputed with the bank",
    )

    assert "disputed with the bank. Nothing can be bought" in messages.account_froze(froze).body


def test_a_failed_automatic_charge_says_that_the_purchase_waits() -> None:
    event = TopupFailed(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=USER,
        topup_id=uuid4(),
        kind=TopupKind.AUTO,
        amount_micros=25_000_000,
        failure_code="card_declined",
        message="Your card was declined.",
        trigger=Trigger.PURCHASE,
    )

    assert "completes by itself" in messages.topup_failed(event).body


@pytest.mark.parametrize(("level", "is_told"), [("alert", True), ("auto_topup", False)])
def test_only_the_level_that_the_user_set_is_told(level: str, is_told: bool) -> None:
    event = BalanceLow(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=USER,
        level=level,
        threshold_micros=10_000_000,
        available_micros=4_000_000,
    )

    assert (messages.balance_low(event) is not None) == is_told


def test_that_a_balance_is_back_is_told_with_its_level() -> None:
    event = BalanceRestored(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=USER,
        threshold_micros=10_000_000,
        available_micros=12_500_000,
    )

    message = messages.balance_restored(event)

    assert (message.title, message.severity) == ("Your balance is $12.50 again", "success")
    assert "$10.00" in message.body


@pytest.mark.parametrize(
    ("days", "title", "severity"),
    [
        (7, "Short by $29.00 on 28 December", "warning"),
        (3, "Short by $29.00 on 28 December", "warning"),
        (1, "Short by $29.00 on 28 December", "danger"),
        (0, "Short by $29.00 today", "danger"),
    ],
)
def test_a_short_runway_is_told_with_its_day_and_what_lacks(
    days: int, title: str, severity: str
) -> None:
    event = RunwayLow(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=USER,
        days=days,
        short_on=date(2026, 12, 28),
        shortfall_micros=29_000_000,
        auto_topup_refusal="The monthly limit is reached.",
    )

    message = messages.runway_low(event, ZoneInfo("UTC"))

    assert (message.title, message.severity) == (title, severity)
    assert message.body.endswith("The monthly limit is reached.")
    assert ("in 1 day." in message.body) == (days == 1)


@pytest.mark.parametrize(
    ("code", "is_told"),
    [
        (RefusalCode.DAILY_LIMIT, True),
        (RefusalCode.DISABLED, False),
        (RefusalCode.COOL_DOWN, False),
    ],
)
def test_a_refusal_is_told_unless_it_leaves_nothing_to_do(code: RefusalCode, is_told: bool) -> None:
    event = AutoTopupRefused(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=USER,
        refusal_code=code,
        reason="The daily limit is reached.",
        trigger=Trigger.PURCHASE,
    )

    assert (messages.auto_topup_refused(event) is not None) == is_told


@pytest.mark.parametrize(
    ("price_micros", "says", "tone"),
    [
        (7_000_000, "Cancel it before that", "warning"),
        (3_000_000, "The first month that begins after 2 March 2026 costs", "info"),
        (5_000_000, "The change that you were told of does not come", "info"),
    ],
)
def test_a_new_price_is_told_with_its_day_and_what_can_be_done(
    price_micros: int, says: str, tone: str
) -> None:
    deployment_id = uuid4()
    event = PriceAnnounced(
        event_id=uuid4(),
        occurred_at=utc_now(),
        user_id=uuid4(),
        deployment_id=deployment_id,
        name="VM-Starter",
        old_price_micros=5_000_000,
        new_price_micros=price_micros,
        applies_from=datetime(2026, 3, 2, tzinfo=UTC),
    )

    message = messages.price_announced(event, ZoneInfo("UTC"))

    assert says in message.body
    assert (message.severity, message.link) == (tone, f"/dashboard/deployments/{deployment_id}")


LATE = datetime(2026, 3, 31, 23, 30, tzinfo=UTC)
"""Half past one on the first of April in Berlin, afternoon in Los Angeles."""


def fact(of: type[UserEvent], user_id: UUID = USER, **fields: object) -> Any:
    return of(event_id=uuid4(), occurred_at=utc_now(), user_id=user_id, **fields)


DATED: list[tuple[Callable[[Any, ZoneInfo], storage.Message | None], Any]] = [
    (
        messages.renewal_announced,
        fact(
            RenewalAnnounced,
            deployment_id=USER,
            name="VM",
            amount_micros=5_000_000,
            renews_at=LATE,
        ),
    ),
    (
        messages.deployment_renewed,
        fact(
            DeploymentRenewed,
            deployment_id=USER,
            name="VM",
            amount_micros=5_000_000,
            starts_at=LATE,
            ends_at=LATE,
            transaction_id=USER,
        ),
    ),
    (
        messages.price_announced,
        fact(
            PriceAnnounced,
            deployment_id=USER,
            name="VM",
            old_price_micros=5_000_000,
            new_price_micros=7_000_000,
            applies_from=LATE,
        ),
    ),
    (
        messages.renewal_short_of_funds,
        fact(
            RenewalShortOfFunds,
            deployment_id=USER,
            needed_micros=5_000_000,
            available_micros=0,
            shortfall_micros=5_000_000,
            suspended_at=LATE,
        ),
    ),
    (
        messages.deployment_changed,
        fact(
            DeploymentChanged,
            deployment_id=USER,
            name="VM",
            status=DeploymentStatus.SUSPENDED,
            cause=ChangeCause.UNPAID,
            next_status_at=LATE,
        ),
    ),
    (
        messages.deletion_announced,
        fact(DeletionAnnounced, deployment_id=USER, name="VM", deleted_at=LATE),
    ),
]


@pytest.mark.parametrize(("tell_of", "event"), DATED, ids=[each[0].__name__ for each in DATED])
@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("UTC", "31 March 2026"),
        ("Europe/Berlin", "1 April 2026"),
        ("America/Los_Angeles", "31 March 2026"),
    ],
)
def test_a_message_names_the_day_of_its_reader(
    tell_of: Callable[[Any, ZoneInfo], storage.Message | None], event: Any, zone: str, says: str
) -> None:
    message = tell_of(event, ZoneInfo(zone))

    assert message is not None
    assert re.findall(r"\d+ \w+ 2026", f"{message.title} {message.body}") in ([says], [says, says])


@pytest.mark.parametrize(
    ("zone", "title", "left"),
    [
        ("UTC", "Short by $29.00 today", "due by then. Buy"),
        ("Europe/Berlin", "Short by $29.00 on 1 April", "due by then, in 1 day. Buy"),
        ("Pacific/Kiritimati", "Short by $29.00 today", "due by then. Buy"),
    ],
)
def test_a_short_runway_is_counted_in_days_of_its_reader(zone: str, title: str, left: str) -> None:
    """Where the 31st is over, or has begun, when it is told, it is not a day more or less."""
    event = RunwayLow(
        event_id=uuid4(),
        occurred_at=LATE - timedelta(hours=11),
        user_id=USER,
        days=0,
        short_on=LATE.date(),
        shortfall_micros=29_000_000,
        short_at=LATE,
    )

    message = messages.runway_low(event, ZoneInfo(zone))

    assert (message.title, left in message.body) == (title, True)


@pytest.mark.parametrize(
    ("told", "title", "says"),
    [
        (
            {},
            "You owe $5.00 for VM",
            (
                "Your wallet lacks $2.00 for what is due now. Buy credits. What you owe is paid"
                " by itself as soon as the wallet covers it."
            ),
        ),
        (
            {"deployments": 3, "is_frozen": True},
            "You owe $5.00 for VM and 2 more",
            (
                "Your wallet is frozen, so that nothing can be paid with it. Pay by card what"
                " it is below zero, if it is; otherwise write to support. What you owe is paid"
                " by itself as soon as the wallet is open again and covers it."
            ),
        ),
    ],
)
def test_who_owes_for_what_does_not_run_reads_how_much_and_how_it_is_paid(
    told: dict[str, Any], title: str, says: str
) -> None:
    owed = {"owed_micros": 5_000_000, "shortfall_micros": 2_000_000, "available_micros": 3_000_000}
    event = fact(
        OwedShortOfFunds, **{"deployment_id": USER, "name": "VM", "deployments": 1, **owed, **told}
    )

    message = messages.owed_short_of_funds(event)

    assert (message.title, message.link) == (title, "/dashboard/wallet")
    assert message.body.endswith(f" {says}")


@pytest.mark.parametrize("is_frozen", [True, False])
def test_whose_wallet_is_frozen_is_sent_to_support_and_not_to_buy_credits(is_frozen: bool) -> None:
    """Topup refuses to sell any, but for a debt."""
    amounts = {"shortfall_micros": 2_000_000, "available_micros": 0}
    event = fact(RenewalShortOfFunds, deployment_id=USER, is_frozen=is_frozen, **amounts)

    body = messages.renewal_short_of_funds(event, ZoneInfo("UTC")).body

    assert ("otherwise write to support" in body) is is_frozen
    assert ("Your wallet lacks $2.00" in body) is not is_frozen
    assert "Buy credits" not in body
    assert ("as soon as the wallet is open again and covers it." in body) is is_frozen


def test_who_owes_is_told_on_the_page_and_by_mail_whatever_they_chose(database: Connected) -> None:
    user = add_user(database, has_wallet=True)
    owed = {"owed_micros": 5_000_000, "shortfall_micros": 5_000_000, "available_micros": 0}
    event = fact(
        OwedShortOfFunds, user.user_id, deployment_id=USER, name="VM", deployments=1, **owed
    )
    NotifierService.owed_short_of_funds(
        SimpleNamespace(database=database), event.model_dump(mode="json")
    )

    with database.read() as session:
        (told,) = storage.newest(session, user.user_id)
        mailed = session.scalar(select(Mail.title).where(Mail.user_id == user.user_id))
    assert (told.title, mailed) == ("You owe $5.00 for VM",) * 2
    assert topics.BY_NAME["unpaid"].must_mail
    assert told.kind in topics.BY_NAME["unpaid"].kinds


def test_each_is_told_in_their_own_time_zone_and_so_is_their_mail(database: Connected) -> None:
    zones = ("Asia/Tokyo", "UTC", "America/New_York")
    people = [add_user(database, has_wallet=True) for _ in zones]
    with database.begin() as session:
        for user, zone in zip(people, zones, strict=True):
            time_zones.choose(session, user.user_id, zone)
    for user_id in (*(user.user_id for user in people), USER):
        event = fact(DeletionAnnounced, user_id, deployment_id=USER, name="VM", deleted_at=LATE)
        payload = event.model_dump(mode="json")
        NotifierService.deletion_announced(SimpleNamespace(database=database), payload)

    with database.read() as session:
        titles = [storage.newest(session, user.user_id)[0].title for user in people]
        mails = [
            session.scalar(select(Mail.title).where(Mail.user_id == user.user_id))
            for user in people
        ]
        nobody = storage.newest(session, USER)[0].title
    days = ["1 April 2026", "31 March 2026", "31 March 2026"]
    assert titles == mails == [f"VM will be deleted on {day}" for day in days]
    assert nobody == titles[1]


@pytest.mark.parametrize("kind", [TransactionKind.AUTO_TOPUP, TransactionKind.TRANSFER])
def test_a_credit_that_is_announced_again_is_told_once(
    database: Connected, kind: TransactionKind
) -> None:
    """By mail, and to webhooks: as the wallet does for a top-up that is published as paid again."""
    others = [add_user(database, has_wallet=True) for _ in range(2)]
    owner = add_user(database, has_wallet=True)
    with database.begin() as session:
        hook = hooks.add(session, utc_now(), owner.user_id, "https://example.com/hook")
    sender = others[0].user_id if kind is TransactionKind.TRANSFER else None
    first, second = uuid4(), uuid4()
    for transaction_id in (first, first, second):
        event = fact(
            WalletCredited,
            owner.user_id,
            transaction_id=transaction_id,
            kind=kind,
            amount_micros=10_000_000,
            balance_micros=10_000_000,
            available_micros=10_000_000,
            from_user_id=sender,
        )
        NotifierService.wallet_credited(
            SimpleNamespace(database=database), [event.model_dump(mode="json")]
        )

    with database.read() as session:
        told = [len(storage.newest(session, user.user_id)) for user in (owner, *others)]
        mailed = session.scalars(select(Mail).where(Mail.user_id == owner.user_id)).all()
        sent = [each.type for each in hooks.deliveries(session, hook.hook_id, limit=10)]
    assert told == [2, 2 if sender else 0, 0]
    assert len(mailed) == 2
    assert sent == ["wallet_credited"] * 2 + ["ping"]
