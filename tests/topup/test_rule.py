"""The rule that decides about an automatic charge, by itself: no database, no clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.identifiers import new_id
from contracts.topup import RefusalCode, Trigger
from services.topup.automatic.limits import Usage
from services.topup.automatic.rule import Charge, Refusal, Situation, _wallet_silent, decide
from services.topup.models import AutoTopupSettings, TriggerRecord
from services.topup.policy import Policy
from services.topup.wallet_questions import Funds

USD = 1_000_000
NOW = datetime(2027, 3, 10, 12, 0, tzinfo=UTC)


def settings(**changes: Any) -> AutoTopupSettings:
    values: dict[str, Any] = {
        "user_id": new_id(),
        "is_enabled": True,
        "consent_id": new_id(),
        "threshold_micros": 10 * USD,
        "amount_micros": 25 * USD,
        "payment_method_id": "pm_first",
        "backup_payment_method_id": None,
        "daily_limit_micros": None,
        "monthly_limit_micros": None,
        "paused_code": "",
        "paused_reason": "",
        "declined_payment_method_id": None,
        "cool_down_until": None,
        **changes,
    }
    return AutoTopupSettings(**values)


def decision(
    chosen: AutoTopupSettings | None = None,
    usage: Usage | None = None,
    funds: Funds | None = None,
    trigger: Trigger = Trigger.PURCHASE,
    waiting_micros: int = 5 * USD,
    policy: Policy | None = None,
) -> Charge | Refusal:
    return decide(
        Situation(
            policy or Policy(),
            chosen or settings(),
            usage or Usage(),
            funds or Funds(available_micros=0),
            trigger,
            waiting_micros,
            NOW,
        )
    )


def refusal(*arguments: Any, **named: Any) -> RefusalCode:
    decided = decision(*arguments, **named)
    assert isinstance(decided, Refusal)
    assert decided.reason
    return decided.code


def test_the_configured_amount_is_charged_where_it_covers_the_gap() -> None:
    assert decision() == Charge(25 * USD, "pm_first")


def test_a_larger_gap_is_closed_by_one_charge() -> None:
    assert decision(waiting_micros=90 * USD) == Charge(90 * USD, "pm_first")


def test_part_of_a_cent_is_charged_as_a_whole_one() -> None:
    assert decision(waiting_micros=90 * USD + 1) == Charge(90 * USD + 10_000, "pm_first")


def test_a_low_balance_is_brought_to_the_threshold_at_least() -> None:
    chosen = settings(threshold_micros=80 * USD)

    assert decision(chosen, trigger=Trigger.LOW_BALANCE, waiting_micros=0) == Charge(
        80 * USD, "pm_first"
    )


@pytest.mark.parametrize("trigger", [Trigger.LOW_BALANCE, Trigger.SETTINGS_SAVED, Trigger.BY_HAND])
@pytest.mark.parametrize(
    "changes",
    [
        {"threshold_micros": 500 * USD, "daily_limit_micros": 100 * USD},
        {"threshold_micros": 500 * USD, "monthly_limit_micros": 100 * USD},
        {"threshold_micros": 5_000 * USD},
    ],
)
def test_a_gap_to_the_threshold_above_a_limit_is_closed_in_parts(
    trigger: Trigger, changes: dict[str, int]
) -> None:
    assert decision(settings(**changes), trigger=trigger, waiting_micros=0) == Charge(
        25 * USD, "pm_first", is_part=True
    )


def test_a_part_keeps_the_limits_too() -> None:
    chosen = settings(threshold_micros=500 * USD, daily_limit_micros=100 * USD)
    used = Usage(day_micros=80 * USD)

    assert refusal(chosen, used, trigger=Trigger.LOW_BALANCE) == RefusalCode.DAILY_LIMIT


@pytest.mark.parametrize("trigger", [Trigger.PURCHASE, Trigger.LOW_BALANCE])
def test_a_purchase_above_a_limit_is_not_charged_in_parts(trigger: Trigger) -> None:
    chosen = settings(daily_limit_micros=100 * USD)
    funds = Funds(available_micros=20 * USD)

    code = refusal(chosen, funds=funds, trigger=trigger, waiting_micros=500 * USD)

    assert code == RefusalCode.DAILY_LIMIT


def test_without_settings_it_is_off() -> None:
    decided = decide(Situation(Policy(), None, Usage(), Funds(0), Trigger.PURCHASE, 5 * USD, NOW))

    assert isinstance(decided, Refusal)
    assert decided.code == RefusalCode.DISABLED


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        (RefusalCode.DISABLED, {"is_enabled": False}),
        (RefusalCode.DISABLED, {"consent_id": None}),
        (RefusalCode.PAUSED, {"paused_code": "card_refused", "paused_reason": "Declined."}),
        (RefusalCode.NO_CARD, {"payment_method_id": None}),
        (RefusalCode.COOL_DOWN, {"cool_down_until": NOW + timedelta(seconds=1)}),
        (RefusalCode.DAILY_LIMIT, {"daily_limit_micros": 24 * USD}),
        (RefusalCode.MONTHLY_LIMIT, {"monthly_limit_micros": 24 * USD}),
    ],
)
def test_settings_refuse(code: RefusalCode, changes: dict[str, Any]) -> None:
    assert refusal(settings(**changes)) == code


@pytest.mark.parametrize(
    ("code", "usage"),
    [
        (RefusalCode.PAUSED, Usage(has_open_dispute=True)),
        (RefusalCode.STOPPED_BY_OPERATOR, Usage(is_stopped=True)),
        (RefusalCode.IN_FLIGHT, Usage(in_flight_topup_id=new_id())),
        (RefusalCode.IN_FLIGHT, Usage(is_credit_on_its_way=True)),
        (RefusalCode.SYSTEM_CAP, Usage(user_hour_count=10)),
        (RefusalCode.SYSTEM_CAP, Usage(user_hour_micros=9_980 * USD)),
        (RefusalCode.SYSTEM_CAP, Usage(system_hour_count=2_000)),
        (RefusalCode.SYSTEM_CAP, Usage(system_hour_micros=199_980 * USD)),
    ],
)
def test_what_is_used_refuses(code: RefusalCode, usage: Usage) -> None:
    assert refusal(usage=usage) == code


def test_a_limit_that_is_just_reached_is_not_exceeded() -> None:
    chosen = settings(daily_limit_micros=50 * USD)

    assert decision(chosen, Usage(day_micros=25 * USD)) == Charge(25 * USD, "pm_first")


def test_a_limit_says_when_it_starts_anew() -> None:
    decided = decision(settings(daily_limit_micros=30 * USD), Usage(day_micros=25 * USD))

    assert isinstance(decided, Refusal)
    assert (decided.retry_at, decided.reason) == (
        datetime(2027, 3, 11, tzinfo=UTC),
        (
            "A charge of $25.00 would exceed the daily limit of $30.00: $25.00 is used."
            " It resets on 2027-03-11 at 00:00 UTC."
        ),
    )


def test_the_operators_setting_stops_everything() -> None:
    assert refusal(policy=Policy(is_stopped=True)) == RefusalCode.STOPPED_BY_OPERATOR


@pytest.mark.parametrize(("tries", "wait_s"), [(0, 20), (1, 40), (4, 320), (5, 600), (99, 600)])
def test_a_wallet_that_does_not_answer_is_asked_less_and_less_often(
    tries: int, wait_s: int
) -> None:
    silent = _wallet_silent(TriggerRecord(tries=tries), NOW)

    assert silent.retry_at == NOW + timedelta(seconds=wait_s)


def test_more_than_the_largest_topup_is_for_a_person_to_pay() -> None:
    assert refusal(waiting_micros=2_001 * USD) == RefusalCode.AMOUNT_TOO_LARGE


def test_the_backup_card_is_next_after_a_decline_of_the_first() -> None:
    chosen = settings(backup_payment_method_id="pm_backup", declined_payment_method_id="pm_first")

    assert decision(chosen) == Charge(25 * USD, "pm_backup")


def test_after_a_decline_of_the_backup_the_first_card_is_next() -> None:
    chosen = settings(backup_payment_method_id="pm_backup", declined_payment_method_id="pm_backup")

    assert decision(chosen) == Charge(25 * USD, "pm_first")


amounts = st.integers(min_value=0, max_value=3_000 * USD)


@given(
    available=st.integers(min_value=-500 * USD, max_value=3_000 * USD),
    waiting=amounts,
    threshold=amounts,
    amount=st.integers(min_value=500, max_value=200_000).map(lambda cents: cents * 10_000),
    used=amounts,
    limit=st.none() | amounts,
    trigger=st.sampled_from(Trigger),
)
def test_a_charge_closes_the_gap_keeps_the_limits_and_is_whole_cents(
    available: int,
    waiting: int,
    threshold: int,
    amount: int,
    used: int,
    limit: int | None,
    trigger: Trigger,
) -> None:
    chosen = settings(threshold_micros=threshold, amount_micros=amount, daily_limit_micros=limit)
    decided = decision(
        chosen, replace(Usage(), day_micros=used), Funds(available), trigger, waiting
    )
    if isinstance(decided, Refusal):
        return

    assert decided.amount_micros % 10_000 == 0
    assert decided.amount_micros >= amount
    assert decided.is_part or decided.amount_micros >= waiting - available
    assert decided.amount_micros < max(amount, waiting - available, threshold - available) + 10_000
    assert limit is None or used + decided.amount_micros <= limit
