"""/healthz: this process lives. /readyz: everything behind it answers."""

import threading
from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify
from sqlalchemy.exc import SQLAlchemyError

from chassis.readiness import Readiness
from contracts.billing import GetPurchase
from contracts.catalog import GetProduct
from contracts.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable
from contracts.messages import Request
from contracts.topup import GetTopup
from contracts.wallet import GetWallet
from services.gateway.access import Who, open_to
from services.gateway.backend import Backend, current_backend
from services.gateway.security import unlimited

blueprint = Blueprint("health", __name__)

NOBODY = UUID(int=0)
ANSWER_WITHIN_S = 1.5
AWAY = "away"

_lock = threading.Lock()

_QUESTIONS: dict[str, Request[Any]] = {
    "wallet": GetWallet(user_id=NOBODY),
    "catalog": GetProduct(product_id=str(NOBODY)),
    "billing": GetPurchase(user_id=NOBODY, purchase_id=NOBODY),
    "topup": GetTopup(user_id=NOBODY, topup_id=NOBODY),
}
"""A question to each service about something that nobody has: 'not found' is a sign of life
that went through the broker, the service and its database."""


@blueprint.get("/healthz")
@open_to(Who.EVERYBODY)
@unlimited
def healthz() -> Response:
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
@open_to(Who.EVERYBODY)
@unlimited
def readyz() -> tuple[Response, int]:
    checks = states()
    problems = set(checks.values()) - {"ok"}
    body = {"status": "unavailable" if problems else "ok", "checks": checks}
    return jsonify(body), 503 if problems else 200


def states() -> dict[str, str]:
    """``ok``, or what is wrong, of everything behind the website, as of a few seconds ago."""
    problems = _readiness().problems()
    return {name: problems.get(name, "ok") for name in ("database", *_QUESTIONS)}


def _readiness() -> Readiness:
    """Watched from the first question on, in the process that answers it."""
    backend = current_backend()
    with _lock:
        if backend.readiness is None:
            backend.readiness = Readiness(
                {
                    "database": partial(_ask_database, backend),
                    **{
                        service: partial(_ask_service, backend, question)
                        for service, question in _QUESTIONS.items()
                    },
                }
            )
            backend.readiness.start()
        return backend.readiness


def _ask_database(backend: Backend) -> None:
    try:
        # A connection that was not used a moment ago is tested when it is taken.
        backend.database.engine.connect().close()
    except SQLAlchemyError as error:
        raise ConnectionError(AWAY) from error


def _ask_service(backend: Backend, question: Request[Any]) -> None:
    try:
        backend.call(question, ANSWER_WITHIN_S)
    except NotFound:
        pass  # a sign of life
    except (Unavailable, DeadlineExceeded) as error:
        raise ConnectionError(AWAY) from error
    except ServiceError as error:
        raise ConnectionError(error.code) from error
