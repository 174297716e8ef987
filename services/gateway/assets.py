"""What browsers load beside the pages: compressed, and kept for as long as it stays the same.

Style sheets, scripts and pictures stand under an address that holds a digest of all of them, so
that a browser keeps each for a year and never shows a page with yesterday's style. Among
themselves they are named by relative paths, which lead to the same digest.

A page from before an update, or from the other half of a rolling one, asks for another digest.
It gets the file as it is now, and asks again the next time.
"""

import hashlib
from functools import cache
from pathlib import Path

from flask import Flask, Response, current_app, request
from flask_compress import Compress
from markupsafe import Markup

from services.gateway.access import Who, open_to

STATIC = Path(__file__).resolve().parent / "static"
ENDPOINTS = frozenset({"static", "outdated_static"})

_KEPT_S = 365 * 24 * 3600
_DIGEST_LENGTH = 12


@cache
def address() -> str:
    """The path below which the static files are now."""
    digest = hashlib.sha256()
    for path in sorted(path for path in STATIC.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(STATIC).as_posix()} {len(content)}\n".encode() + content)
    return f"/static/{digest.hexdigest()[:_DIGEST_LENGTH]}"


def address_of(filename: str) -> str:
    """Where a page finds a static file."""
    return f"{address()}/{filename}"


@cache
def icon(name: str, also: str = "") -> Markup:
    """A picture of the set in ``img/icons.svg``; ``also`` is a class of its own."""
    classes = f"icon {also}".rstrip()
    return Markup(
        '<svg class="{}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>'
    ).format(classes, address_of("img/icons.svg"), name)


def serve(app: Flask) -> None:
    """Say how long files are kept, and compress every answer that is text.

    Flask runs what was registered last first: called before the others, this compresses last.
    """
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = _KEPT_S
    app.config["COMPRESS_STREAMS"] = False
    Compress(app)
    app.after_request(_prepare)
    app.add_url_rule("/static/<digest>/<path:filename>", "outdated_static", _current)
    open_to(Who.EVERYBODY)(app.view_functions["static"])


@open_to(Who.EVERYBODY)
def _current(digest: str, filename: str) -> Response:  # noqa: ARG001
    return current_app.send_static_file(filename)


def _prepare(response: Response) -> Response:
    if request.endpoint in ENDPOINTS:
        # Whole, not in pieces: Flask-Compress leaves the file open behind what it streams.
        response.direct_passthrough = False
        response.make_sequence()
    if request.endpoint == "outdated_static":
        response.headers["Cache-Control"] = "no-cache"
    elif request.endpoint == "static" and response.status_code in (200, 304):
        response.cache_control.immutable = True
    return response
