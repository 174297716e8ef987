"""Who may do what on the broker: RabbitMQ's definitions, loaded when it boots.

The local runner writes them for its own node. For a container,
``python -m deploy.definitions FILE`` writes them with the passwords of the environment
(``RABBITMQ_ADMIN_PASSWORD``, ``WALLET_AMQP_PASSWORD``, …).
"""

import base64
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VHOST = "mycelium"
ADMIN = "mycelium_admin"
SERVICES = ("wallet", "catalog", "billing", "topup", "gateway", "notifier")


def permissions(service: str) -> dict[str, str]:
    """The least that RabbitMQ must allow a service, as patterns of names.

    A service takes its own calls, replies, events and dead letters, and no other's. Wider than
    one would like are:

    - ``configure`` on every ``….events``: declaring a queue declares the exchange it is bound
      to, and RabbitMQ asks for that right even where the exchange exists.
    - ``write`` on ``amq.default``: dead letters and replays go to a queue by its name. Through
      it a service can put a message into any queue, though never read one.
    """
    name = re.escape(service)
    own = (
        rf"rpc-{name}|rpc\.reply-{name}-.+|evt-[a-z_]+-[a-z_]+--{name}\..+|{name}\.dead-letters"
        rf"|mycelium\.retry\..+"
    )
    return {
        "configure": rf"^(nameko-rpc|[a-z_]+\.events|{own})$",
        "write": rf"^(amq\.default|nameko-rpc|{name}\.events|{own})$",
        "read": rf"^(nameko-rpc|[a-z_]+\.events|{own})$",
    }


def access(vhost: str) -> dict[str, list[dict[str, Any]]]:
    """A virtual host with the permissions of all services in it."""
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    return {
        "vhosts": [{"name": vhost}],
        "permissions": [
            {"user": ADMIN, "vhost": vhost, **everything},
            *({"user": name, "vhost": vhost, **permissions(name)} for name in SERVICES),
        ],
    }


def definitions(passwords: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The product's virtual host and its users; ``passwords`` has one for each of them."""
    users = [
        {
            "name": user,
            "password_hash": hashed_password(passwords[user]),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "administrator" if user == ADMIN else "",
        }
        for user in (ADMIN, *SERVICES)
    ]
    return {"users": users, **access(VHOST)}


def hashed_password(password: str) -> str:
    """A password as RabbitMQ stores it: 4 bytes of salt, and SHA-256 of salt and password.

    https://www.rabbitmq.com/docs/passwords#computing-password-hash
    """
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m deploy.definitions FILE")
    variables = {
        ADMIN: "RABBITMQ_ADMIN_PASSWORD",
        **{name: f"{name.upper()}_AMQP_PASSWORD" for name in SERVICES},
    }
    if missing := sorted(name for name in variables.values() if not os.environ.get(name)):
        raise SystemExit(f"Set {', '.join(missing)}.")
    passwords = {user: os.environ[name] for user, name in variables.items()}
    Path(sys.argv[1]).write_text(json.dumps(definitions(passwords), indent=1))


if __name__ == "__main__":
    main()
