"""Checking a migration against its plan: wallets, deployments, archive, people, totals.

Each payment is asked for once more under its key, as a rehearsal: the wallet answers with the
transaction that it made then, or that it would make one now, which is a difference. What it came
to is derived anew from the archived document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select

from chassis.money import format_usd
from contracts.billing import Deployment, ListDeployments
from contracts.errors import ServiceError
from contracts.wallet import BatchCommand, BatchResult
from services.legacy.models import LineRow, MoveRow, PlanRow
from services.legacy.moving import moves
from services.legacy.moving.moves import MoveStatus
from services.legacy.moving.work import Crew, Progress
from services.legacy.planning import plans
from services.legacy.planning.judging import judge
from services.legacy.pools import opening
from services.legacy.reading import documents
from services.legacy.reading.amounts import plain


@dataclass
class Findings:
    """How many are where, how many differences there are, and what was planned for those who were
    begun and paid to those who were moved, whether or not they were moved back since."""

    moved: int = 0
    reverted: int = 0
    planned_micros: int = 0
    paid_micros: int = 0
    differences: int = 0


def verify(crew: Crew, plan: PlanRow, findings: Findings, progress: Progress) -> Iterator[str]:
    """Every difference, one after the other; the sums stand in ``findings`` at the end."""
    after = UUID(int=0)
    while page := _page(crew, plan.plan_id, after):
        after = page[-1][0].user_id
        for difference in _page_differences(crew, plan.rate, page, findings):
            findings.differences += 1
            yield difference
        progress.count(len(page))
    with crew.database.read() as session:
        totals = plans.totals(session, plan.plan_id)
    for difference in _totals_differences(totals, findings):
        findings.differences += 1
        yield difference


_Page = Sequence[tuple[MoveRow, LineRow]]


def _page(crew: Crew, plan_id: UUID, after: UUID) -> _Page:
    query = (
        select(MoveRow, LineRow)
        .join(LineRow, LineRow.line_id == MoveRow.line_id)
        .where(MoveRow.plan_id == plan_id, MoveRow.user_id > after)
        .order_by(MoveRow.user_id)
        .limit(crew.batch)
    )
    with crew.database.read() as session:
        return [(move, line) for move, line in session.execute(query)]


def _page_differences(crew: Crew, rate: Decimal, page: _Page, findings: Findings) -> Iterator[str]:
    results = crew.post(
        [BatchCommand.of(moves.payment(move, rate)) for move, _ in page], dry_run=True
    )
    with crew.database.read() as session:
        opened = opening.opened(session, [move.user_id for move, _ in page])
    for (move, line), result in zip(page, results, strict=True):
        about = [*_of_state(move, findings), *_of_archive(move, line, rate)]
        about += _of_pools(move, opened.get(move.user_id, {}))
        if move.status != MoveStatus.PENDING:
            about += [*_of_wallet(move, result, findings), *_of_deployments(crew, move)]
        yield from (f"{move.email}: {each}" for each in about)


def _of_state(move: MoveRow, findings: Findings) -> Iterator[str]:
    findings.planned_micros += move.amount_micros
    if move.status == MoveStatus.REVERTED:
        findings.reverted += 1
        return
    findings.moved += move.status != MoveStatus.PENDING
    if move.status != MoveStatus.MOVED:
        yield f"{move.status}{f' ({move.reason})' if move.reason else ''}: run again"
    elif move.refusal:
        yield f"the site did not take the person: {move.refusal}"
    elif move.answered_at is None:
        yield "the site has not answered yet: are the relay and the notifier running?"


def _of_archive(move: MoveRow, line: LineRow, rate: Decimal) -> Iterator[str]:
    is_forgotten = not line.document
    if line.decision or is_forgotten:
        return
    judged = judge(documents.read(line.document.encode()), rate)
    if (judged.balance, judged.dollars.micros) != (move.balance, move.amount_micros):
        yield (
            f"the archived document says {plain(judged.balance)} TFP, which are"
            f" {format_usd(judged.dollars.micros)}, and {format_usd(move.amount_micros)} were moved"
        )
    if judged.holdings != move.holdings:
        yield "the archived document has something else for the pools than was moved"


def _of_pools(move: MoveRow, opened: dict[tuple[str, bool], int]) -> Iterator[str]:
    is_there = move.status in (MoveStatus.MOVED, MoveStatus.REVERTING)
    wanted = opening.as_opened(move.holdings) if is_there else {}
    for coin, is_staked in sorted(wanted.keys() | opened.keys()):
        units, found = wanted.get((coin, is_staked), 0), opened.get((coin, is_staked), 0)
        if units != found:
            yield (
                f"{found} millionths of {coin}{' staked' if is_staked else ''} were opened in the"
                f" pools, and {units} were planned"
            )


def _of_wallet(move: MoveRow, result: BatchResult, findings: Findings) -> Iterator[str]:
    if result.error is not None:
        yield f"the wallet has something else under this key: {result.error.message}"
        return
    reply = result.reply or {}
    if not move.amount_micros:
        return
    if not reply.get("replayed"):
        yield "the wallet was not paid into"
        return
    findings.paid_micros += reply["amount_micros"]
    if reply["amount_micros"] != move.amount_micros:
        yield (
            f"{format_usd(reply['amount_micros'])} were paid into the wallet, and"
            f" {format_usd(move.amount_micros)} were planned"
        )
    if reply["transaction_id"] != str(move.transaction_id):
        yield "another transaction was noted than the wallet has"


def _of_deployments(crew: Crew, move: MoveRow) -> Iterator[str]:
    wanted = moves.services_of(move)
    if not wanted:
        return
    try:
        found = _deployments(crew, move.user_id)
    except ServiceError as error:
        yield f"billing does not tell what it has: {error}"
        return
    for service in wanted:
        deployment = found.get(service.deployment_id)
        if deployment is None:
            yield f"{service.name} is no deployment"
        elif deployment.charges or deployment.ended_at is not None:
            continue
        elif deployment.monthly_cost_micros != service.monthly_cost_micros:
            yield (
                f"{service.name} costs {format_usd(deployment.monthly_cost_micros)} a month, and"
                f" {format_usd(service.monthly_cost_micros)} were planned"
            )


def _deployments(crew: Crew, user_id: UUID) -> dict[UUID, Deployment]:
    found: dict[UUID, Deployment] = {}
    cursor = None
    while True:
        page = crew.rpc.call(ListDeployments(user_id=user_id, cursor=cursor))
        found |= {each.deployment_id: each for each in page.deployments}
        cursor = page.next_cursor
        if cursor is None:
            return found


def _totals_differences(totals: plans.Totals, findings: Findings) -> Iterator[str]:
    if findings.planned_micros != totals.new_micros:
        yield (
            f"the plan comes to {format_usd(totals.new_micros)}, and"
            f" {format_usd(findings.planned_micros)} of it were begun: run again, or somebody was"
            " moved by another plan"
        )
    elif findings.paid_micros != findings.planned_micros:
        yield (
            f"{format_usd(findings.planned_micros)} were planned, and"
            f" {format_usd(findings.paid_micros)} were paid"
        )
