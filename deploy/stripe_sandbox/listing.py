"""Stripe's lists: newest first, cursors, `has_more`."""

from collections.abc import Callable
from typing import Any

from .errors import InvalidRequest, missing
from .sandbox import Call
from .store import Object

LIMIT_DEFAULT = 10
LIMIT_MAX = 100
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda created, bound: created > bound,
    "gte": lambda created, bound: created >= bound,
    "lt": lambda created, bound: created < bound,
    "lte": lambda created, bound: created <= bound,
}


def page(items: list[Object], call: Call, *, equal: tuple[str, ...] = ()) -> Object:
    """One page of `items` (newest first), after the `created` filter and equality filters."""
    params = call.params
    for name in equal:
        if params.get(name) is not None:
            items = [item for item in items if item.get(name) == params[name]]
    items = [item for item in items if _is_in_time(item, params.get("created"))]
    limit = _limit(params)
    start, end, has_more = _window(items, params, limit)
    return {
        "object": "list",
        "data": items[start:end],
        "has_more": has_more,
        "url": call.url,
    }


def _limit(params: dict[str, Any]) -> int:
    limit = params.get("limit", LIMIT_DEFAULT)
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidRequest(
            f"Invalid integer: limit must be between 1 and {LIMIT_MAX}.",
            code="parameter_invalid_integer",
            param="limit",
        )
    return int(limit)


def _window(items: list[Object], params: dict[str, Any], limit: int) -> tuple[int, int, bool]:
    if params.get("ending_before"):
        end = _position(items, params["ending_before"], "ending_before")
        start = max(0, end - limit)
        return start, end, start > 0
    start = 0
    if params.get("starting_after"):
        start = _position(items, params["starting_after"], "starting_after") + 1
    return start, start + limit, len(items) > start + limit


def _position(items: list[Object], object_id: str, param: str) -> int:
    for index, item in enumerate(items):
        if item["id"] == object_id:
            return index
    raise missing("object", object_id, param)


def _is_in_time(item: Object, bounds: Any) -> bool:
    if bounds is None:
        return True
    created = item["created"]
    if isinstance(bounds, dict):
        return all(_COMPARE[name](created, int(bound)) for name, bound in bounds.items())
    return bool(created == int(bounds))
