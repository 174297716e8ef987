"""For roles, as :mod:`services.gateway.api.admin`: which services live, their dead letters,
automatic charges, and payments that need a look."""

from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field

from contracts import operating
from contracts.errors import NotFound
from contracts.operating import SERVICES, GetDeadLetters
from contracts.topup import GetOperatorSwitch, ListProblems
from services.gateway.access import Role
from services.gateway.api.admin import WhyBody
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, Limit, Usd
from services.gateway.backend import call
from services.gateway.staff import commands, services
from services.gateway.staff.acts import read_reason
from services.gateway.staff.guard import Staff, readers
from services.gateway.staff.services import Service

blueprint = Blueprint("api_operations", __name__)

OPERATORS = frozenset({Role.OPERATOR})


class ChargesReply(ApiReply):
    """Whether all automatic charges are stopped, since when, by which user, and why."""

    is_stopped: bool
    reason: str
    changed_by: str
    changed_at: AwareDatetime | None


class LetterReply(ApiReply):
    message: str
    queue: str
    attempts: int
    error: str
    body: str


class LetterReplies(ApiReply):
    """The oldest first; ``total`` there are."""

    letters: list[LetterReply]
    total: int


class LettersQuery(ApiBody):
    limit: Limit = 50


class LetterDoneReply(ApiReply):
    """How many there were with this id: the same message may have failed several times."""

    count: int


class QueueReply(ApiReply):
    """``consumers`` are processes that take from it."""

    name: str
    waiting: int
    consumers: int


class ServiceReply(ApiReply):
    """All but the ``name`` is null of one that does not answer: its queues keep what it is to hear.

    ``waiting`` are messages of all its ``queues``; ``outbox_oldest_s`` is for how long the oldest
    of ``outbox_unsent`` waits, in seconds."""

    name: str
    processes: int | None
    waiting: int | None
    outbox_unsent: int | None
    outbox_oldest_s: int | None
    dead_letters: int | None
    queues: list[QueueReply] | None


class ServiceReplies(ApiReply):
    """``switches`` are what the website was started with, by the names of its settings."""

    services: list[ServiceReply]
    switches: dict[str, str]


class ProblemReply(ApiReply):
    """A payment that needs a look; ``code`` is for a program."""

    code: str
    message: str
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    since: AwareDatetime
    topup_id: UUID | None
    user_id: UUID | None
    payment_id: str


class ProblemReplies(ApiReply):
    problems: list[ProblemReply]


class ProblemsQuery(ApiBody):
    limit: Limit = 100


@endpoint(
    blueprint,
    "GET",
    "/api/admin/charges",
    reply=ChargesReply,
    roles=readers(Role.OPERATOR, Role.FINANCE),
)
def show_charges(staff: Staff) -> ChargesReply:  # noqa: ARG001
    """Show whether automatic charges go out."""
    return ChargesReply.of(call(GetOperatorSwitch()))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/charges/stop",
    body=WhyBody,
    reply=ChargesReply,
    roles=OPERATORS,
)
def stop_charges(staff: Staff, body: WhyBody) -> ChargesReply:
    """Stop all automatic charges at once."""
    commands.stop_charges(staff.actor(), read_reason(body.reason))
    return ChargesReply.of(call(GetOperatorSwitch()))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/charges/release",
    body=WhyBody,
    reply=ChargesReply,
    roles=OPERATORS,
)
def release_charges(staff: Staff, body: WhyBody) -> ChargesReply:
    """Let automatic charges go out again."""
    commands.release_charges(staff.actor(), read_reason(body.reason))
    return ChargesReply.of(call(GetOperatorSwitch()))


@endpoint(
    blueprint,
    "GET",
    "/api/admin/dead-letters/<string(maxlength=40):service>",
    query=LettersQuery,
    reply=LetterReplies,
    roles=readers(Role.OPERATOR),
)
def list_dead_letters(staff: Staff, service: str, query: LettersQuery) -> LetterReplies:  # noqa: ARG001
    """List the messages that a service could not handle."""
    request = operating.of(_service(service), GetDeadLetters)
    return LetterReplies.of(call(request(limit=query.limit)))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/dead-letters/<string(maxlength=40):service>/<string(maxlength=40):message>/replay",
    body=WhyBody,
    reply=LetterDoneReply,
    roles=OPERATORS,
)
def replay_dead_letter(
    staff: Staff,
    service: str,
    message: str,
    body: WhyBody,
) -> LetterDoneReply:
    """Give a dead letter back to its queue. What it did already does not happen twice. 404: it is
    gone, as for a repetition."""
    actor, reason = staff.actor(), read_reason(body.reason)
    return LetterDoneReply(count=commands.replay(actor, _service(service), message, reason))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/dead-letters/<string(maxlength=40):service>/<string(maxlength=40):message>/discard",
    body=WhyBody,
    reply=LetterDoneReply,
    roles=OPERATORS,
)
def discard_dead_letter(
    staff: Staff,
    service: str,
    message: str,
    body: WhyBody,
) -> LetterDoneReply:
    """Drop a dead letter for good. 404: it is gone, as for a repetition."""
    actor, reason = staff.actor(), read_reason(body.reason)
    return LetterDoneReply(count=commands.discard(actor, _service(service), message, reason))


@endpoint(
    blueprint,
    "GET",
    "/api/admin/services",
    reply=ServiceReplies,
    roles=readers(Role.OPERATOR),
)
def show_services(staff: Staff) -> ServiceReplies:  # noqa: ARG001
    """Show which services live, what waits in their queues and outboxes, and how many messages
    they could not handle."""
    found = [_told(service) for service in services.ask()]
    return ServiceReplies(services=found, switches=services.switches())


@endpoint(
    blueprint,
    "GET",
    "/api/admin/problems",
    query=ProblemsQuery,
    reply=ProblemReplies,
    roles=readers(Role.OPERATOR, Role.FINANCE),
)
def list_problems(staff: Staff, query: ProblemsQuery) -> ProblemReplies:  # noqa: ARG001
    """List payments that need a look: stuck and failed top-ups, disputes, differences."""
    return ProblemReplies.of(call(ListProblems(limit=query.limit)))


def _told(service: Service) -> ServiceReply:
    if service.state is None:
        nothing = dict.fromkeys(ServiceReply.model_fields)
        return ServiceReply.model_validate({**nothing, "name": service.name})
    return ServiceReply.of(service.state, name=service.name, waiting=service.waiting)


def _service(name: str) -> str:
    if name not in SERVICES:
        raise NotFound("There is no service of this name.")
    return name
