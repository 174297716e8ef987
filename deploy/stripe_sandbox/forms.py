"""Stripe's form encoding: `a[b][c]=1`, `a[0][b]=2`, `a[]=3` become nested objects and lists."""

import re
from collections.abc import Iterable
from typing import Any

from .errors import InvalidRequest

_PART = re.compile(r"\[([^\[\]]*)\]")
_NAME = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")
DEPTH_MAX = 12
FIELDS_MAX = 2_000


def decode(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The nested parameters of a form or a query string; every leaf stays a string.

    Raises InvalidRequest for a name that cannot be read or that contradicts another.
    """
    root: dict[str, Any] = {}
    for count, (name, value) in enumerate(pairs):
        if count >= FIELDS_MAX:
            raise InvalidRequest(f"Too many parameters: more than {FIELDS_MAX}.")
        _put(root, _path(name), value, name)
    return {name: _listed(name, value) for name, value in root.items()}


def _path(name: str) -> list[str]:
    match = _NAME.match(name)
    if match is None:
        raise InvalidRequest(f"Invalid parameter name: {name}", param=name)
    path = [match[1], *_PART.findall(match[2])]
    if len(path) > DEPTH_MAX:
        raise InvalidRequest(f"Parameter is nested too deeply: {name}", param=name)
    return path


def _put(root: dict[str, Any], path: list[str], value: str, name: str) -> None:
    node = root
    for part in path[:-1]:
        key = part or str(len(node))
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise InvalidRequest(f"Invalid object: {name}", param=path[0])
        node = child
    key = path[-1] or str(len(node))
    if isinstance(node.get(key), dict):
        raise InvalidRequest(f"Invalid object: {name}", param=path[0])
    node[key] = value


def _listed(name: str, value: Any) -> Any:
    """Objects whose names are 0, 1, 2… are lists, but for metadata, whose names are free."""
    if not isinstance(value, dict):
        return value
    items = {key: _listed(key, child) for key, child in value.items()}
    if items and name != "metadata" and all(key.isdigit() for key in items):
        return [items[key] for key in sorted(items, key=int)]
    return items
