"""Count what the other services have on record, and what was not heard of it yet.

    python -m services.analytics.refill [--registrations FILE]

FILE is what ``python -m services.gateway.registrations`` prints: the website answers no calls.
What was counted before is not counted again, so that it may run at any time, beside the service,
and twice. docs/analytics.md says what no record tells. It exits with 2 when a service or the
database does not answer, or the file makes no sense: run it again, then.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from chassis.client import RpcClient
from chassis.database import Connected, connect
from contracts.analytics import SERVICE
from contracts.billing import ExportDeployments, ExportPurchases
from contracts.errors import ServiceError
from contracts.messages import moment_from
from contracts.topup import ExportAutoTopup, ExportTopups
from services.analytics.counting import count
from services.analytics.facts import (
    Told,
    of_auto_topup,
    of_deployment,
    of_purchase,
    of_topup,
    registered,
)
from services.analytics.settings import get_settings

TOGETHER = 500
"""So many records share a transaction: events wait for its end."""


def main(arguments: list[str] | None = None) -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="python -m services.analytics.refill")
    parser.add_argument("--registrations", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    settings = get_settings()
    database = connect(settings.database_url, pool_size=2)
    rpc = RpcClient(settings.amqp_uri, SERVICE, settings.broker_heartbeat_s)
    try:
        if given.registrations is not None:
            _count("registrations", database, registrations(given.registrations))
        _count("purchases", database, purchases(rpc))
        _count("deployments", database, deployments(rpc))
        _count("top-ups", database, topups(rpc))
        _count("settings of auto top-up", database, auto_topups(rpc))
    except (ServiceError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except SQLAlchemyError as error:
        print(f"The database does not answer: {error}", file=sys.stderr)
        return 2
    finally:
        rpc.close()
        database.engine.dispose()
    return 0


def _count(what: str, database: Connected, pages: Iterable[list[Told]]) -> None:
    print(f"{refill(database, pages):,} {what} were looked at.")


def refill(database: Connected, pages: Iterable[list[Told]]) -> int:
    """Count each page in a transaction of its own; how many records there were."""
    total = 0
    for page in pages:
        with database.begin() as session:
            count(session, page)
        total += len(page)
    return total


def purchases(rpc: RpcClient) -> Iterator[list[Told]]:
    """Everybody's purchases, page by page."""
    cursor = None
    while True:
        page = rpc.call(ExportPurchases(cursor=cursor, limit=TOGETHER))
        yield [of_purchase(record) for record in page.records]
        if (cursor := page.next_cursor) is None:
            return


def deployments(rpc: RpcClient) -> Iterator[list[Told]]:
    """Everybody's deployments, page by page."""
    cursor = None
    while True:
        page = rpc.call(ExportDeployments(cursor=cursor, limit=TOGETHER))
        yield [of_deployment(record) for record in page.records]
        if (cursor := page.next_cursor) is None:
            return


def topups(rpc: RpcClient) -> Iterator[list[Told]]:
    """Everybody's top-ups, page by page."""
    cursor = None
    while True:
        page = rpc.call(ExportTopups(cursor=cursor, limit=TOGETHER))
        yield [of_topup(record) for record in page.records]
        if (cursor := page.next_cursor) is None:
            return


def auto_topups(rpc: RpcClient) -> Iterator[list[Told]]:
    """Everybody's settings of auto top-up, page by page."""
    cursor = None
    while True:
        page = rpc.call(ExportAutoTopup(cursor=cursor, limit=TOGETHER))
        yield [of_auto_topup(record) for record in page.records]
        if (cursor := page.next_cursor) is None:
            return


def registrations(file: Path) -> Iterator[list[Told]]:
    """Who registered when, from lines of an id and a moment. Raises ValueError for another line."""
    page: list[Told] = []
    with file.open() as lines:
        for number, line in enumerate(lines, start=1):
            try:
                user_id, moment = line.split()
                page.append(registered(UUID(user_id), moment_from(moment)))
            except ValueError as error:
                raise ValueError(
                    f"{file}, line {number}: an id and a moment were expected ({error})."
                ) from None
            if len(page) == TOGETHER:
                yield page
                page = []
    yield page


if __name__ == "__main__":
    sys.exit(main())
