"""What an operator is to look at now: the plan's four alerts.

A share that is too high is an alert from the step on in which it began to be, as long as each step
since then in which anything happened is too high. Steps in which nothing happened say nothing; and
an alert ends when nothing happened for a while.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.analytics import Numbers
from contracts.topup import Problem
from services.gateway.response_times import Counted

WHOLE_BPS = 10_000
PURCHASES_BPS = 500
TOPUPS_BPS = 1_000
SLOW_BPS = 500
HOURS_FOR = timedelta(hours=2)
"""What an hour said is looked at for so long from its beginning on: this one and the last."""
ANSWERS_FOR = timedelta(minutes=15)
OF_THE_PAYER = frozenset({"topup_failed", "dispute_open"})
"""Problems of one person and their card: they stand among the problems, and wake up nobody."""


@dataclass(frozen=True)
class Alert:
    """Something is wrong since then; ``advice`` says what to do."""

    title: str
    since: datetime
    message: str
    advice: str


def of_purchases(numbers: Numbers, now: datetime) -> list[Alert]:
    """More than one of twenty purchases failed, of those that nobody gave up."""
    steps = [
        Counted(
            point.starts_at,
            point.purchases_failed,
            point.purchases_failed + point.purchases_completed,
        )
        for point in numbers.points
    ]
    return _share(
        "Purchases fail",
        "purchases failed",
        PURCHASES_BPS,
        too_high(steps, PURCHASES_BPS, now, HOURS_FOR),
        "Below stands why they ended; Operations says which service does not answer.",
    )


def of_topups(numbers: Numbers, now: datetime) -> list[Alert]:
    """More than one of ten automatic charges was declined."""
    steps = [
        Counted(
            point.starts_at,
            point.topups_auto_failed,
            point.topups_auto_failed + point.topups_auto,
        )
        for point in numbers.points
    ]
    return _share(
        "Automatic top-ups fail",
        "automatic top-ups failed",
        TOPUPS_BPS,
        too_high(steps, TOPUPS_BPS, now, HOURS_FOR),
        "A declined card is its owner's matter. Where the processor itself fails, stop automatic"
        " charges until it has recovered; Operations says why they fail.",
    )


def of_answers(steps: Sequence[Counted], now: datetime) -> list[Alert]:
    """More than one of twenty answers of the site took over a second."""
    return _share(
        "Answers are slow",
        "answers took over a second",
        SLOW_BPS,
        too_high(steps, SLOW_BPS, now, ANSWERS_FOR),
        "Operations says which service does not answer or has a queue; /metrics of the website,"
        " which pages are slow.",
    )


def of_payments(problems: Iterable[Problem]) -> list[Alert]:
    """The card processor, or our books of it, need a look."""
    ours = [problem for problem in problems if problem.code not in OF_THE_PAYER]
    if not ours:
        return []
    codes = ", ".join(sorted({problem.code.replace("_", " ") for problem in ours}))
    return [
        Alert(
            "Payments need a look",
            min(problem.since for problem in ours),
            f"{len(ours)} of them: {codes}.",
            "They are listed under Charges. Where the processor does not answer, stop automatic"
            " charges; what is open is found out by itself once it does.",
        )
    ]


def too_high(
    steps: Sequence[Counted], limit_bps: int, now: datetime, shown_for: timedelta
) -> list[Counted]:
    """The steps up to now, the earliest first, in each of which more than so much was counted."""
    told = [step for step in steps if step.answered]
    high: list[Counted] = []
    for step in reversed(told):
        if step.count * WHOLE_BPS <= limit_bps * step.answered:
            break
        high.insert(0, step)
    return high if high and high[-1].starts_at > now - shown_for else []


def _share(
    title: str, what: str, limit_bps: int, high: Sequence[Counted], advice: str
) -> list[Alert]:
    if not high:
        return []
    count, of = sum(step.count for step in high), sum(step.answered for step in high)
    message = f"{count:,} of {of:,} {what}; the limit is {limit_bps // 100} %."
    return [Alert(title, high[0].starts_at, message, advice)]
