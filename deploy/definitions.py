"""Who may do what on the broker: RabbitMQ's definitions, loaded when it boots.

The local runner writes them for its own node. For a container,
``python -m deploy.definitions FILE`` writes them with the passwords of the environment
(``RABBITMQ_ADMIN_PASSWORD``, ``WALLET_AMQP_PASSWORD``, …).

Another service gets a login of its own from

    python -m deploy.definitions login reports --may-call wallet.get_wallet --listens-to billing
    python -m deploy.definitions login provisioner    # the example, with the rights that it needs

which prints what ``rabbitmqctl import_definitions`` takes (docs/rpc.md). For a cluster of three
nodes ``python -m deploy.definitions cluster FILE`` writes besides what puts every durable queue on
all of them, and keeps it from dropping messages (docs/clusters.md).

RabbitMQ has two walls. Permissions say which exchanges and queues a login may declare, write to
and read from. Topic permissions say with which routing keys, on the exchanges that carry calls.
What they cannot tell, ``chassis.rpc`` refuses where a call arrives: one that came round the
exchange on whose routing keys the broker has looked
(docs/decisions/0009-walls-inside-the-broker.md).
"""

import argparse
import base64
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import parts

VHOST = "mycelium"
ADMIN = "mycelium_admin"
CALLS = "nameko-rpc"
STOCK_CALLS = "amq.topic"
"""Where stock nameko calls: it is there in every virtual host, and no client declares it."""

OPERATED = ("get_state", "get_dead_letters", "replay_dead_letter", "discard_dead_letter")
"""What every service answers an operator: ``contracts.operating``, which is not there where the
broker's container runs this."""

Entries = list[dict[str, Any]]


@dataclass(frozen=True)
class Login:
    """What a service, or another caller, may do.

    ``calls`` are the methods it may call, as ``service.method``; ``listens_to`` the services
    whose events it may hear, and ``publishes_for`` those whose events it may send. Its own calls,
    replies, events and failed messages are its own in any case. ``answers``: it has methods of its
    own, and so sends replies. ``is_ours``: it runs on ``chassis``, and needs nothing of what stock
    nameko does.
    """

    name: str
    calls: tuple[str, ...] = ()
    listens_to: tuple[str, ...] = ()
    publishes_for: tuple[str, ...] = ()
    answers: bool = True
    is_ours: bool = False


