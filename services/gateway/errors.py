"""Errors as a person or a program sees them: one table from codes to HTTP statuses.

A program gets a problem document (RFC 9457), which carries ``{"error": {"code": …, "message": …}}``
too, a person a page. Both say what happened, what was kept, and what to do.
"""

import logging
from dataclasses import dataclass, field

from flask import Flask, Response, current_app, g, jsonify, make_response, render_template, request
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from chassis.money import usd_number
from contracts.errors import BadRequest, PriceChanged, ServiceError
from services.gateway.people.users import AccountError

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
PROBLEM_TYPE = "application/problem+json"

STATUSES: dict[str, int] = {
    "service_error": 502,
    "bad_request": 422,
    "not_found": 404,
    "conflict": 409,
    "idempotency_conflict": 409,
    "key_closed": 409,
    "price_changed": 409,
    "out_of_stock": 409,
    "insufficient_funds": 402,
    "account_frozen": 403,
    "payment_failed": 402,
    "limit_exceeded": 409,
    "overloaded": 503,
    "deadline_exceeded": 504,
    "unavailable": 503,
    "invalid_email": 422,
    "weak_password": 422,
    "email_taken": 409,
    "wrong_credentials": 401,
    "wrong_password": 422,
    "second_step_required": 401,
    "link_ended": 410,
    "invalid_name": 422,
    "email_not_confirmed": 403,
    "reason_missing": 422,
    "too_many": 409,
}
"""The status of each code that a service or a rule can raise. A test holds it complete."""

_HTTP_CODES = {
    400: "malformed_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
}

_HTTP_MESSAGES = {
    404: "There is nothing at this address.",
    405: "This address does not take this method; the Allow header lists those that it takes.",
    413: "The body is too large.",
}

_TITLES = {
    400: "That request made no sense",
    401: "Please log in",
    402: "The payment did not go through",
    403: "That is not allowed",
    404: "Not found",
    405: "That is not how this page is used",
    409: "Something changed meanwhile",
    410: "That link has ended",
    413: "That is too large",
    422: "Please check what you entered",
    429: "Too many tries",
    503: "A part of the site is away",
    504: "No answer in time",
}


@dataclass
class Problem(Exception):
    """An error that the gateway itself finds. ``extra`` stands beside code and message."""

    status: int
    code: str
    message: str
    extra: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def register_error_handlers(app: Flask) -> None:
    app.register_error_handler(Problem, _respond)
    app.register_error_handler(AccountError, lambda error: _respond(_from_account(error)))
    app.register_error_handler(ServiceError, lambda error: _respond(from_service(error)))
    app.register_error_handler(CSRFError, lambda _: _respond(_without_csrf()))
    app.register_error_handler(HTTPException, lambda error: _respond(_from_http(error)))
    app.register_error_handler(OperationalError, _database_away)
    app.register_error_handler(PoolTimeoutError, _database_away)
    app.register_error_handler(Exception, _unexpected)


def wants_json() -> bool:
    """Whether this request's answer is for a program."""
    return request.path.startswith(("/api/", "/webhooks/", "/healthz", "/readyz"))


def from_service(error: ServiceError) -> Problem:
    """A service's error as HTTP: the table gives the status, the message stays as it is."""
    status = STATUSES.get(error.code, 502)
    message = str(error) or "The service could not do this."
    problem = Problem(status, error.code, message)
    if status == 502:
        problem.message = "Something went wrong on our side. Nothing is lost: try again later."
    if status in (503, 504):
        problem.headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, BadRequest) and error.field:
        problem.extra["field"] = error.field
    if isinstance(error, PriceChanged) and error.unit_price_micros is not None:
        problem.extra["unit_price_usd"] = usd_number(error.unit_price_micros)
    return problem


def _from_account(error: AccountError) -> Problem:
    problem = Problem(STATUSES[error.code], error.code, str(error))
    if error.field:
        problem.extra["field"] = error.field
    return problem


def _without_csrf() -> Problem:
    return Problem(
        403,
        "csrf_failed",
        "This request did not come from a fresh page of this site. Reload the page and try"
        " again; a program sends the page's token as X-CSRFToken, or uses a bearer token.",
    )


def _from_http(error: HTTPException) -> Problem:
    status = error.code or 500
    message = _HTTP_MESSAGES.get(status) or error.description or "The request failed."
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Location")}
    return Problem(status, _HTTP_CODES.get(status, "http_error"), message, headers=headers)


def _database_away(error: Exception) -> Response:
    log.error("the gateway's database did not answer", exc_info=error)
    # The error page shows who asks, and would ask the same database for that.
    g.identity = None
    return _respond(
        Problem(
            503,
            "unavailable",
            "The site cannot reach its database at the moment. Try again in a few seconds.",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    )


def _unexpected(error: Exception) -> Response:
    log.error("a request failed unexpectedly", exc_info=error)
    if current_app.config["PROPAGATE_EXCEPTIONS"]:
        raise error
    return _respond(
        Problem(
            500,
            "internal_error",
            "Something went wrong on our side, and it has been noted under the request id"
            f" {g.get('request_id', '-')}. Try again later.",
        )
    )


def _respond(problem: Problem) -> Response:
    if wants_json():
        response = jsonify(document(problem))
        response.mimetype = PROBLEM_TYPE
    else:
        response = make_response(_page(problem))
    response.status_code = problem.status
    response.headers.extend(problem.headers)
    return response


def document(problem: Problem) -> dict[str, object]:
    """The problem for a program. ``type`` names the kind of problem and leads nowhere."""
    return {
        "type": f"urn:mycelium:problem:{problem.code}",
        "title": title_of(problem),
        "status": problem.status,
        "detail": problem.message,
        "error": {"code": problem.code, "message": problem.message, **problem.extra},
    }


def title_of(problem: Problem) -> str:
    """The heading of an error's page: what to look at, where the error knows it."""
    field = str(problem.extra.get("field", "")).rpartition(".")[2]
    if problem.status == 422 and field:
        return f"Check the {field.replace('_', ' ')}"
    return _TITLES.get(problem.status, "Something went wrong")


def _page(problem: Problem) -> str | Response:
    title = title_of(problem)
    try:
        return render_template(
            "error.html",
            status=problem.status,
            code=problem.code,
            title=title,
            message=problem.message,
            request_id=g.get("request_id", ""),
        )
    except Exception:
        log.exception("the error page could not be shown")
        return Response(f"{problem.status} {title}\n\n{problem.message}\n", mimetype="text/plain")
