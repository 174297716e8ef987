"""JSON with exact decimals: ``25.00`` goes out as it stands and comes in as a Decimal."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import simplejson
from flask.json.provider import JSONProvider


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no place in a JSON document")


class ExactJSONProvider(JSONProvider):
    """Decimals in and out; NaN, Infinity and floats are no JSON numbers here."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return simplejson.dumps(obj, use_decimal=True, default=_plain, **kwargs)

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return simplejson.loads(s, use_decimal=True, allow_nan=False, **kwargs)
