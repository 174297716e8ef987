"""Acts that another service carries out: recorded before it is asked, and their outcome after."""

from collections.abc import Callable

from chassis.clock import utc_now
from contracts.errors import NO_ANSWER, ServiceError
from contracts.messages import ReplyT, Request
from services.gateway.backend import call, database
from services.gateway.staff import acts
from services.gateway.staff.acts import Actor, Known


def carry_out(
    actor: Actor,
    action: str,
    subject: str,
    reason: str,
    before: Known,
    request: Request[ReplyT],
    known: Callable[[ReplyT], Known],
) -> ReplyT:
    """Have a service do what is requested, and return its answer, of which the audit log keeps
    what is ``known``.

    Raises the service's errors. Where none came that says what became of it, the act has no
    outcome.
    """
    with database().begin() as session:
        begun = acts.record(session, utc_now(), actor, action, subject, reason, before=before)

    def end(after: Known) -> None:
        with database().begin() as session:
            now = utc_now()
            acts.record(session, now, actor, action, subject, reason, after=after, completes=begun)

    try:
        answer = call(request)
    except NO_ANSWER:
        raise
    except ServiceError as error:
        # One without a code of its own is a fault of the service, perhaps after it had done it.
        if error.code != ServiceError.code:
            end({"outcome": error.code})
        raise
    end({"outcome": "done", **known(answer)})
    return answer
