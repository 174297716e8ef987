"""What tells a retry of a command from another command under the same key."""

import hashlib
import json
from typing import Any

from contracts.messages import Command

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def request_hash(command: Command[Any]) -> bytes:
    """SHA-256 of the method and of what a retry repeats.

    A field that is added to a command later, with a default, changes no stored hash: a retry
    that was under way while a new version was rolled out is still known. ``tests/contracts``
    keeps a hash of each command.
    """
    return hashlib.sha256(_canonical([command.method, command.repeated()]).encode()).digest()


def is_retry(stored: str, command: Command[Any], once_hashed: dict[str, Any]) -> bool:
    """Whether a stored hash, in hexadecimal digits, is this command's.

    Billing and topup hashed bodies of their own before they shared this hash. ``once_hashed`` is
    the command's, in the fields that it had then, so that a retry finds what was stored before.
    """
    once = hashlib.sha256(json.dumps(once_hashed, sort_keys=True).encode()).hexdigest()
    return stored in (request_hash(command).hex(), once)
