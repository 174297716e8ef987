"""Requests are held to the typed parameters of the pinned `stripe` package.

The package describes every request as a TypedDict. pydantic checks a request against it, with
unknown names forbidden, and the first finding becomes the error that Stripe would have sent.
"""

import threading
from functools import cache
from typing import Any, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from . import library
from .errors import InvalidRequest

_building = threading.Lock()


def check(params: dict[str, Any], type_name: str) -> dict[str, Any]:
    """The parameters with numbers and booleans in place of their form strings.

    `type_name` is a module and a class below `stripe.params`: `_refund_create_params.X`.
    Raises InvalidRequest that names the first unknown, missing or mistyped parameter.
    """
    with _building:
        adapter = _adapter(type_name)
    unknown = [name for name in params if name in _library_options()]
    if unknown:
        raise _unknown([unknown[0]])
    try:
        return cast("dict[str, Any]", adapter.validate_python(params))
    except ValidationError as error:
        raise _translate(error, params) from None


def load(type_name: str) -> None:
    """Build what `check` needs for the type, ahead of time."""
    with _building:
        _adapter(type_name)


@cache
def _library_options() -> frozenset[str]:
    """Options of the library's call (`idempotency_key`, …) that never travel in a form."""
    options = library.module("stripe._request_options")
    return frozenset(options.RequestOptions.__annotations__)


@cache
def _adapter(type_name: str) -> TypeAdapter[Any]:
    module_name, class_name = type_name.rsplit(".", 1)
    module = library.module(f"stripe.params.{module_name}")
    for value in list(vars(module).values()):
        if is_typeddict(value):
            value.__pydantic_config__ = ConfigDict(extra="forbid", defer_build=True)
    adapter: TypeAdapter[Any] = TypeAdapter(getattr(module, class_name))
    adapter.rebuild(force=True, _types_namespace=_namespace(vars(module)))
    return adapter


class _Untyped:
    """Stands for the package's `UntypedStripeObject`, which exists for type checkers only."""

    def __class_getitem__(cls, value: Any) -> Any:
        return dict[str, value]


def _namespace(module: dict[str, Any]) -> dict[str, Any]:
    """Names that the annotations use as strings and that their modules do not all import."""
    return {
        **module,
        "Mapping": dict,
        "StripeContext": str,
        "UntypedStripeObject": _Untyped,
        "Any": Any,
    }


def _translate(error: ValidationError, params: dict[str, Any]) -> InvalidRequest:
    findings = [(_path(finding["loc"], params), finding) for finding in error.errors()]
    path, finding = max(findings, key=lambda found: len(found[0]))
    if finding["type"] == "extra_forbidden":
        return _unknown(path)
    name = _bracketed(path)
    if finding["type"] == "missing":
        return InvalidRequest(
            f"Missing required param: {name}.", code="parameter_missing", param=name
        )
    shown = finding["input"] if isinstance(finding["input"], str) else "an object"
    if finding["type"].startswith("int"):
        return InvalidRequest(
            f"Invalid integer: {shown}", code="parameter_invalid_integer", param=name
        )
    if finding["type"].startswith("bool"):
        return InvalidRequest(f"Invalid boolean: {shown}", param=name)
    return InvalidRequest(f"Invalid {name}: {finding['msg']} (got {shown})", param=name)


def _path(location: tuple[int | str, ...], params: Any) -> list[str]:
    """The names on the way to the finding; pydantic's union tags are not among them."""
    path: list[str] = []
    node = params
    for index, part in enumerate(location):
        listed = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if listed or (isinstance(node, dict) and part in node):
            node = node[part]
        elif index < len(location) - 1 or not isinstance(node, dict) or "[" in str(part):
            continue
        path.append(str(part))
    return path


def _bracketed(path: list[str]) -> str:
    return path[0] + "".join(f"[{part}]" for part in path[1:]) if path else ""


def _unknown(path: list[str]) -> InvalidRequest:
    name = _bracketed(path)
    return InvalidRequest(
        f"Received unknown parameter: {name}", code="parameter_unknown", param=name
    )
