"""When the books are compared: once a day, and by ``python -m services.topup.reconcile``.

    --since 2026-11-01 --until 2026-12-01    whole UTC days, the last one not included
    (nothing)                                the last three days
    --adopt                                  first, make the top-ups of payments anew that name
                                             one which is not there, as after a restore; each is
                                             credited if it was not, and what went back to cards
                                             is taken back. Said again, it does what failed

It exits with 0 when all agree, 1 when something differs or could not be made anew, 2 when the
books could not be read.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from chassis.client import RpcClient
from chassis.clock import start_of_day, utc_now
from chassis.database import connect
from chassis.metrics import Gauge
from contracts.errors import ServiceError
from services.topup import problems
from services.topup.automatic import limits
from services.topup.charging import adoption, reconciliation
from services.topup.charging.reconciliation import Found
from services.topup.models import Comparison, Difference, Topup
from services.topup.policy import Policy
from services.topup.processor import Processor, ProcessorError
from services.topup.settings import get_settings
from services.topup.till import Till
from services.topup.wallet_questions import WalletQuestions

log = logging.getLogger(__name__)

USUAL_DAYS = 3
AGREE, DIFFER = 0, 1


def daily(till: Till) -> None:
    """Compare all days since the last comparison, once a day, and the last three in any case.

    The very first begins with the first top-up. The days of differences that still stand are
    compared again until these are gone. Called more often, or before the last day has settled,
    it does nothing.
    """
    now = till.clock()
    today = limits.day_start(now)
    with till.database.exclusively("topup.reconciliation") as is_mine:
        with till.database.read() as session:
            last = session.scalar(select(func.max(Comparison.until)))
            begun = last or session.scalar(select(func.min(Topup.created_at))) or now
            standing = session.scalars(
                select(Difference.occurred_at).where(
                    Difference.gone_at.is_(None), Difference.code != reconciliation.UNEXPLAINED
                )
            ).all()
        is_settled = now >= today + reconciliation.SETTLES_WITHIN
        if not is_mine or not is_settled or (last is not None and last >= today):
            return
        since = min(limits.day_start(begun), today - timedelta(days=USUAL_DAYS))
        older = {limits.day_start(moment) for moment in standing if moment < since}
        periods = [*((day, limits.day_end(day)) for day in sorted(older)), (since, today)]
        found = {
            difference.key
            for start, end in periods
            for difference in reconciliation.reconcile(till, start, end)
        }
        with till.database.begin() as session:
            session.add(Comparison(compared_at=now, since=since, until=today))
    log.log(
        logging.ERROR if found else logging.INFO,
        "the books were compared",
        extra={"differences": len(found), "since": f"{since}", "until": f"{today}"},
    )


GAUGES = {
    "reconciliation_differences": Gauge(
        "Differences between the card processor, the top-ups and the ledger that still stand.",
        "SELECT CASE WHEN count(*) > 0 OR EXISTS (SELECT FROM comparisons) THEN count(*) END"
        " FROM differences WHERE gone_at IS NULL",
    ),
    "reconciliation_oldest_difference_seconds": Gauge(
        "How long ago the oldest of them came to be.",
        "SELECT extract(epoch FROM :now - min(occurred_at)) FROM differences WHERE gone_at IS NULL",
    ),
    "credit_audit_age_seconds": Gauge(
        "How long ago the ledger's credits were looked at.",
        "SELECT extract(epoch FROM :now - looked_at) FROM credit_audit",
    ),
    "reconciliation_age_seconds": Gauge(
        "How long ago the books were compared by the daily timer.",
        "SELECT extract(epoch FROM :now - max(compared_at)) FROM comparisons",
    ),
}


def period(since: str | None, until: str | None, now: datetime) -> tuple[datetime, datetime]:
    """The days to compare, in UTC. What is younger than a quarter of an hour is left out.

    Raises ``ValueError`` for dates that make no sense.
    """
    latest = now - reconciliation.SETTLES_WITHIN
    last = start_of_day(until) if until else latest
    first = start_of_day(since) if since else limits.day_start(now) - timedelta(days=USUAL_DAYS)
    last = min(last, latest)
    if first >= last:
        raise ValueError("the period ends before it begins")
    return first, last


def report(found: list[Found], now: datetime) -> str:
    """One line for each difference, with its age."""
    lines = [
        problems.line(now - item.since, item.code, item.reference, item.message) for item in found
    ]
    return "\n".join([*lines, f"{len(found)} differences" if found else "The books agree."])


def run(till: Till, since: datetime, until: datetime, *, adopts: bool) -> int:
    """Compare, after what a restore lost was made anew if ``adopts``, and print what differs.

    Raises ``ProcessorError``, ``ServiceError`` and ``SQLAlchemyError`` from comparing.
    """
    is_mended = _mend(till, since, until) if adopts else True
    found = reconciliation.reconcile(till, since, until)
    print(report(found, till.clock()))
    return AGREE if is_mended and not found else DIFFER


def _mend(till: Till, since: datetime, until: datetime) -> bool:
    orphans = _ids(reconciliation.reconcile(till, since, until), reconciliation.WITHOUT_TOPUP)
    adopted = [_done(adoption.adopt, till, payment_id) for payment_id in orphans]
    print(f"{sum(isinstance(each, Topup) for each in adopted)} payments have their top-up back.")
    # What went back of a payment is compared once it has its top-up.
    unknown = _ids(reconciliation.reconcile(till, since, until), reconciliation.REVERSAL_DIFFERS)
    taken = [_done(adoption.take_back, till, source_id) for source_id in unknown]
    return not any(isinstance(each, Exception) for each in (*adopted, *taken))


def _ids(found: list[Found], code: str) -> list[str]:
    return [item.reference for item in found if item.code == code]


def _done(mend: Callable[[Till, str], Topup | None], till: Till, id_: str) -> object:
    """What came of one, or its error, which is printed: it keeps no other from being done."""
    try:
        return mend(till, id_)
    except Exception as error:
        print(f"{id_} could not be made anew: {type(error).__name__}: {error}", file=sys.stderr)
        return error


def main(arguments: list[str] | None = None) -> int:
    """Compare and print. See the head of this file."""
    parser = argparse.ArgumentParser(prog="reconcile", description="Compare the three books.")
    parser.add_argument("--since", help="the first day, such as 2026-11-01 (UTC)")
    parser.add_argument("--until", help="the day after the last one")
    parser.add_argument("--adopt", action="store_true", help="after a restore: see the head")
    given = parser.parse_args(arguments)
    try:
        since, until = period(given.since, given.until, utc_now())
    except ValueError as error:
        parser.error(str(error))
    settings = get_settings()
    client = RpcClient(settings.amqp_uri, name="topup")
    try:
        till = Till(
            database=connect(settings.database_url),
            processor=Processor.from_settings(settings),
            wallet=WalletQuestions(client),
            policy=Policy.from_settings(settings),
            public_url=settings.public_url,
            clock=utc_now,
            later=lambda work, *arguments, owner: None,  # noqa: ARG005
        )
        return run(till, since, until, adopts=given.adopt)
    except (ProcessorError, ServiceError, SQLAlchemyError) as error:
        print(f"The books could not be read: {error}", file=sys.stderr)
        return problems.UNREADABLE
    finally:
        client.close()


if __name__ == "__main__":
    raise SystemExit(main())
