"""Questions that a page can do without: a part that is away leaves a gap, not an error page."""

import logging
from typing import TypeVar

from contracts.errors import ServiceError
from contracts.messages import Reply, Request
from services.gateway.frame import call

log = logging.getLogger(__name__)

ReplyT = TypeVar("ReplyT", bound=Reply)

ANSWER_WITHIN_S = 3.0


def ask(question: Request[ReplyT]) -> ReplyT | None:
    """The answer, or None when the service cannot give one now. Never for commands."""
    try:
        return call(question, timeout_s=ANSWER_WITHIN_S)
    except ServiceError as error:
        log.warning(
            "a page is shown without one of its parts",
            extra={"question": f"{question.service}.{question.method}", "reason": str(error)},
        )
        return None
