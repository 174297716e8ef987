"""Who asks: the user behind a session cookie or a bearer token.

A request with a bearer token is judged by the token alone; its cookie is not looked at. Who was
behind either is known for a second: what one process ends, another one takes for that long.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar
from uuid import UUID

from flask import g, request
from flask import session as cookie
from flask_wtf.csrf import generate_csrf

from chassis.clock import utc_now
from contracts.errors import DeadlineExceeded, ServiceError, Unavailable
from contracts.keys import wallet_key
from contracts.wallet import OpenAccount
from services.gateway.access import Who, open_to
from services.gateway.backend import call, current_backend, database, settings
from services.gateway.errors import Problem, wants_json
from services.gateway.models import User
from services.gateway.people import sessions, tokens, users
from services.gateway.people.bearer_secrets import fingerprint
from services.gateway.people.tokens import Scope
from services.gateway.people.users import CurrentUser
from services.gateway.people.way_back import to_login
from services.gateway.recent import Recent

log = logging.getLogger(__name__)

_COOKIE_FIELD = "sid"
_SEEN_FIELD = "seen"
"""When the cookie was last given a new end, in Unix time."""
CART_FIELD = "cart"
"""Where a visitor's cookie holds the secret of the cart, which a login does not end."""

P = ParamSpec("P")
R = TypeVar("R")


_NOT_ASKED: Any = object()


@dataclass(frozen=True)
class Identity:
    """``credential_id`` is the session's or the token's id; a session may do everything."""

    user: CurrentUser
    via: Literal["session", "token"]
    credential_id: UUID
    scopes: frozenset[Scope] = frozenset(Scope)


def current_identity() -> Identity | None:
    """Who asks, looked up once for each request, also where that fails."""
    identity: Identity | None = g.get("identity", _NOT_ASKED)
    if identity is _NOT_ASKED:
        if "identity_error" in g:
            raise g.identity_error
        try:
            identity = g.identity = _identify()
        except Exception as error:
            g.identity_error = error
            raise
    return identity


def current_user() -> CurrentUser | None:
    """The user who asks; None for a visitor."""
    identity = current_identity()
    return identity.user if identity else None


