"""What a request says in words must be text that can be stored: one look at all of it.

Without it each view would have to think of it, and PostgreSQL's refusal is a 500.
"""

from typing import Any

from flask import request

from contracts.messages import storable
from services.gateway.errors import Problem


def check_request() -> None:
    """Refuse a query or a form with a name or a value that cannot be stored."""
    check(dict(request.args.lists()))
    if request.method not in ("GET", "HEAD"):
        check(dict(request.form.lists()))


def check(value: Any, place: str = "") -> None:
    """Refuse a document that holds such a text anywhere; ``place`` is the field's name."""
    if isinstance(value, str):
        try:
            storable(value)
        except ValueError as error:
            field = place or "body"
            raise Problem(422, "bad_request", f"{field}: {error}.", {"field": field}) from None
    elif isinstance(value, dict):
        for name, item in value.items():
            field = f"{place}.{name}" if place else name
            check(name, field.encode("utf-8", "replace").decode().replace("\0", "?"))
            check(item, field)
    elif isinstance(value, list):
        for item in value:
            check(item, place)
