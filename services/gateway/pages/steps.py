"""Which step on the way to a purchase a page is: noted beside the request."""

from flask import request

from chassis.clock import utc_now
from contracts.billing import PurchaseWay
from contracts.gateway import PathStep
from services.gateway.backend import current_backend
from services.gateway.people.identity import current_identity


def took(way: PurchaseWay, step: PathStep) -> None:
    """Who asks came to this step. Programs and visitors have no path, nor has who asks not to be
    followed."""
    identity = current_identity()
    if identity is not None and identity.via == "session" and not _objects():
        current_backend().paths.take(identity.credential_id, way, step, utc_now())


def _objects() -> bool:
    """Do Not Track, and Global Privacy Control."""
    return "1" in (request.headers.get("DNT"), request.headers.get("Sec-GPC"))