LOGINS = (
    Login("wallet", listens_to=("topup",), is_ours=True),
    Login("catalog", listens_to=("gateway",), is_ours=True),
    Login(
        "billing",
        calls=(
            "catalog.get_product",
            "catalog.get_quote",
            "catalog.list_products",
            "catalog.hold_stock",
            "catalog.release_stock",
            "catalog.reserve_stock",
            "topup.forecast_schedule",
            # Of the version before, which runs beside this one for a while. Goes with the next.
            "topup.get_auto_topup_state",
            "topup.get_auto_topup_states",
            "catalog.return_stock",
            "wallet.capture",
            "wallet.close_key",
            "wallet.debit",
            "wallet.debit_all",
            "wallet.get_wallets",
            "wallet.hold",
            "wallet.refund",
            "wallet.void",
        ),
        listens_to=("catalog", "legacy", "topup", "wallet"),
        is_ours=True,
    ),
    # Questions, and a hold for what is to go back to a card: the money itself travels as an event.
    Login(
        "topup",
        calls=(
            "wallet.get_by_key",
            "wallet.get_unused_topups",
            "wallet.get_wallet",
            "wallet.get_wallets",
            "wallet.hold",
            "wallet.list_credits",
            "wallet.statement",
            "wallet.totals",
        ),
        listens_to=("billing", "wallet"),
        is_ours=True,
    ),
    # It brings people's old balances, and exchanges dollars in its pools: out of the house accounts
    # for that, and with its own keys.
    Login(
        "legacy",
        calls=(
            "billing.list_deployments",
            "wallet.capture",
            "wallet.credit",
            "wallet.get_wallets",
            "wallet.hold",
            "wallet.post_batch",
            "wallet.statement",
            "wallet.void",
        ),
        listens_to=("gateway",),
        is_ours=True,
    ),
    # It listens. What it may call is for its command, which counts what is on record.
    Login(
        "analytics",
        calls=(
            "billing.export_deployments",
            "billing.export_purchases",
            "topup.export_auto_topup",
            "topup.export_topups",
        ),
        listens_to=("billing", "gateway", "topup"),
        is_ours=True,
    ),
    Login(
        "gateway",
        calls=(
            "analytics.get_kpis",
            "analytics.get_numbers",
            "analytics.get_popular_products",
            "analytics.get_retention",
            "billing.cancel_deployment",
            "billing.cancel_purchase",
            "billing.find_purchase",
            "billing.get_burn_rate",
            "billing.get_deployment",
            "billing.get_discounts",
            "billing.get_forecast",
            "billing.get_purchase",
            "billing.get_product_uses",
            "billing.get_receipt",
            "billing.get_sales_sums",
            "billing.issue_receipt",
            "billing.get_usage",
            "billing.list_deployments",
            "billing.list_paid_months",
            "billing.list_payouts",
            "billing.list_purchases",
            "billing.list_resizes",
            "billing.list_sales",
            "billing.mark_payout_paid",
            "billing.refund_purchase",
            "billing.refuse_payout",
            "billing.rename_deployment",
            "billing.render_receipt",
            "billing.request_payout",
            "billing.resize_deployment",
            "billing.return_purchase",
            "billing.start_deployment",
            "billing.start_purchase",
            "billing.stop_deployment",
            "catalog.change_product",
            "catalog.count_products",
            "catalog.create_product",
            "catalog.get_price_history",
            "catalog.get_product",
            "catalog.get_provider",
            "catalog.get_quote",
            "catalog.list_products",
            "catalog.retire_product",
            "catalog.set_provider",
            "legacy.get_old_history",
            "legacy.get_pool_history",
            "legacy.get_pools",
            "legacy.quote_addition",
            "legacy.quote_exchange",
            "legacy.quote_withdrawal",
            "legacy.stake",
            "legacy.take_quote",
            "legacy.unstake",
            "topup.configure_auto_topup",
            "topup.forecast_charges",
            "topup.forecast_charges_of_many",
            "topup.get_auto_topup",
            "topup.get_auto_topup_state",
            "topup.get_auto_topup_states",
            "topup.get_card_refund",
            "topup.get_consent",
            "topup.get_operator_switch",
            "topup.get_payment_books",
            "topup.get_receipt",
            "topup.get_topup",
            "topup.get_topup_overview",
            "topup.list_card_refunds",
            "topup.list_payment_methods",
            "topup.list_problems",
            "topup.list_refundable",
            "topup.list_topups",
            "topup.preview_auto_topup",
            "topup.receive_webhook",
            "topup.refund_topup",
            "topup.remove_payment_method",
            "topup.render_receipt",
            "topup.set_default_payment_method",
            "topup.set_operator_switch",
            "topup.start_card_setup",
            "topup.start_topup",
            "topup.trigger_auto_topup",
            "wallet.ask_verification",
            "wallet.check_affordability",
            "wallet.decide_adjustment",
            "wallet.get_books",
            "wallet.get_journal",
            "wallet.get_level",
            "wallet.get_promotions",
            "wallet.get_wallet",
            "wallet.get_wallets",
            "wallet.give_promotion",
            "wallet.list_adjustments",
            "wallet.open_account",
            "wallet.propose_adjustment",
            "wallet.set_level",
            "wallet.statement",
            "wallet.transfer",
            # For operators: of each service how it is, and its dead letters.
            *(f"{name}.{method}" for name in parts.LISTENERS for method in OPERATED),
        ),
        listens_to=("billing", "topup"),
        answers=False,
        is_ours=True,
    ),
    # The website runs no relay: the process beside it sends what stands in its outbox.
    Login(
        "notifier",
        calls=("wallet.close_key",),
        listens_to=("billing", "legacy", "topup", "wallet"),
        publishes_for=("gateway",),
        is_ours=True,
    ),
)
"""The services. Nobody of them but ``legacy``, which pays what people bring along and what its
pools give, may call what makes money or moves it by hand (``credit``, ``adjust``, ``reverse``…):
that takes a login of a person's. The website may have a user send credits to another
(``transfer``), as it may have one buy, a seller change what is their own in the catalog, support
give back what was paid for a purchase (``billing.refund_purchase``), and finance propose an
adjustment that only somebody else approves: the wallet refuses all others
(``propose_adjustment``, ``decide_adjustment``)."""

PROVISIONER = Login(
    "provisioner",
    calls=("billing.record_usage", "billing.report_deployment"),
    listens_to=("billing",),
    answers=False,
    is_ours=True,
)
"""The example in deploy/examples/provisioner, which is no part of the product."""

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_A_REPLY = rf"rpc\.reply-[a-z0-9_]+-{_UUID}"
_NOTHING = ""
"""RabbitMQ matches no name with an empty pattern."""


