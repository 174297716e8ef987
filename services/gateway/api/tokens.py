"""API tokens of one's own: what they may do, and until when."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, StringConstraints

from chassis.clock import utc_now
from services.gateway.api.accounts import Code
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, NoReply, PlainText, WholeDays
from services.gateway.backend import database
from services.gateway.errors import Problem
from services.gateway.models import ApiToken
from services.gateway.people import tokens
from services.gateway.people.identity import current_identity
from services.gateway.people.tokens import Scope
from services.gateway.people.users import CurrentUser
from services.gateway.staff.guard import check_scopes
from services.gateway.staff.guard import make_token as make_token_of

blueprint = Blueprint("api_tokens", __name__)

Name = Annotated[PlainText, StringConstraints(min_length=1, max_length=tokens.NAME_LENGTH_MAX)]


class TokenBody(ApiBody):
    """``read`` is part of every token. Without ``expires_in_days`` it works until it is revoked;
    one with ``admin`` for 30 days at most. ``admin`` takes a role and ``sell`` that of a seller,
    both a ``code`` of the second step."""

    name: Name
    scopes: Annotated[list[Scope], Field(max_length=len(Scope))]
    expires_in_days: WholeDays | None = None
    code: Code = ""


class TokenReply(ApiReply):
    """``last_used_at`` is exact to five minutes; ``is_of_login``: a login gave it, and each use
    puts off its end, up to 180 days after that login."""

    token_id: UUID
    name: str
    scopes: list[Scope]
    is_of_login: bool
    created_at: AwareDatetime
    last_used_at: AwareDatetime
    expires_at: AwareDatetime | None


class NewToken(TokenReply):
    """``token`` is told now and never again."""

    token: str


class TokenReplies(ApiReply):
    """Newest first: those that work."""

    tokens: list[TokenReply]


@endpoint(blueprint, "GET", "/api/tokens", reply=TokenReplies)
def list_tokens(user: CurrentUser) -> TokenReplies:
    """The tokens that work."""
    with database().read() as session:
        found = tokens.living(session, utc_now(), user.user_id)
    return TokenReplies(tokens=[TokenReply.of(row, **_own(row)) for row in found])


@endpoint(blueprint, "POST", "/api/tokens", body=TokenBody, reply=NewToken, status=201)
def make_token(user: CurrentUser, body: TokenBody) -> NewToken:
    """Make a token. One that is made with a token ends with that one's time at the latest, unless a
    login gave that. A retry makes another one: the list has both."""
    now = utc_now()
    until = now + timedelta(days=body.expires_in_days) if body.expires_in_days else None
    identity = current_identity()
    check_scopes(user, body.scopes, body.code)
    with database().begin() as session:
        if identity is not None and identity.via == "token":
            own = tokens.get(session, now, user.user_id, identity.credential_id)
            bound = None if own.is_of_login else own.expires_at
            until = min(filter(None, (until, bound)), default=None)
        secret = make_token_of(session, now, user.user_id, body.name, body.scopes, until)
        session.flush()
        made = tokens.find(session, now, secret)
        if made is None:
            raise Problem(409, "conflict", "The token has ended already.")
        row = tokens.get(session, now, user.user_id, made.token_id)
        return NewToken.of(row, token=secret, **_own(row))


@endpoint(blueprint, "DELETE", "/api/tokens/<uuid:token_id>", reply=NoReply)
def revoke_token(user: CurrentUser, token_id: UUID) -> NoReply:
    """End a token. 404: it is not yours, or has ended."""
    now = utc_now()
    with database().begin() as session:
        tokens.revoke(session, now, tokens.get(session, now, user.user_id, token_id).token_id)
    return NoReply()


def _own(row: ApiToken) -> dict[str, Any]:
    return {"scopes": tokens.read_scopes(row.scopes)}
