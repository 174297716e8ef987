"""The operator's command for the pools of the old coin.

    python -m services.legacy.pool_book verify
    python -m services.legacy.pool_book adjust USER COIN AMOUNT --by NAME --reason TEXT
    python -m services.legacy.pool_book announce

``verify`` derives the book again and asks the wallet about every order with dollars. ``adjust``
gives somebody an amount of a coin, or takes it where it is below zero (``--`` before it then).
``announce`` has billing hear anew what everybody's stake takes off purchases: after the table of
discounts was changed, and once where people staked before there was one. It
exits with 0 when all is well, with 1 when something differs or is refused, and with 2 when a
service or the database does not answer.
"""

import argparse
import sys
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected, connect
from contracts.errors import BadRequest, Conflict, ServiceError
from services.legacy.pools import adjusting, benefits, verifying
from services.legacy.pools.book import HELD_MAX
from services.legacy.reading.amounts import Unreadable, in_units, parse
from services.legacy.settings import get_settings

ANNOUNCED_AT_ONCE = 500


def main(arguments: list[str] | None = None) -> int:
    """See the head of this file."""
    given = _parser().parse_args(arguments)
    settings = get_settings()
    database = connect(settings.database_url, pool_size=2)
    rpc = RpcClient(settings.amqp_uri, "legacy", settings.broker_heartbeat_s)
    try:
        is_well: bool = given.do(database, rpc, given)
    except (BadRequest, Conflict) as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except (ServiceError, SQLAlchemyError) as error:
        print(f"No answer: {error}", file=sys.stderr)
        return 2
    finally:
        rpc.close()
    return 0 if is_well else 1


def _verify(database: Connected, rpc: RpcClient, _given: argparse.Namespace) -> bool:
    differences = list(verifying.verify(database, rpc))
    for difference in differences:
        print(difference)
    print(f"{len(differences)} differences.")
    return not differences


def _adjust(database: Connected, _rpc: RpcClient, given: argparse.Namespace) -> bool:
    try:
        units = in_units(parse(given.amount)).micros
    except Unreadable as error:
        raise BadRequest(f"The amount: {error}.") from None
    if not 0 < abs(units) <= HELD_MAX:
        raise BadRequest("The amount: it is nothing, or more than can be held.")
    note = f"{given.by}: {given.reason}"
    with database.begin() as session:
        adjusting.adjust(session, utc_now(), given.user, given.coin, units, note)
    print(f"{given.user}: {given.amount} {given.coin}.")
    return True


def _announce(database: Connected, _rpc: RpcClient, _given: argparse.Namespace) -> bool:
    reached: UUID | None = None
    while True:
        with database.begin() as session:
            reached = benefits.announce_some(session, utc_now, reached, ANNOUNCED_AT_ONCE)
        if reached is None:
            print("Billing hears what everybody's stake takes off.")
            return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.legacy.pool_book")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("verify").set_defaults(do=_verify)
    adjust = commands.add_parser("adjust")
    adjust.add_argument("user", type=UUID)
    adjust.add_argument("coin")
    adjust.add_argument("amount")
    adjust.add_argument("--by", required=True)
    adjust.add_argument("--reason", required=True)
    adjust.set_defaults(do=_adjust)
    commands.add_parser("announce").set_defaults(do=_announce)
    return parser


if __name__ == "__main__":
    sys.exit(main())
