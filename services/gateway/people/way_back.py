"""Where a person comes back to: after a login, and from a form that was open for too long.

Only pages of this site that can be opened: what a form was sent to often cannot.
"""

import re
from urllib.parse import quote, urlsplit

from flask import current_app, redirect, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from contracts.topup import RETURN_PATH_LENGTH_MAX

LOGIN_PATH = "/login"
AFTER_LOGIN = "/dashboard"

_LOCAL_PATH = re.compile(r"/(?:[^/\\\s][^\\\s]*)?")


def page(path: str) -> str | None:
    """The path if a page of this site can be opened there, and a card page can lead to it."""
    if len(path) > RETURN_PATH_LENGTH_MAX or not _LOCAL_PATH.fullmatch(path):
        return None
    try:
        current_app.url_map.bind("").match(urlsplit(path).path, method="GET")
    except (HTTPException, ValueError):
        return None
    return path


def page_of_form() -> str | None:
    """The page of this site whose form, or script, sent this request."""
    try:
        sender = urlsplit(request.referrer or "")
    except ValueError:
        return None
    if sender.netloc != request.host:
        return None
    return page(sender.path + (f"?{sender.query}" if sender.query else ""))


def to_login() -> Response:
    """Ask for a login, after which the person is back where this request came from."""
    is_part = "HX-Request" in request.headers
    here = page(request.full_path.rstrip("?")) if request.method == "GET" and not is_part else None
    back = here or page_of_form() or AFTER_LOGIN
    return to_page(f"{LOGIN_PATH}?next={quote(back, safe='')}")


def to_page(path: str) -> Response:
    """Open another page, also where a script asked for a part of this one."""
    if "HX-Request" in request.headers:
        return Response(status=200, headers={"HX-Redirect": path})
    return redirect(path, 303)
