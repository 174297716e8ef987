"""Requests are held to the typed parameters of the pinned `stripe` package.

The package describes every request as a TypedDict. pydantic checks a request against it, with
unknown names forbidden, and the first finding becomes the error that Stripe would have sent. For
type checkers the package leaves every list of words open (`Literal[…] | str`); here it is closed.
"""

import re
import threading
from functools import cache
from typing import Any, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import SchemaValidator
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
        validator = _validator(type_name)
    unknown = [name for name in params if name in _library_options()]
    if unknown:
        raise _unknown([unknown[0]])
    try:
        return cast("dict[str, Any]", validator.validate_python(params))
    except ValidationError as error:
        raise _translate(error, params) from None


def load(type_name: str) -> None:
    """Build what `check` needs for the type, ahead of time."""
    with _building:
        _validator(type_name)


@cache
def _library_options() -> frozenset[str]:
    """Options of the library's call (`idempotency_key`, …) that never travel in a form."""
    options = library.module("stripe._request_options")
    return frozenset(options.RequestOptions.__annotations__)


@cache
def _validator(type_name: str) -> SchemaValidator:
    module_name, class_name = type_name.rsplit(".", 1)
    module = library.module(f"stripe.params.{module_name}")
    for value in list(vars(module).values()):
        if is_typeddict(value):
            value.__pydantic_config__ = ConfigDict(extra="forbid", defer_build=True)
    adapter: TypeAdapter[Any] = TypeAdapter(getattr(module, class_name))
    adapter.rebuild(force=True, _types_namespace=_namespace(vars(module)))
    return SchemaValidator(_closed(adapter.core_schema))


def _closed(node: Any) -> Any:
    """The schema in which a union of certain words and any text takes the words only.

    `Literal[""] | str` is no list of words: the empty text removes a value.
    """
    if isinstance(node, dict):
        node = {name: _closed(value) for name, value in node.items()}
        choices = node.get("choices")
        if node.get("type") == "union" and any(_words(choice) for choice in choices):
            node["choices"] = [choice for choice in choices if _type(choice) != "str"]
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(_closed(item) for item in node)
    return node


def _type(choice: Any) -> str:
    return str((choice[0] if isinstance(choice, tuple) else choice)["type"])


def _words(choice: Any) -> list[str]:
    """The words of a literal, without the empty one."""
    schema = choice[0] if isinstance(choice, tuple) else choice
    return (
        [word for word in schema.get("expected", ()) if word] if _type(choice) == "literal" else []
    )


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
    path, finding = max(findings, key=lambda found: (len(found[0]), _exactness(found[1])))
    if finding["type"] == "extra_forbidden":
        return _unknown(path)
    name = bracketed(path)
    if finding["type"] == "missing":
        return InvalidRequest(
            f"Missing required param: {name}.", code="parameter_missing", param=name
        )
    if finding["type"] == "literal_error":
        words = _listed(re.findall(r"'([^']*)'", finding["ctx"]["expected"]))
        return InvalidRequest(f"Invalid {name}: must be one of {words}", param=name)
    shown = finding["input"] if isinstance(finding["input"], str) else "an object"
    if finding["type"].startswith("int"):
        return InvalidRequest(
            f"Invalid integer: {shown}", code="parameter_invalid_integer", param=name
        )
    if finding["type"].startswith("bool"):
        return InvalidRequest(f"Invalid boolean: {shown}", param=name)
    return InvalidRequest(f"Invalid {name}: {finding['msg']} (got {shown})", param=name)


def _listed(words: list[str]) -> str:
    """As Stripe writes a list: `a or b`, `a, b, or c`."""
    joint = ", or " if len(words) > 2 else " or "
    return joint.join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _exactness(finding: Any) -> int:
    """Of the choices of a union, the longest list of words says best what was wanted."""
    return len(finding["ctx"]["expected"]) if finding["type"] == "literal_error" else 0


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


def bracketed(path: list[str]) -> str:
    """A parameter's name as a form has it: `a[b][0]`."""
    return path[0] + "".join(f"[{part}]" for part in path[1:]) if path else ""


def _unknown(path: list[str]) -> InvalidRequest:
    name = bracketed(path)
    return InvalidRequest(
        f"Received unknown parameter: {name}", code="parameter_unknown", param=name
    )
