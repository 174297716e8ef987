"""What a user who sells is paid out."""

from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field

from contracts.billing import ListPayouts, PayoutStatus, RequestPayout
from services.gateway.api.accounts import Code
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, CardUsd, CursorText, Limit, Usd
from services.gateway.backend import call
from services.gateway.people.signing_in import check_may_pay_out
from services.gateway.people.users import CurrentUser
from services.gateway.security import throttle

blueprint = Blueprint("api_payouts", __name__)


class PayoutBody(ApiBody):
    """``amount`` is a whole number of cents. ``code`` is of the second step, for who has switched
    it on. A retry with the same key brings one that is valid then: the same in its half minute, a
    new one later, and never a recovery code twice."""

    amount_micros: CardUsd = Field(alias="amount")
    code: Code = ""


class PayoutQuery(ApiBody):
    cursor: CursorText | None = None
    limit: Limit = 25


class PayoutReply(ApiReply):
    """``reference`` is where the money is found once it is ``paid``; ``reason`` says why it was
    ``refused`` or ``declined``."""

    payout_id: UUID
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    status: PayoutStatus
    reference: str
    reason: str
    created_at: AwareDatetime
    changed_at: AwareDatetime


class PayoutReplies(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end. ``payable_usd`` can be
    asked for, as far as the wallet has it, unless something is owed (``owed_usd``)."""

    payouts: list[PayoutReply]
    payable_micros: Usd = Field(serialization_alias="payable_usd")
    owed_micros: Usd = Field(serialization_alias="owed_usd")
    next_cursor: str | None


@endpoint(blueprint, "GET", "/api/payouts", query=PayoutQuery, reply=PayoutReplies)
def list_payouts(user: CurrentUser, query: PayoutQuery) -> PayoutReplies:
    """The user's payouts, and what can be paid out."""
    return PayoutReplies.of(
        call(ListPayouts(user_id=user.user_id, cursor=query.cursor, limit=query.limit))
    )


@endpoint(
    blueprint,
    "POST",
    "/api/payouts",
    body=PayoutBody,
    reply=PayoutReply,
    status=201,
    command=True,
)
def request_payout(user: CurrentUser, body: PayoutBody, key: str) -> PayoutReply:
    """Ask to be paid what was earned. It is set aside in the wallet until an operator has sent it
    or refuses it. 402: so much was not earned, or is not in the wallet."""
    if user.has_second_step:
        throttle("password", str(user.user_id))
    check_may_pay_out(user, body.code, key)
    return PayoutReply.of(
        call(
            RequestPayout(
                idempotency_key=key, user_id=user.user_id, amount_micros=body.amount_micros
            )
        )
    )
