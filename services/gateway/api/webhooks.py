"""The card processor's notices, handed to the top-up service as they came.

The body stays raw, because its signature covers every byte. Any answer but 2xx makes the
processor send the notice again later, which is what is wanted while top-up is away.
"""

from flask import Blueprint, Response, jsonify, request

from contracts.errors import BadRequest, DeadlineExceeded, Unavailable
from contracts.topup import ReceiveWebhook
from services.gateway.access import Who, open_to
from services.gateway.backend import call
from services.gateway.errors import RETRY_AFTER_S, Problem
from services.gateway.security import unlimited

blueprint = Blueprint("webhooks", __name__)

WEBHOOK_PATH = "/webhooks/stripe"
LARGER_BODIES = {WEBHOOK_PATH: 1_000_000}
"""Paths that take more than other requests may send, and how many bytes."""

SIGNATURE_LENGTH_MAX = 2_000


@blueprint.post(WEBHOOK_PATH)
@open_to(Who.PROCESSOR)
@unlimited
def receive_stripe() -> Response:
    """Store a notice. 400: the signature is wrong. 503: try again later."""
    signature = request.headers.get("Stripe-Signature", "")
    if not signature or len(signature) > SIGNATURE_LENGTH_MAX:
        raise Problem(400, "bad_signature", "The Stripe-Signature header is missing or too long.")
    try:
        payload = request.get_data().decode("utf-8")
    except UnicodeDecodeError:
        raise Problem(400, "malformed_request", "The body is not UTF-8.") from None
    try:
        call(ReceiveWebhook(payload=payload, signature=signature))
    except BadRequest as error:
        raise Problem(400, "bad_signature", str(error)) from None
    except (Unavailable, DeadlineExceeded) as error:
        raise Problem(
            503, "unavailable", str(error), headers={"Retry-After": str(RETRY_AFTER_S)}
        ) from None
    return jsonify({"received": True})