def permissions(login: Login) -> dict[str, str]:
    """The exchanges and queues that RabbitMQ must allow a login, as patterns of names.

    It may declare and delete what bears its name, and nothing else: the exchanges of others are
    there before it comes. Nobody may write to the default exchange, which would put a message
    into any queue.
    """
    name = re.escape(login.name)
    own = [
        f"rpc-{name}",
        rf"rpc\.reply-{name}-{_UUID}",
        rf"evt-[a-z_]+-[a-z_]+--{name}\..+",
        rf"{name}\.(events|queues|dead-letters|retry\.[0-9]+s)",
    ]
    exchanges = [CALLS]
    if not login.is_ours:
        # What stock nameko calls the reply queue of a script.
        own.append(rf"rpc\.reply-standalone_rpc_proxy-{_UUID}")
        exchanges.append(re.escape(STOCK_CALLS))
    sources = [rf"{source}\.events" for source in login.listens_to]
    targets = [rf"{source}\.events" for source in login.publishes_for]
    return {
        "configure": _any_of(own),
        "write": _any_of([*own, *exchanges, *targets]),
        "read": _any_of([*own, *exchanges, *sources]),
    }


def topic_permissions(login: Login) -> list[dict[str, str]]:
    """With which routing keys a login may send and listen, on the exchanges that carry calls.

    It sends the calls that it may make, and replies. A reply's key holds a random number that
    its caller chose, so that nobody can answer what he was not asked. Patterns match keys as
    they are given: none matches a wildcard but ``<its own name>.*``.
    """
    name = re.escape(login.name)
    replies = [_A_REPLY, _UUID] if login.answers else []
    write = _any_of([*map(re.escape, login.calls), *replies])
    ours = {
        "exchange": CALLS,
        "write": write,
        "read": _any_of([rf"{name}\.\*", rf"rpc\.reply-{name}-{_UUID}"]),
    }
    stock = {
        "exchange": STOCK_CALLS,
        "write": write,
        "read": _any_of([rf"{name}\.\*", _UUID]),
    }
    return [ours] if login.is_ours else [ours, stock]


def _any_of(patterns: Iterable[str]) -> str:
    joined = "|".join(patterns)
    return f"^({joined})$" if joined else _NOTHING


def access(vhost: str, logins: Iterable[Login] = LOGINS) -> dict[str, Entries]:
    """A virtual host with its exchanges and with what each login may do in it."""
    logins = tuple(logins)
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    return {
        "vhosts": [{"name": vhost}],
        "permissions": [
            {"user": ADMIN, "vhost": vhost, **everything},
            *({"user": login.name, "vhost": vhost, **permissions(login)} for login in logins),
        ],
        "topic_permissions": [
            {"user": login.name, "vhost": vhost, **allowed}
            for login in logins
            for allowed in topic_permissions(login)
        ],
        "exchanges": [
            _topic_exchange(vhost, name)
            for name in (CALLS, *(f"{login.name}.events" for login in logins))
        ],
        "bindings": [
            # Calls of stock nameko have two words, and the replies to them one.
            _binding(vhost, STOCK_CALLS, CALLS, "*.*"),
            _binding(vhost, CALLS, STOCK_CALLS, "*"),
            *(
                _binding(vhost, CALLS, STOCK_CALLS, f"{login.name}.*")
                for login in logins
                if not login.is_ours
            ),
        ],
    }


def replicated(access: Mapping[str, Entries]) -> dict[str, Entries]:
    """The same for a cluster: durable queues are quorum queues, with the policies that these need.

    The type is the virtual host's default, and none of whoever declares a queue: a policy cannot
    set it, and an argument would be refused to those who declare the same queue without it.
    """
    (vhost,) = access["vhosts"]
    metadata = {"description": "", "tags": [], "default_queue_type": "quorum"}
    return {
        **access,
        "vhosts": [{**vhost, "metadata": metadata}],
        "policies": policies(vhost["name"]),
    }


CLUSTER_SETTINGS = """\
cluster_partition_handling = pause_minority
net_ticktime = 20
"""
"""Of each node of a cluster, in ``rabbitmq.conf``: one that is cut off from the others stops, and
is missed after 25 s at most. By default it is a minute and more, and nothing is declared then. With
less a node that is short of processor time takes itself for cut off."""

DELIVERIES_MAX = 1_000
"""So often a quorum queue delivers an event. Each connection that is lost counts as a delivery of
all that was sent ahead on it, so that a process that ends again and again uses them up for events
that it never began: RabbitMQ's own 20, from 4.0 on, are over in a minute."""
NEVER = 1_000_000_000
"""As often as this nothing is delivered. RabbitMQ 4 takes -1 for it, which 3 refuses."""


