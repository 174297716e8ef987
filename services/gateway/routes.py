"""Every route with who may use it: ``python -m services.gateway.routes docs/routes.md``."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from flask import Flask

from services.gateway import assets
from services.gateway.access import Access, Role, Who, said_of
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings

_ABOUT = """\
# Who may use which route

Written by `make docs` of what the routes themselves declare; a test asks each of them as somebody
who may not. Users are signed in: by the cookie of a browser, or by a token that is allowed what the
last column says. A visitor is sent to the login by a page, and gets a 401 of the API. What a user
may use shows and changes what is that user's own, and nothing else. Where roles stand, it takes one
of them and a second step of logging in; everybody else gets a 403 ([roles](operations.md#roles)).
The pages of the pools are there where `POOLS_PAGE` is on.

| route | method | who | a token |
|---|---|---|---|
"""


@dataclass(frozen=True, order=True)
class Route:
    path: str
    method: str
    endpoint: str
    access: Access


def routes_of(app: Flask) -> list[Route]:
    """By path. Raises LookupError for one of which nobody has said who may use it."""
    found = []
    for rule in app.url_map.iter_rules():
        access = said_of(app.view_functions[rule.endpoint])
        if access is None:
            raise LookupError(f"Say who may use {rule.rule}: services.gateway.access.open_to.")
        methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        found += [Route(rule.rule, method, rule.endpoint, access) for method in methods]
    return sorted(found, key=lambda route: (route.path, route.method))


def as_document(routes: list[Route]) -> str:
    """The table as it stands in docs/routes.md."""
    rows = dict.fromkeys(_row(route) for route in routes)
    return _ABOUT + "".join(f"{row}\n" for row in rows)


def _row(route: Route) -> str:
    # The files' address holds a digest of what is in them.
    path = route.path.replace(assets.address(), "/static/<digest>")
    path = re.sub(r"<[^<>]*:(\w+)>", r"<\1>", path)
    return f"| `{path}` | {route.method} | {_who(route.access)} | {_token(route)} |"


def _who(access: Access) -> str:
    roles = [role for role in Role if role in access.roles]
    return ", ".join(roles) if access.who == Who.ROLES else access.who


def _token(route: Route) -> str:
    if route.access.who == Who.ROLES:
        return ", ".join(sorted(route.access.scopes or ())) or "none"
    if route.access.who != Who.USERS:
        return ""
    if route.access.scopes is not None:
        return ", ".join(sorted(route.access.scopes))
    # A page: a token may look at it, and send none of its forms.
    return "read" if route.method == "GET" else "none"


def current() -> str:
    """The table of the website as it is."""
    nobody = GatewaySettings(
        amqp_uri="amqp://nobody@127.0.0.1",
        database_url="postgresql+psycopg2://nobody@127.0.0.1/none",
        secret_key="of a website that answers nobody",  # noqa: S106 - no secret
        pools_page=True,
    )
    return as_document(routes_of(create_app(nobody)))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(current(), encoding="utf-8")
