"""Browsers that logged in before, known by a cookie of their own.

Guessing passwords is limited for each account. Who counts all tries together lets a stranger
lock the owner out; so a browser that proves that it once knew the password has a limit of its
own (OWASP, "Device cookies"). The cookie opens nothing.
"""

import hashlib

from flask import after_this_request, request
from itsdangerous import BadSignature, URLSafeSerializer
from werkzeug.wrappers import Response

from services.gateway.backend import settings
from services.gateway.people.bearer_secrets import new_secret

COOKIE = "mycelium_device"
LIFETIME_S = 365 * 24 * 3600


def device_of(account: str) -> str | None:
    """This browser's name if it has logged in to the account before."""
    try:
        known, device = _signer().loads(request.cookies.get(_cookie(), ""))
    except (BadSignature, ValueError, TypeError):
        return None
    return str(device) if known == account else None


def remember(account: str) -> None:
    """Give this browser a cookie: it has just logged in to the account."""
    value = _signer().dumps([account, new_secret()])

    @after_this_request
    def add_cookie(response: Response) -> Response:
        response.set_cookie(
            _cookie(),
            str(value),
            max_age=LIFETIME_S,
            secure=settings().is_secure,
            httponly=True,
            samesite="Lax",
        )
        return response


def _cookie() -> str:
    return settings().cookie_name(COOKIE)


def _signer() -> URLSafeSerializer:
    return URLSafeSerializer(
        settings().secret_key,
        salt="known-device",
        signer_kwargs={"digest_method": hashlib.sha256},
    )