def policies(vhost: str) -> Entries:
    """What quorum queues need beside their type, so that none of them drops a message.

    An event that was delivered too often goes to its service's dead letters. It, and what has
    waited for its next try, is kept by the queue it leaves until the other one has it
    (``at-least-once``), which needs a queue that refuses what is too much and drops nothing.
    """
    safely = {"dead-letter-strategy": "at-least-once", "overflow": "reject-publish"}
    events = [
        _policy(
            vhost,
            f"events-{service}",
            rf"^evt-[a-z_]+-[a-z_]+--{service}\.",
            {
                **safely,
                "delivery-limit": DELIVERIES_MAX,
                "dead-letter-exchange": f"{service}.queues",
                "dead-letter-routing-key": f"{service}.dead-letters",
            },
        )
        for service in parts.LISTENERS
    ]
    return [
        *events,
        _policy(vhost, "retries", r"\.retry\.[0-9]+s$", {**safely, "delivery-limit": NEVER}),
        # A call is over with its deadline. A look at dead letters is a delivery of all of them.
        _policy(vhost, "calls", r"^rpc-", {"delivery-limit": NEVER}),
        _policy(vhost, "dead-letters", r"\.dead-letters$", {"delivery-limit": NEVER}),
    ]


def _policy(vhost: str, name: str, pattern: str, definition: dict[str, Any]) -> dict[str, Any]:
    return {
        "vhost": vhost,
        "name": name,
        "pattern": pattern,
        "apply-to": "queues",
        "priority": 0,
        "definition": definition,
    }


def _topic_exchange(vhost: str, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "vhost": vhost,
        "type": "topic",
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }


def _binding(vhost: str, source: str, destination: str, routing_key: str) -> dict[str, Any]:
    return {
        "source": source,
        "vhost": vhost,
        "destination": destination,
        "destination_type": "exchange",
        "routing_key": routing_key,
        "arguments": {},
    }


def definitions(passwords: Mapping[str, str]) -> dict[str, Entries]:
    """The product's virtual host and its users; ``passwords`` has one for each of them."""
    users = [_user(ADMIN, passwords[ADMIN], "administrator")]
    users += [_user(name, passwords[name]) for name in parts.LOGINS]
    return {"users": users, **access(VHOST)}


def login_definitions(login: Login, password: str, vhost: str = VHOST) -> dict[str, Entries]:
    """A further login in the product's virtual host, beside those of its services."""
    rights = access(vhost, [login])
    # It is there, and naming it anew would take its default type of queue from it.
    del rights["vhosts"]
    return {"users": [_user(login.name, password)], **rights}


def _user(name: str, password: str, tags: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": hashed_password(password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": tags,
    }


def hashed_password(password: str) -> str:
    """A password as RabbitMQ stores it: 4 bytes of salt, and SHA-256 of salt and password.

    https://www.rabbitmq.com/docs/passwords#computing-password-hash
    """
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _name(value: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9_]{1,40}", value):
        raise argparse.ArgumentTypeError("small letters, digits and underscores")
    if value in (*parts.LOGINS, ADMIN):
        raise argparse.ArgumentTypeError(f"{value} is one of the product's own")
    return value


def _method(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", value):
        raise argparse.ArgumentTypeError("a service and a method, such as wallet.get_wallet")
    return value


def _print_login(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.definitions login")
    parser.add_argument("name", type=_name)
    parser.add_argument("--may-call", nargs="+", default=[], type=_method, metavar="METHOD")
    parser.add_argument(
        "--listens-to", nargs="+", default=[], choices=parts.LOGINS, metavar="SERVICE"
    )
    parser.add_argument("--vhost", default=VHOST)
    given = parser.parse_args(arguments)
    password = os.environ.get("LOGIN_PASSWORD")
    if not password:
        raise SystemExit("Set LOGIN_PASSWORD to the password that the login is to have.")
    login = Login(given.name, tuple(given.may_call), tuple(given.listens_to))
    if login == Login(PROVISIONER.name):
        login = PROVISIONER
    print(json.dumps(login_definitions(login, password, given.vhost), indent=1))


def _write_file(file: Path, *, is_replicated: bool = False) -> None:
    variables = {
        ADMIN: "RABBITMQ_ADMIN_PASSWORD",
        **{name: f"{name.upper()}_AMQP_PASSWORD" for name in parts.LOGINS},
    }
    if missing := sorted(name for name in variables.values() if not os.environ.get(name)):
        raise SystemExit(f"Set {', '.join(missing)}.")
    passwords = {user: os.environ[name] for user, name in variables.items()}
    written = definitions(passwords)
    file.write_text(json.dumps(replicated(written) if is_replicated else written, indent=1))


def main() -> None:
    """See the head of this file."""
    match sys.argv[1:]:
        case ["login", *arguments]:
            _print_login(arguments)
        case ["cluster", file]:
            _write_file(Path(file), is_replicated=True)
        case [file]:
            _write_file(Path(file))
        case _:
            raise SystemExit(
                "usage: python -m deploy.definitions FILE | cluster FILE | login NAME …"
            )


if __name__ == "__main__":
    main()
