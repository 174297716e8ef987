"""Idempotency keys, from the ``Idempotency-Key`` header or a form's hidden field.

A key belongs to the user who sent it: two users may pick the same one, and nobody can
collide with somebody else's on purpose.
"""

import re
from uuid import UUID

from services.gateway.errors import Problem

HEADER = "Idempotency-Key"
KEY_LENGTH_MAX = 128

KEY_PATTERN = f"^[!-~]{{1,{KEY_LENGTH_MAX}}}$"


def scoped_key(user_id: UUID, key: str | None) -> str:
    """The key under which the services know this user's command.

    Raises a 400 for a missing or malformed one: without it a retry could charge twice.
    """
    if not key:
        raise Problem(
            400,
            "idempotency_key_required",
            "Send an Idempotency-Key header: any text of your own, new for each intention and"
            " the same when you try again, so that a retry never charges twice.",
        )
    if not re.fullmatch(KEY_PATTERN, key):
        raise Problem(
            400,
            "idempotency_key_malformed",
            f"An Idempotency-Key is 1 to {KEY_LENGTH_MAX} printable ASCII characters, no spaces.",
        )
    return f"{user_id}:{key}"
