"""How pages write money, dates and words."""

from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from chassis.identifiers import new_id
from contracts.billing import Forecast, ForecastDay, ForecastEvent, ForecastKind
from contracts.wallet import AccountFroze, Transaction, TransactionKind
from services.gateway.notifications.messages import account_froze
from services.gateway.pages import formats

NOON = datetime(2026, 11, 22, 12, 5, tzinfo=UTC)


def on_one_line(written: str) -> str:
    """With spaces at which no line ends."""
    return written.replace(" ", "\N{NO-BREAK SPACE}")


def automatic_charge(**metadata: str) -> Transaction:
    return Transaction(
        transaction_id=UUID(int=1),
        kind=TransactionKind.AUTO_TOPUP,
        amount_micros=25_000_000,
        balance_after_micros=30_000_000,
        description="Automatic top-up",
        metadata=metadata,
        effective_at=NOON,
        recorded_at=NOON,
    )


def test_money_in_and_out_carry_their_sign() -> None:
    signs = [formats.signed_money(amount) for amount in (25_000_000, -5_000_000, 0)]

    assert signs == ["+$25.00", "\N{MINUS SIGN}$5.00", "$0.00"]


def test_an_average_is_rounded_to_the_even_cent() -> None:
    rounded = [formats.rounded_money(micros) for micros in (766_667, 5_000, 15_000)]

    assert rounded == ["$0.77", "$0.00", "$0.02"]


def test_a_field_shows_whole_dollars_without_cents() -> None:
    shown = [formats.plain_dollars(micros) for micros in (10_000_000, 12_500_000, 1_250_000_000)]

    assert shown == ["10", "12.50", "1250"]


def test_a_time_says_that_it_is_utc() -> None:
    assert formats.minute(NOON) == (
        '<time datetime="2026-11-22T12:05:00Z">'
        f"{on_one_line('22 Nov 2026')}, {on_one_line('12:05 UTC')}</time>"
    )


@pytest.mark.parametrize(
    ("zone", "day"), [("UTC", "22 Nov 2026"), ("Pacific/Kiritimati", "23 Nov 2026")]
)
def test_the_day_of_a_moment_is_its_readers_and_a_day_is_the_same_everywhere(
    zone: str, day: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "reader_zone", lambda: ZoneInfo(zone))

    assert formats.day_for_reader(NOON) == on_one_line(day)
    assert formats.day_for_reader(NOON.date()) == on_one_line("22 Nov 2026")
    assert formats.day_for_reader(None) == ""


@pytest.mark.parametrize(
    ("zone", "when"),
    [("UTC", "today"), ("Pacific/Kiritimati", "on 23\N{NO-BREAK SPACE}November")],
)
def test_when_credits_are_short_is_said_in_days_of_who_reads_it(
    zone: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "reader_zone", lambda: ZoneInfo(zone))
    monkeypatch.setattr(formats, "utc_now", lambda: NOON.replace(hour=8))

    assert formats.when_short(short_at(NOON)) == when


def short_at(moment: datetime | None) -> Forecast:
    """Of 92 days from noon on."""
    until = NOON.date() + timedelta(days=92)
    return Forecast(
        available_micros=0,
        days=[ForecastDay(date=until, balance_micros=0, events=[], events_total=0)],
        due_next=[],
        short_on=moment and moment.date(),
        short_at=moment,
        days_until_empty=moment and (moment - NOON).days,
    )


@pytest.mark.parametrize(
    ("zone", "without", "longer"),
    [
        ("UTC", NOON + timedelta(days=5), "+5 days"),
        ("UTC", NOON + timedelta(hours=12), "+1 day"),
        ("Pacific/Kiritimati", NOON + timedelta(hours=12), ""),
        ("UTC", NOON, ""),
        ("UTC", NOON - timedelta(days=1), ""),
        ("UTC", None, "+92 days or more"),
    ],
)
def test_how_much_longer_credits_last_is_counted_between_the_days_that_are_shown(
    zone: str, without: datetime | None, longer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "reader_zone", lambda: ZoneInfo(zone))

    assert formats.days_longer(short_at(without), short_at(NOON)) == longer
    assert formats.days_longer(short_at(without), short_at(None)) == ""


def test_what_is_saved_is_all_that_is_not_spent_whatever_auto_top_up_adds() -> None:
    def foretold(left_micros: int, *bought_micros: int) -> Forecast:
        events = [
            ForecastEvent(at=NOON, kind=ForecastKind.AUTO_TOPUP, amount_micros=micros)
            for micros in bought_micros
        ]
        day = ForecastDay(
            date=NOON.date(), balance_micros=left_micros, events=events, events_total=len(events)
        )
        return Forecast(available_micros=40, days=[day], due_next=[])

    # 85 are spent with it, and 30 without it.
    assert formats.saved_micros(foretold(10), foretold(5, 20, 30)) == 55
    assert formats.saved_micros(foretold(10), foretold(10)) == 0


def test_an_automatic_charge_says_what_triggered_it_and_the_threshold() -> None:
    charge = automatic_charge(trigger="purchase", threshold_micros="10000000")

    assert formats.trigger_sentence(charge) == (
        "Charged because a purchase was short of credits (threshold $10.00)"
    )


def test_a_charge_with_an_unknown_trigger_is_shown_without_a_reason() -> None:
    assert formats.trigger_sentence(automatic_charge(trigger="from a newer version")) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(60, "1 minute"), (300, "5 minutes"), (3_600, "1 hour"), (90, "90 seconds")],
)
def test_a_duration_is_written_in_whole_units(seconds: int, words: str) -> None:
    assert formats.duration(seconds) == words


def test_every_state_kind_category_and_order_has_a_name() -> None:
    unnamed = [
        value
        for names, enumeration in (
            (formats.CATEGORY_NAMES, formats.Category),
            (formats.CATEGORY_SUMMARIES, formats.Category),
            (formats.SORT_NAMES, formats.SortOrder),
            (formats.KIND_NAMES, formats.TransactionKind),
        )
        for value in enumeration
        if value not in names
    ]

    assert unnamed == []


def test_a_wallet_that_is_frozen_for_a_debt_says_how_to_settle_it() -> None:
    event = AccountFroze(
        event_id=new_id(),
        occurred_at=datetime(2026, 11, 1, tzinfo=UTC),
        user_id=new_id(),
        reason="$25.00 refunded to the card",
        balance_micros=-20_000_000,
    )

    assert account_froze(event).body == (
        "$25.00 refunded to the card, after its credits were spent: $20.00 is owed. Buy at least"
        " that much in credits. The wallet then opens by itself, unless a dispute with your bank"
        " is still open."
    )


@pytest.mark.parametrize(
    ("zone", "there"),
    [
        ("Europe/Berlin", "(13:00 in Berlin)"),
        ("Pacific/Auckland", "(23 Nov, 01:00 in Auckland)"),
        ("America/New_York", "(07:00 in New York)"),
    ],
)
def test_the_readers_own_time_stands_beside_utc(zone: str, there: str) -> None:
    assert on_one_line(there) in formats.minute(datetime(2026, 11, 22, 12, tzinfo=UTC), zone)
