"""Credits from one user to another."""

from uuid import UUID

from flask import Blueprint
from pydantic import Field

from services.gateway import transfers
from services.gateway.api.accounts import Code, Email
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, CardUsd, Usd
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_transfers", __name__)


class TransferBody(ApiBody):
    """``amount`` is a whole number of cents. ``code`` is of the second step, for who has switched
    it on, where more is sent in a day than goes without; a retry brings the same one."""

    to_email: Email
    amount_micros: CardUsd = Field(alias="amount")
    code: Code = ""


class TransferReply(ApiReply):
    """``balance`` is the sender's, right after it."""

    transaction_id: UUID
    balance_after_micros: Usd


@endpoint(
    blueprint,
    "POST",
    "/api/wallet/transfers",
    body=TransferBody,
    reply=TransferReply,
    status=201,
    command=True,
)
def send(user: CurrentUser, body: TransferBody, key: str) -> TransferReply:
    """Send credits to another user, who learns your address. It can't be taken back. 422: no
    account with this address takes transfers. 409 ``limit_exceeded``: the day's limit is passed.
    409 ``key_closed``: an earlier try with this key got no answer in time and was ended; nothing
    was sent. Send it again with a new key."""
    return TransferReply.of(transfers.send(user, body.to_email, body.amount_micros, key, body.code))
