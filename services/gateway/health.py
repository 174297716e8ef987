"""/healthz: this process lives. /readyz: everything behind it answers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify
from sqlalchemy import text

from contracts.billing import GetPurchase
from contracts.catalog import GetProduct
from contracts.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable
from contracts.messages import Request
from contracts.topup import GetTopup
from contracts.wallet import GetWallet
from services.gateway.frame import Frame, current_frame
from services.gateway.security import limiter

blueprint = Blueprint("health", __name__)

NOBODY = UUID(int=0)
ANSWER_WITHIN_S = 3.0

_QUESTIONS: dict[str, Request[Any]] = {
    "wallet": GetWallet(user_id=NOBODY),
    "catalog": GetProduct(product_id=str(NOBODY)),
    "billing": GetPurchase(user_id=NOBODY, purchase_id=NOBODY),
    "topup": GetTopup(user_id=NOBODY, topup_id=NOBODY),
}
"""A question to each service about something that nobody has: 'not found' is a sign of life
that went through the broker, the service and its database."""


@blueprint.get("/healthz")
@limiter.exempt
def healthz() -> Response:
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
@limiter.exempt
def readyz() -> tuple[Response, int]:
    frame = current_frame()
    checks: dict[str, Callable[[], str]] = {"database": partial(_ask_database, frame)}
    for service, question in _QUESTIONS.items():
        checks[service] = partial(_ask_service, frame, question)
    with ThreadPoolExecutor(len(checks)) as pool:
        answers = dict(zip(checks, pool.map(lambda check: check(), checks.values()), strict=True))
    is_ready = all(answer == "ok" for answer in answers.values())
    body = {"status": "ok" if is_ready else "unavailable", "checks": answers}
    return jsonify(body), 200 if is_ready else 503


def _ask_database(frame: Frame) -> str:
    try:
        with frame.database.read() as session:
            session.execute(text("SELECT 1 FROM users LIMIT 1"))
    except Exception:
        return "away"
    return "ok"


def _ask_service(frame: Frame, question: Request[Any]) -> str:
    try:
        frame.ask(question, ANSWER_WITHIN_S)
    except (Unavailable, DeadlineExceeded):
        return "away"
    except NotFound:
        return "ok"
    except ServiceError as error:
        return error.code
    return "ok"
