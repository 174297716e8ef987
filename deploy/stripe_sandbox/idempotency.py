"""`Idempotency-Key`, as Stripe's v1 API has it.

- The first reply of a key is kept, whatever it was: success, decline or 500. It is sent again for
  the same request, with `Idempotent-Replayed: true`.
- The same key with another path or other parameters is an error.
- While the first request runs, a second one with its key is refused with 409.
- A request whose parameters do not pass the check keeps nothing: it never began.
- Keys are forgotten after 24 hours.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .errors import IdempotencyError
from .sandbox import Sandbox

KEY_LENGTH_MAX = 255
_LIFE_S = 86_400


@dataclass(frozen=True)
class Replay:
    """A kept reply."""

    status: int
    body: str
    request_id: str


def fingerprint(method: str, path: str, params: dict[str, Any]) -> str:
    """What must be equal for two requests to be the same."""
    return hashlib.sha256(json.dumps([method, path, params], sort_keys=True).encode()).hexdigest()


def begin(sandbox: Sandbox, key: str, request: str, request_id: str) -> Replay | None:
    """Claim the key, or return its kept reply; raises IdempotencyError.

    `request` is the request's fingerprint. The caller holds the store's lock.
    """
    if len(key) > KEY_LENGTH_MAX:
        raise IdempotencyError(
            f"Idempotency keys can be up to {KEY_LENGTH_MAX} characters long.",
        )
    kept = sandbox.store.find("idempotency", key)
    if kept is not None and kept["created"] <= sandbox.now() - _LIFE_S:
        sandbox.store.remove("idempotency", key)
        kept = None
    if kept is None:
        sandbox.store.put(
            "idempotency",
            {
                "id": key,
                "created": sandbox.now(),
                "request": request,
                "request_id": request_id,
                "status": None,
                "body": None,
            },
        )
        return None
    if kept["request"] != request:
        raise IdempotencyError(
            "Keys for idempotent requests can only be used with the same parameters they were"
            f" first used with. Try using a key other than '{key}' if you meant to execute a"
            " different request.",
        )
    if kept["status"] is None:
        raise IdempotencyError(
            "There is currently another in-progress request using this Idempotent Key (that"
            " probably means you submitted twice, and the other request is still going"
            f" through): {key}. Please try again later.",
            code="idempotency_key_in_use",
            status=409,
        )
    return Replay(kept["status"], kept["body"], kept["request_id"])


def keep(sandbox: Sandbox, key: str, status: int, body: str) -> None:
    """Keep the reply. The caller holds the store's lock."""
    kept = sandbox.store.find("idempotency", key)
    if kept is not None:
        kept |= {"status": status, "body": body}
        sandbox.store.put("idempotency", kept)


def release(sandbox: Sandbox, key: str) -> None:
    """The request never began: forget its key. The caller holds the store's lock."""
    sandbox.store.remove("idempotency", key)


def forget_in(sandbox: Sandbox, seconds: int) -> None:
    """Forget the keys that there are now after so long. The caller holds the store's lock."""
    for kept in sandbox.store.newest("idempotency"):
        expiring = sandbox.now() - _LIFE_S + seconds
        sandbox.store.put("idempotency", kept | {"created": min(kept["created"], expiring)})


def forget_interrupted(sandbox: Sandbox) -> None:
    """At start: requests that a stopped sandbox left in progress had no effect."""
    for kept in sandbox.store.newest("idempotency"):
        if kept["status"] is None:
            release(sandbox, kept["id"])
