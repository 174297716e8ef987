"""The operator's view of messages that a service could not handle.

::

    python -m chassis.dead_letters wallet list
    python -m chassis.dead_letters wallet replay MESSAGE…   (or --all)
    python -m chassis.dead_letters wallet discard MESSAGE…  (or --all)

``replay`` gives messages back to the queues they came from, with their tries counted anew. An
event that is older than what the service knows of events it handled stays: its effect might
happen twice. MESSAGE is the id that ``list`` shows. Needs ``AMQP_URI``, and ``INBOX_KEPT_DAYS``
where the service has one of its own.

Every service does the same when it is asked to: :mod:`chassis.operated`.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

from kombu import Connection
from kombu.message import Message

from chassis import bodies
from chassis.broker import (
    ATTEMPTS_HEADER,
    ERROR_HEADER,
    ORIGIN_HEADER,
    Publisher,
    Unroutable,
    dead_letter_queue,
    moved,
    own_queues,
)
from chassis.clock import utc_now
from chassis.connection import BrokerConnection
from chassis.settings import InboxSettings, load_settings
from contracts.messages import moment_from

BROKERS_OWN = ("x-death", "x-first-death-", "x-last-death-")
"""Headers of a message that the broker itself made a dead letter, as a quorum queue does with what
it has delivered too often; and of what has waited for its next try."""


class Stays(Exception):
    """The message is not replayed; the text says why."""


def message_id(message: Message) -> str:
    """A short name for a message: the head of the SHA-256 of its origin and body."""
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    origin = (origin_of(message) or "").encode()
    return hashlib.sha256(origin + b"\0" + body).hexdigest()[:12]


def origin_of(message: Message) -> str | None:
    """The queue that a dead letter comes from."""
    headers = message.headers or {}
    origin: str | None = headers.get(ORIGIN_HEADER) or headers.get("x-first-death-queue")
    return origin


def _error_of(message: Message) -> str | None:
    headers = message.headers or {}
    reason = headers.get("x-first-death-reason")
    by_broker = f"the broker gave it up: {reason}" if reason else None
    error: str | None = headers.get(ERROR_HEADER) or by_broker
    return error


def total(connection: Connection, service: str) -> int:
    """How many dead letters wait that nobody looks at just now."""
    queue = dead_letter_queue(service)(connection.default_channel)
    queue.declare()
    count: int = queue.queue_declare(passive=True).message_count
    return count


def dead_letters(connection: Connection, service: str) -> Iterator[Message]:
    """Every dead letter of ``service``, oldest first.

    None is taken away until it is acknowledged; the rest go back as they were when the
    connection closes.
    """
    queue = dead_letter_queue(service)(connection.default_channel)
    for _ in range(total(connection, service)):
        message = queue.get(accept=None)
        if message is None:
            return
        yield message


def describe(message: Message) -> dict[str, object]:
    """What ``list`` shows of a dead letter, as a JSON object."""
    body = (
        message.body.decode(errors="replace") if isinstance(message.body, bytes) else message.body
    )
    headers = message.headers or {}
    return {
        "message": message_id(message),
        "queue": origin_of(message),
        "attempts": headers.get(ATTEMPTS_HEADER, 0),
        "error": _error_of(message),
        "body": body,
    }


def replay(publisher: Publisher, service: str, message: Message) -> None:
    """Give a message back to its queue, and only then take it out of the dead letters."""
    # What the broker notes would go on: it drops a message that comes by a queue a second time.
    noted = (ATTEMPTS_HEADER, ERROR_HEADER, ORIGIN_HEADER, *BROKERS_OWN)
    headers = bodies.headers_of(message)
    kept = {name: value for name, value in headers.items() if not name.startswith(noted)}
    publisher.publish(moved(message, kept, own_queues(service), origin_of(message) or ""))
    message.ack()


def forgotten(message: Message, known_since: datetime) -> datetime | None:
    """When an event happened, if that was before ``known_since``: the inbox may have forgotten
    that it was handled. None for a call, and for what cannot be read."""
    try:
        occurred_at = moment_from(bodies.decode(message)["occurred_at"])
    except (ValueError, TypeError, LookupError):
        return None
    return occurred_at if occurred_at < known_since else None


def replay_once(publisher: Publisher, service: str, kept_days: int, message: Message) -> None:
    """Replay it, unless its effect might happen twice. Raises :class:`Stays`."""
    occurred_at = forgotten(message, utc_now() - timedelta(days=kept_days))
    if occurred_at is not None:
        raise Stays(
            f"It is of {occurred_at:%Y-%m-%d %H:%M} UTC, and what was"
            f" handled is known for {kept_days} days (INBOX_KEPT_DAYS): its effect might happen"
            " twice. Discard it; or, if you know that it had none, replay it with a higher"
            " INBOX_KEPT_DAYS."
        )
    try:
        replay(publisher, service, message)
    except Unroutable as queue:
        raise Stays(f"The queue it came from is gone ({queue}).") from None


def _replay_or_say_why(
    publisher: Publisher, service: str, kept_days: int, message: Message
) -> bool:
    try:
        replay_once(publisher, service, kept_days, message)
    except Stays as error:
        print(f"{message_id(message)} stays. {error}")
        return False
    return True


def _list(message: Message) -> bool:
    print(json.dumps(describe(message)))
    return True


def _discard(message: Message) -> bool:
    message.ack()
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chassis.dead_letters")
    parser.add_argument("service")
    parser.add_argument("action", choices=["list", "replay", "discard"])
    parser.add_argument("messages", nargs="*", metavar="MESSAGE")
    parser.add_argument("--all", action="store_true", help="every dead letter")
    arguments = parser.parse_args()
    if arguments.action != "list" and not arguments.all and not arguments.messages:
        parser.error("name the messages, as `list` shows them, or say --all")
    return arguments


def main() -> None:
    arguments = _arguments()
    try:
        amqp_uri = os.environ["AMQP_URI"]
    except KeyError:
        raise SystemExit("Set AMQP_URI to the broker's address.") from None
    kept_days = load_settings(InboxSettings).inbox_kept_days
    publisher = Publisher(amqp_uri)
    actions: dict[str, Callable[[Message], bool]] = {
        "list": _list,
        "replay": partial(_replay_or_say_why, publisher, arguments.service, kept_days),
        "discard": _discard,
    }
    done = 0
    with BrokerConnection(amqp_uri, is_read=False) as connection:
        for message in dead_letters(connection, arguments.service):
            if (
                arguments.action == "list"
                or arguments.all
                or message_id(message) in arguments.messages
            ):
                done += actions[arguments.action](message)
    publisher.close()
    if arguments.action != "list":
        print(f"{arguments.action}: {done} of the dead letters of {arguments.service}")


if __name__ == "__main__":
    main()
