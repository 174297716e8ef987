"""Gives and takes roles from the machine's side: the first operator comes from here.

::

    python -m services.gateway.roles list
    python -m services.gateway.roles grant ada@example.com operator --by you --reason "Why"
    python -m services.gateway.roles take ada@example.com operator --by you --reason "Why"

The account must exist, and its password stays as it is. Whoever has a role needs a second step of
logging in before it opens anything. It stands in the audit log as what ``--by`` did.
"""

import argparse
import getpass
import socket
import sys

from chassis.clock import utc_now
from chassis.database import connect
from chassis.settings import service_settings
from contracts.errors import ServiceError
from services.gateway.access import Role
from services.gateway.people.users import AccountError
from services.gateway.staff import acts, grants


def main(arguments: list[str] | None = None) -> int:
    """See the module; 1 where nothing was changed."""
    options = _arguments(arguments)
    database = connect(service_settings().database_url, pool_size=1)
    if options.action == "list":
        with database.read() as session:
            for holder in grants.holders(session):
                second_step = "" if holder.has_second_step else "  (second step is off)"
                print(f"{holder.email}  {grants.in_words(holder.roles)}{second_step}")
        return 0
    act = grants.grant if options.action == "grant" else grants.take
    actor = acts.Actor(None, options.by, "", f"{_login()}@{socket.gethostname()}")
    try:
        reason = acts.read_reason(options.reason)
        with database.begin() as session:
            user = grants.find(session, options.whom)
            act(session, utc_now(), actor, user.user_id, Role(options.role), reason)
            holds = grants.in_words(grants.roles_of(session, user.user_id)) or "nothing but buyer"
    except (AccountError, ServiceError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{user.email} is {holds}.")
    return 0


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.gateway.roles")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="who has which role")
    for name in ("grant", "take"):
        action = actions.add_parser(name)
        action.add_argument("whom", help="an address, or a user's id")
        action.add_argument("role", choices=[str(role) for role in grants.GIVEN])
        action.add_argument("--by", required=True, help="who does it, for the audit log")
        action.add_argument("--reason", required=True)
    return parser.parse_args(arguments)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
