"""How a call looks on the wire: nameko's names and bodies, and what an answer means.

For those who call, whatever they call with: :mod:`chassis.client`, and the client for Python in
``clients/python``.
"""

import logging
import uuid
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from contracts import errors
from contracts.messages import ReplyT, Request

log = logging.getLogger(__name__)

EXCHANGE = "nameko-rpc"
CONTENT_TYPE = "application/json"
HEADER_PREFIX = "nameko."
CALL_CHAIN_KEY = "call_id_stack"
DEADLINE_KEY = "deadline_ms"
"""The moment, in Unix time, after which the call is not begun. In a header, as the chain, with the
prefix."""
TRACE_KEY = "traceparent"
"""The span that a message came out of, as W3C's Trace Context has it, and under its name: without
nameko's prefix, so that others find it."""


def new_reply_key(login: str) -> str:
    """A routing key for replies, and the name of their queue: the one that this login may have."""
    return f"rpc.reply-{login}-{uuid.uuid4()}"


def routing_key(request: Request[Any]) -> str:
    return f"{request.service}.{request.method}"


def body_of(request: Request[Any]) -> bytes:
    return to_json({"args": [], "kwargs": request.arguments()})


def reply_in(body: Any, request: Request[ReplyT]) -> ReplyT:
    """The reply to ``request``. Raises the service's error where ``body`` is one."""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        raise remote_error(body["error"])
    try:
        reply: ReplyT = request.reply.model_validate(body["result"])  # type: ignore[assignment]
    except (ValidationError, TypeError, KeyError) as error:
        log.error(
            "a reply has not its shape",
            extra={"method": routing_key(request), "error": str(error)},
        )
        raise unreadable() from None
    return reply


def remote_error(data: dict[str, Any]) -> Exception:
    """The error that a service raised, from what nameko made of it on the wire."""
    path = str(data.get("exc_path", ""))
    if path.startswith(errors.__name__ + "."):
        error_class = getattr(errors, str(data.get("exc_type")), None)
        if isinstance(error_class, type) and issubclass(error_class, errors.ServiceError):
            return error_class(*(str(argument) for argument in data.get("exc_args", [])))
    return errors.ServiceError(f"{data.get('exc_type')}: {data.get('value')}")


def unreadable() -> errors.DeadlineExceeded:
    return errors.DeadlineExceeded(
        "The answer makes no sense; whether the work was done is not known."
    )


def unanswered(service: str, timeout_s: float) -> errors.DeadlineExceeded:
    return errors.DeadlineExceeded(
        f"{service} did not answer within {timeout_s:g} s; whether it did the work is not known."
    )


def lost_on_the_way(service: str) -> errors.DeadlineExceeded:
    return errors.DeadlineExceeded(
        f"The connection to the message broker was lost on the way to {service};"
        " whether it did the work is not known."
    )


def unreachable() -> errors.Unavailable:
    return errors.Unavailable(
        "The message broker cannot be reached; nothing was done. Try again in a moment."
    )


def not_running(service: str) -> errors.Unavailable:
    """The broker returned the call: no queue takes calls of this service."""
    return errors.Unavailable(f"The {service} service is not running; nothing was done.")


def not_allowed(login: str, key: str) -> errors.ServiceError:
    """The broker refused the call: its login has no right to this routing key."""
    return errors.ServiceError(f"{login} may not call {key}; nothing was done.")