def signed_in_user() -> CurrentUser:
    """The user who asks. Raises a 401 for a visitor."""
    user = current_user()
    if user is None:
        raise Problem(
            401,
            "authentication_required",
            "Log in first, or send a valid token: 'Authorization: Bearer <token>'.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return user


def login_required(view: Callable[P, R]) -> Callable[P, R]:
    """Only for users: a program gets a 401, a person the login page and then this one again,
    or the page whose form was sent."""

    @open_to(Who.USERS)
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        user = current_user()
        identity = current_identity()
        if identity and identity.via == "token" and request.method not in ("GET", "HEAD"):
            # A page's form knows nothing of what a token may do.
            raise Problem(403, "scope_missing", "A token changes things through the API alone.")
        if user is None and not wants_json():
            return to_login()  # type: ignore[return-value]
        ensure_wallet(user or signed_in_user())
        return view(*args, **kwargs)

    return guarded


def start_browser_session(user: User) -> None:
    """Log this browser in: a fresh session row and a fresh cookie, nothing of the old one but the
    cart."""
    _revoke_cookie()
    with database().begin() as session:
        secret = sessions.start(
            session,
            utc_now(),
            user.user_id,
            session_lifetime(),
            address=request.remote_addr or "",
            user_agent=request.user_agent.string,
        )
    log.info("logged in", extra={"user_id": str(user.user_id), "by": "browser"})
    cart = cookie.get(CART_FIELD)
    cookie.clear()
    if cart is not None:
        cookie[CART_FIELD] = cart
    cookie[_COOKIE_FIELD] = secret
    cookie.permanent = True
    g.pop("identity", None)
    g.pop("csrf_token", None)
    # What the first page would put in, so that none has to send the cookie again.
    cookie[_SEEN_FIELD] = _now_s()
    generate_csrf()


def end_browser_session() -> None:
    """Log this browser out. The row is revoked, so that a copied cookie is worth nothing."""
    _revoke_cookie()
    cookie.clear()
    g.pop("identity", None)
    g.pop("csrf_token", None)


def ensure_wallet(user: CurrentUser) -> None:
    """Open the user's wallet if registering could not; a wallet that is away blocks nothing.

    The same key each time: however often it is tried, one wallet is opened.
    """
    if user.has_wallet:
        return
    try:
        call(
            OpenAccount(idempotency_key=wallet_key(user.user_id), user_id=user.user_id), timeout_s=3
        )
    except (Unavailable, DeadlineExceeded) as error:
        log.warning("the wallet is not open yet", extra={"reason": str(error)})
        return
    except ServiceError:
        log.exception("the wallet could not be opened")
        return
    with database().begin() as session:
        users.note_wallet_opened(session, utc_now(), user.user_id)


def forget_identity() -> None:
    """Who asks was changed: the next request of this browser or program looks again."""
    secret = _bearer_secret()
    if secret is not None:
        _forget(_by_token, secret)
    else:
        _forget(_by_cookie, str(cookie.get(_COOKIE_FIELD)))


def end_token(credential_id: UUID) -> None:
    """End the token that this request came with."""
    with database().begin() as session:
        tokens.revoke(session, utc_now(), credential_id)
    _forget(_by_token, _bearer_secret() or "")


def _identify() -> Identity | None:
    secret = _bearer_secret()
    if secret is not None:
        return _remembered(_by_token, secret)
    secret = cookie.get(_COOKIE_FIELD)
    if not isinstance(secret, str):
        return None
    identity = _remembered(_by_cookie, secret)
    # The cookie lives on with the pages that are opened, and with nothing that a page fetches.
    if identity is not None and not wants_json() and "HX-Request" not in request.headers:
        now_s = _now_s()
        if now_s - cookie.get(_SEEN_FIELD, 0) >= sessions.SEEN_EVERY.total_seconds():
            cookie[_SEEN_FIELD] = now_s
    return identity


def _now_s() -> int:
    return int(utc_now().timestamp())


def _bearer_secret() -> str | None:
    authorization = request.authorization
    if authorization is None or authorization.type != "bearer":
        return None
    return authorization.token or ""


Finder = Callable[[str], Identity | None]


def _remembered(find: Finder, secret: str) -> Identity | None:
    """Who is behind the secret. What is a session's is no token, whoever sends it as one."""
    known: Recent[Identity] = current_backend().identities
    identity = known.find((find, fingerprint(secret)), lambda: find(secret))
    if identity is not None and not identity.user.has_wallet:
        # This request opens one, and the next is not to try that again.
        _forget(find, secret)
    return identity


def _forget(find: Finder, secret: str) -> None:
    current_backend().identities.forget((find, fingerprint(secret)))


def _by_token(secret: str) -> Identity | None:
    now = utc_now()
    found = database().answer(tokens.find_all, (fingerprint(secret), now))
    if found is None:
        return None
    if now - found.last_used_at > tokens.USED_EVERY:
        with database().begin() as session:
            tokens.note_used(session, now, found.token_id, session_lifetime())
    return Identity(found.user, "token", found.token_id, found.scopes)


def _by_cookie(secret: str) -> Identity | None:
    now = utc_now()
    with database().read() as session:
        found = sessions.find(session, now, secret)
    if found is None:
        return None
    if now - found.last_seen_at > sessions.SEEN_EVERY:
        with database().begin() as session:
            sessions.note_seen(session, now, found.session_id, session_lifetime())
    return Identity(found.user, "session", found.session_id)


def _revoke_cookie() -> None:
    secret = cookie.get(_COOKIE_FIELD)
    if isinstance(secret, str):
        with database().begin() as session:
            sessions.revoke(session, utc_now(), secret)
        _forget(_by_cookie, secret)


def session_lifetime() -> timedelta:
    """Without use; what a login gave to a program ends so too."""
    return timedelta(days=settings().session_days)
