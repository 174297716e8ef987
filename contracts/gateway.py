"""What the gateway says: people register with it, and it is asked for nothing by the services."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AfterValidator, Field

from contracts.billing import PurchaseWay
from contracts.messages import Event, Moment, UserEvent, Value

SERVICE = "gateway"


class UserRegistered(UserEvent, source=SERVICE, type="user_registered", needs_listener=False):
    """Somebody has an account. Said once for each; whoever wants the address asks the person."""


class AccountDeleted(UserEvent, source=SERVICE, type="account_deleted", needs_listener=False):
    """Somebody has deleted the account: whoever knows more of the person than the id deletes it."""


class MovedPersonAnswered(UserEvent, source=SERVICE, type="moved_person_answered"):
    """Somebody who came from the old system was invited to set a password. Or not, for the reason
    that ``refusal`` names: ``address_taken``, ``address_unusable``."""

    refusal: str = ""


class PathStep(StrEnum):
    """What a browser came to on its way to a purchase."""

    PRODUCT_PAGE = "product_page"
    DIALOG = "dialog"
    FILLED = "filled"
    CART_PAGE = "cart_page"
    CARD_PAGE = "card_page"
    COMPLETED = "completed"


PATHS = {
    PurchaseWay.BUY_NOW: (
        PathStep.PRODUCT_PAGE,
        PathStep.DIALOG,
        PathStep.CARD_PAGE,
        PathStep.COMPLETED,
    ),
    PurchaseWay.CART: (
        PathStep.FILLED,
        PathStep.CART_PAGE,
        PathStep.CARD_PAGE,
        PathStep.COMPLETED,
    ),
}
"""The steps of each way, in their order; who has the credits needs no card page."""

STEPS_MAX = 500


def _hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


Hour = Annotated[Moment, AfterValidator(_hour_of)]
"""The hour (UTC) of a moment, which is all that is told of it."""


class StepTaken(Value):
    """``path_id`` stands for one browser on one day (UTC), whose no row says once the day is over:
    docs/decisions/0030 says how, and what else there is."""

    path_id: UUID
    way: PurchaseWay
    step: PathStep
    taken_at: Hour


class StepsTaken(Event, source=SERVICE, type="steps_taken", needs_listener=False):
    """What browsers did on their ways to purchases. Who they are is not told, nor when to more than
    the hour, nor in which order; and what a process had gathered that was killed is told by nobody.
    """

    told_to: ClassVar[timedelta] = timedelta(hours=1)

    occurred_at: Hour
    steps: Annotated[list[StepTaken], Field(max_length=STEPS_MAX)]
