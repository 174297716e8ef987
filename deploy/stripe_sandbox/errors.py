"""Stripe's error replies.

ApiError
├── InvalidRequest      400/404  a parameter or an object is wrong
├── IdempotencyError    400/409  a key was used with other parameters, or is in use
├── AuthenticationError 401      no key, or one that is not a test key
├── CardError           402      the card was declined, or needs its owner
└── ServerError         500      only when a test asks for it
"""

from typing import Any


class ApiError(Exception):
    """An error reply: its HTTP status and the body's `error` object."""

    status = 500
    type = "api_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        fields = {"code": code, "message": message, "param": param, "type": self.type, **extra}
        self.error = {name: value for name, value in fields.items() if value is not None}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the reply."""
        return {"error": self.error}


class InvalidRequest(ApiError):
    """A parameter or an object is wrong; `param` names it."""

    status = 400
    type = "invalid_request_error"


class IdempotencyError(ApiError):
    """An idempotency key cannot be used for this request."""

    status = 400
    type = "idempotency_error"


class AuthenticationError(ApiError):
    """No key, or a key that the sandbox refuses."""

    status = 401
    type = "invalid_request_error"


class RateLimited(ApiError):
    """Too many requests; sent only when a switch asks for it."""

    status = 429
    type = "invalid_request_error"


class CardError(ApiError):
    """The card was declined, or needs its owner's authentication."""

    status = 402
    type = "card_error"


class ServerError(ApiError):
    """Stripe's own failure; sent only when a switch asks for it."""


def missing(kind: str, object_id: str, param: str = "id") -> InvalidRequest:
    """What Stripe answers for an id that it does not know.

    It is 404 for an id in the path and 400 for one in a parameter.
    """
    return InvalidRequest(
        f"No such {kind}: '{object_id}'",
        code="resource_missing",
        param=param,
        status=404 if param in ("id", "intent") else 400,
    )
