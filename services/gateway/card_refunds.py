"""Unused credit back to its card: asked for on a page or by a program, after the same check."""

from uuid import UUID

from contracts.topup import CardRefund, RefundTopup
from services.gateway.backend import call
from services.gateway.people.signing_in import check_second_step
from services.gateway.people.users import CurrentUser
from services.gateway.security import throttle


def give_back(
    user: CurrentUser, topup_id: UUID, amount_micros: int | None, key: str, code: str
) -> CardRefund:
    """What became of it. ``amount_micros`` None: all that is unused.

    ``key`` belongs to this user (:func:`services.gateway.idempotency.scoped_key`), ``code`` is of
    the second step. Raises what :class:`contracts.topup.RefundTopup` does, ``SecondStepRequired``,
    and a 429.
    """
    if user.has_second_step:
        throttle("password", str(user.user_id))
    check_second_step(user.user_id, code, key)
    command = RefundTopup(
        idempotency_key=key, user_id=user.user_id, topup_id=topup_id, amount_micros=amount_micros
    )
    return call(command)
