"""Metadata: what an account writes on its objects (bounds: docs.stripe.com/metadata)."""

from typing import Any

from .errors import InvalidRequest
from .params import bracketed
from .store import Object

KEYS_MAX = 50
KEY_LENGTH_MAX = 40
VALUE_LENGTH_MAX = 500


def check(node: Any, path: tuple[str, ...] = ()) -> None:
    """Raise InvalidRequest for metadata out of bounds, wherever in a request they are."""
    if isinstance(node, list):
        node = {str(index): item for index, item in enumerate(node)}
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        here = (*path, name)
        if name == "metadata" and isinstance(value, dict):
            _check_pairs(value, bracketed(list(here)))
        else:
            check(value, here)


def _check_pairs(pairs: dict[str, str], param: str) -> None:
    if len(pairs) > KEYS_MAX:
        raise InvalidRequest(f"Metadata can have up to {KEYS_MAX} keys.", param=param)
    for key, value in pairs.items():
        if len(key) > KEY_LENGTH_MAX:
            raise InvalidRequest(
                f"Metadata keys can have up to {KEY_LENGTH_MAX} characters, but you passed in a"
                f" key that is {len(key)} characters. Invalid key: {key}",
                param=param,
            )
        if len(value) > VALUE_LENGTH_MAX:
            raise InvalidRequest(
                f"Metadata values can have up to {VALUE_LENGTH_MAX} characters, but you passed in"
                f" a value that is {len(value)} characters. Invalid value: {value}",
                param=param,
            )


def set_metadata(item: Object, params: dict[str, Any]) -> None:
    """Stripe's rule: names are added or replaced, an empty value removes one, `""` all."""
    given = params.get("metadata")
    if given is None:
        return
    if given == "":
        item["metadata"] = {}
        return
    merged = {**item.get("metadata", {}), **given}
    kept = {name: value for name, value in merged.items() if value != ""}
    _check_pairs(kept, "metadata")
    item["metadata"] = kept
