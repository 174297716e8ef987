"""Questions that a page can do without: a part that is away leaves a gap, not an error page."""

import logging
from typing import TypeVar

from flask import g

from contracts.errors import DeadlineExceeded, ServiceError, Unavailable
from contracts.messages import Reply, Request
from services.gateway.backend import call

log = logging.getLogger(__name__)

ReplyT = TypeVar("ReplyT", bound=Reply)

ANSWER_WITHIN_S = 3.0


def ask(question: Request[ReplyT]) -> ReplyT | None:
    """The answer, or None when the service cannot give one now. Never for commands.

    The menu and the page below it often want to know the same: it is asked once in a request.
    A service that stayed silent once is not waited for again in the same request.
    """
    answers: dict[tuple[type, str], ReplyT | None] = g.setdefault("answers", {})
    silent: set[str] = g.setdefault("silent_services", set())
    key = (type(question), question.model_dump_json())
    if key not in answers:
        answers[key] = None if question.service in silent else _try(question, silent)
    return answers[key]


def _try(question: Request[ReplyT], silent: set[str]) -> ReplyT | None:
    try:
        return call(question, timeout_s=ANSWER_WITHIN_S)
    except ServiceError as error:
        if isinstance(error, DeadlineExceeded | Unavailable):
            silent.add(question.service)
        log.warning(
            "a page is shown without one of its parts",
            extra={"question": f"{question.service}.{question.method}", "reason": str(error)},
        )
        return None
