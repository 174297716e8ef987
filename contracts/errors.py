"""The errors that cross the wire.

An error carries positional strings only, because that is what survives nameko's
serialisation. ``code`` is what a program reads, the message what a person reads: it
says what happened, what was kept, and what to do.

::

    ServiceError
    ├── BadRequest              the arguments do not fit the method
    ├── NotFound                no such thing, or it is somebody else's
    ├── Conflict                the thing is not in a state that allows this
    │   ├── IdempotencyConflict the key was used before, with another body
    │   ├── KeyClosed           the key was closed before the command arrived
    │   └── PriceChanged        the catalog's price is no longer the one that was shown
    ├── InsufficientFunds       the wallet's available balance is too small
    ├── AccountFrozen           the account is frozen, after a dispute for example
    ├── PaymentFailed           the card processor said no
    ├── LimitExceeded           a limit the user or the operator set
    ├── Overloaded              too much is waiting here: try again, later
    ├── DeadlineExceeded        no answer in time: the outcome is unknown
    └── Unavailable             the service, the broker or the card processor cannot be reached
"""

from typing import ClassVar


class ServiceError(Exception):
    """Something that a caller can be told about. ``str(error)`` is the sentence for a person."""

    code: ClassVar[str] = "service_error"

    def __init__(self, message: str = "", *details: str) -> None:
        super().__init__(message, *details)

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def details(self) -> tuple[str, ...]:
        """What a program may need beside the code; each subclass says what stands where."""
        return tuple(str(detail) for detail in self.args[1:])


class BadRequest(ServiceError):
    """``details``: the name of the first offending field."""

    code = "bad_request"

    @property
    def field(self) -> str:
        """Empty where it is none of the caller's fields."""
        return self.details[0] if self.details else ""


class NotFound(ServiceError):
    code = "not_found"


class Conflict(ServiceError):
    code = "conflict"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class KeyClosed(Conflict):
    code = "key_closed"


class PriceChanged(Conflict):
    """``details``: the price of one unit now, in micro-dollars."""

    code = "price_changed"

    @property
    def unit_price_micros(self) -> int | None:
        """None where it was not said."""
        return int(self.details[0]) if self.details else None


class OutOfStock(Conflict):
    """``details``: the product id."""

    code = "out_of_stock"


class InsufficientFunds(ServiceError):
    """``details``: the available balance and the shortfall, both in micro-dollars, and, where the
    wallet refused, how many entries it had then."""

    code = "insufficient_funds"

    @property
    def available_micros(self) -> int:
        """What the wallet can spend; 0 where it was not said."""
        return int(self.details[0]) if self.details else 0


class AccountFrozen(ServiceError):
    """``details``: how many entries the wallet had then, where that refused."""

    code = "account_frozen"


class PaymentFailed(ServiceError):
    """``details``: the card processor's code, and its decline code where there is one."""

    code = "payment_failed"


class LimitExceeded(ServiceError):
    code = "limit_exceeded"


class Overloaded(ServiceError):
    code = "overloaded"


class DeadlineExceeded(ServiceError):
    code = "deadline_exceeded"


class Unavailable(ServiceError):
    code = "unavailable"


NO_ANSWER = (DeadlineExceeded, Unavailable, Overloaded)
"""What leaves it open whether something was done: it is asked again under the same key."""

NO_ANSWER_CODES = frozenset(error.code for error in NO_ANSWER)


def with_code(code: str, message: str, *details: str) -> ServiceError:
    """The error with this code; a plain one for a code that is not known here."""
    return _BY_CODE.get(code, ServiceError)(message, *details)


_BY_CODE = {
    error.code: error
    for error in list(globals().values())
    if isinstance(error, type) and issubclass(error, ServiceError)
}
