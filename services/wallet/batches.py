"""Batches of commands that come in one call."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from pydantic import ValidationError

from chassis.rpc import bad_request
from contracts.errors import BadRequest, Overloaded, ServiceError, Unavailable
from contracts.messages import Command
from contracts.wallet import (
    COMMANDS_MAX,
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

METHODS: dict[str, type[Command[Any]]] = {
    command.method: command
    for command in (
        OpenAccount, Debit, Credit, Transfer, PlaceHold, Capture, VoidHold, Refund, Reverse,
        Adjust, Freeze, Unfreeze, SetLevel, CloseKey,
    )
}  # fmt: skip


def post(
    submit_all: SubmitAll, request: PostBatch, share: Callable[[], int] = lambda: COMMANDS_MAX
) -> BatchOutcome:
    """Carry out a batch; a result for each command. Raises ``Overloaded``.

    A command that cannot even be read counts as refused. ``Unavailable``: it is not known
    whether an atomic batch was carried out. One that gives way is read, carried out and put into
    words in parts, when those before are done: ``share`` says how many commands may be the next.
    """
    if not request.gives_way or request.atomic:
        results = _carried_out(submit_all, request, request.commands)
        is_refused = any(result.error is not None for result in results)
        applied = not request.dry_run and not (request.atomic and is_refused)
        return BatchOutcome(results=results, applied=applied)
    results = []
    while some := request.commands[len(results) :][: share()]:
        try:
            results += _carried_out(submit_all, request, some)
        except Overloaded as refusal:
            # Those before are done, and their caller is to hear it.
            results += [_result(refusal)] * len(some)
    return BatchOutcome(results=results, applied=not request.dry_run)


def _carried_out(
    submit_all: SubmitAll, request: PostBatch, some: Sequence[BatchCommand]
) -> list[BatchResult]:
    commands = [_parse(command) for command in some]
    readable = [command for command in commands if not isinstance(command, ServiceError)]
    done: Iterator[Outcome | None]
    if not readable or (request.atomic and len(readable) < len(commands)):
        done = iter([None] * len(readable))
    else:
        how = {"is_atomic": request.atomic, "is_dry_run": request.dry_run}
        done = iter(submit_all(readable, gives_way=request.gives_way, **how))
    outcomes = [
        command if isinstance(command, ServiceError) else next(done) for command in commands
    ]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
    if not (request.atomic and refusals):
        return [_result(outcome) for outcome in outcomes]
    if isinstance(refusals[0], Unavailable):
        raise refusals[0]
    return [_result(each if isinstance(each, ServiceError) else None) for each in outcomes]


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
