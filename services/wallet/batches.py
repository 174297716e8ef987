"""Batches of commands that come in one call."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

from pydantic import ValidationError

from chassis.rpc import bad_request
from contracts.errors import BadRequest, Overloaded, ServiceError, Unavailable
from contracts.messages import Command
from contracts.wallet import (
    Adjust,
    BatchCommand,
    BatchError,
    BatchOutcome,
    BatchResult,
    Capture,
    CloseKey,
    Credit,
    Debit,
    DebitAll,
    DebitOutcomes,
    DebitResult,
    Freeze,
    OpenAccount,
    PlaceHold,
    PostBatch,
    Refund,
    Reverse,
    SetLevel,
    Transaction,
    Transfer,
    Unfreeze,
    VoidHold,
)
from services.wallet.book import keys
from services.wallet.ledger import Outcome

SubmitAll = Callable[..., list[Outcome]]

AT_A_TIME = 25
"""So many commands of a batch that gives way share a transaction: it takes two to three times as
long with them as with one. With fewer a batch takes longer than it spares others."""

METHODS: dict[str, type[Command[Any]]] = {
    command.method: command
    for command in (
        OpenAccount, Debit, Credit, Transfer, PlaceHold, Capture, VoidHold, Refund, Reverse,
        Adjust, Freeze, Unfreeze, SetLevel, CloseKey,
    )
}  # fmt: skip


def post(submit_all: SubmitAll, request: PostBatch) -> BatchOutcome:
    """Carry out a batch; a result for each command. Raises ``Overloaded``.

    A command that cannot even be read counts as refused. ``Unavailable``: it is not known
    whether an atomic batch was carried out.
    """
    commands = [_parse(command) for command in request.commands]
    readable = [command for command in commands if not isinstance(command, ServiceError)]
    is_hopeless = request.atomic and len(readable) < len(commands)
    done: Iterator[Outcome | None]
    if is_hopeless or not readable:
        done = iter([None] * len(readable))
    elif request.gives_way and not request.atomic:
        done = iter(_giving_way(partial(submit_all, is_dry_run=request.dry_run), readable))
    else:
        done = iter(submit_all(readable, is_atomic=request.atomic, is_dry_run=request.dry_run))
    outcomes = [
        command if isinstance(command, ServiceError) else next(done) for command in commands
    ]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
    if not (request.atomic and refusals):
        return BatchOutcome(results=[_result(o) for o in outcomes], applied=not request.dry_run)
    if isinstance(refusals[0], Unavailable):
        raise refusals[0]
    kept = [outcome if isinstance(outcome, ServiceError) else None for outcome in outcomes]
    return BatchOutcome(results=[_result(outcome) for outcome in kept], applied=False)


def _giving_way(submit_all: SubmitAll, commands: Sequence[Command[Any]]) -> list[Outcome]:
    """Hand in a few when those before are done: what others handed in meanwhile goes with them."""
    outcomes: list[Outcome] = []
    for start in range(0, len(commands), AT_A_TIME):
        some = commands[start : start + AT_A_TIME]
        try:
            outcomes += submit_all(some)
        except Overloaded as refusal:
            # Those before are done, and their caller is to hear it.
            outcomes += [refusal] * len(some)
    return outcomes


def debit_all(submit_all: SubmitAll, request: DebitAll) -> DebitOutcomes:
    """Make debits, each by itself. Raises ``BadRequest`` and ``Overloaded``."""
    for debit in request.debits:
        keys.require_callers_own(debit.idempotency_key)
        if debit.dry_run:
            raise BadRequest("dry_run: a rehearsal is a call by itself.", "dry_run")
    return DebitOutcomes(results=[_debited(outcome) for outcome in submit_all(request.debits)])


def _debited(outcome: Outcome) -> DebitResult:
    if isinstance(outcome, ServiceError):
        return DebitResult(error=_error(outcome))
    return DebitResult(transaction=cast(Transaction, outcome))


def _parse(command: BatchCommand) -> Command[Any] | BadRequest:
    request_class = METHODS.get(command.method)
    if request_class is None:
        return BadRequest(f"method: a batch cannot hold {command.method!r}.", "method")
    try:
        parsed = request_class.model_validate(command.arguments)
    except ValidationError as error:
        return bad_request(error)
    if getattr(parsed, "dry_run", False):
        return BadRequest("dry_run: it belongs to the batch as a whole.", "dry_run")
    try:
        keys.require_callers_own(parsed.idempotency_key)
    except BadRequest as refusal:
        return refusal
    return parsed


def _result(outcome: Outcome | None) -> BatchResult:
    """``None`` stands for a command that was right, in a batch that was not carried out."""
    if outcome is None:
        return BatchResult()
    if isinstance(outcome, ServiceError):
        return BatchResult(error=_error(outcome))
    return BatchResult(reply=outcome.model_dump(mode="json"))


def _error(refusal: ServiceError) -> BatchError:
    return BatchError(code=refusal.code, message=str(refusal), details=list(refusal.details))
