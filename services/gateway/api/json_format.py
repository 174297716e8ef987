"""JSON with exact decimals: ``25.00`` goes out as it stands and comes in as a Decimal."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import simplejson
from flask.json.provider import JSONProvider


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in a JSON document")


class GivenTwice(ValueError):
    """A name stands twice in one object: which of its values is meant nobody can tell."""


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise GivenTwice(f"{twice[:64]!r} is given twice in one object. Give each name once.")
    return found


class ExactJSONProvider(JSONProvider):
    """Decimals in and out; NaN, Infinity and floats are no JSON numbers here, and an object
    that names something twice is none."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return simplejson.dumps(obj, use_decimal=True, default=_plain, **kwargs)

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return simplejson.loads(
            s, use_decimal=True, allow_nan=False, object_pairs_hook=_each_name_once, **kwargs
        )
