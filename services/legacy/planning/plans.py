"""Plans: everything that was there, read once, with what it comes to and what is in the way.

A plan writes its own tables and nothing else. One document is in memory at a time, and a few
hundred lines on their way to the database.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, insert, select, text, update
from sqlalchemy.orm import Session, defer

from chassis.clock import Clock
from chassis.database import Connected
from chassis.identifiers import new_id
from chassis.locks import for_update
from contracts.errors import Conflict as Refusal
from contracts.errors import NotFound
from contracts.messages import MAX_AMOUNT_MICROS
from services.legacy.forgetting import forget_again
from services.legacy.models import LineRow, PlanRow
from services.legacy.planning.judging import Conflict, email_key, judge, shown
from services.legacy.reading import documents
from services.legacy.reading.amounts import Unreadable, in_dollars, parse
from services.legacy.reading.documents import Refused
from services.legacy.reading.sources import Source, sources

LINES_AT_ONCE = 200
ADDRESSES_AT_ONCE = 5_000


def make(
    database: Connected,
    path: Path,
    rate: Decimal,
    clock: Clock,
    registered: Iterable[str] = (),
    noted: Callable[[int], None] = lambda _count: None,
) -> UUID:
    """Read everything below ``path`` at ``rate`` dollars for a point; the plan's id.

    ``registered`` are the addresses that the new site has. ``noted`` hears how many were read.
    """
    plan_id = new_id()
    with database.begin() as session:
        session.add(PlanRow(plan_id=plan_id, source=str(path), rate=rate, planned_at=clock()))
    lines = (_line(plan_id, source, rate) for source in sources(path))
    while some := list(islice(lines, LINES_AT_ONCE)):
        with database.begin() as session:
            session.execute(insert(LineRow), some)
        noted(len(some))
    with database.begin() as session:
        session.execute(_DUPLICATES, {"plan_id": plan_id, "conflict": Conflict.DUPLICATE_ADDRESS})
    with database.begin() as session:
        forget_again(session, plan_id)
    for keys in _several(map(email_key, registered), ADDRESSES_AT_ONCE):
        with database.begin() as session:
            given = {"plan_id": plan_id, "keys": keys, "conflict": Conflict.ADDRESS_REGISTERED}
            session.execute(_REGISTERED, given)
    with database.begin() as session:
        session.execute(
            update(PlanRow).where(PlanRow.plan_id == plan_id).values(finished_at=clock())
        )
    return plan_id


_DUPLICATES = text(
    "UPDATE lines SET conflicts = array_append(conflicts, :conflict) WHERE plan_id = :plan_id"
    " AND email_key IN (SELECT email_key FROM lines WHERE plan_id = :plan_id"
    " AND email_key IS NOT NULL GROUP BY email_key HAVING count(*) > 1)"
)
# Who was moved by an earlier plan is registered for that.
_REGISTERED = text(
    "UPDATE lines SET conflicts = array_append(conflicts, :conflict) WHERE plan_id = :plan_id"
    " AND email_key = ANY(:keys) AND email_key NOT IN (SELECT email_key FROM moves)"
)


def _several(values: Iterator[str], at_once: int) -> Iterator[list[str]]:
    while some := list(islice(values, at_once)):
        yield some


def _line(plan_id: UUID, source: Source, rate: Decimal) -> dict[str, Any]:
    line = {
        "line_id": new_id(),
        "plan_id": plan_id,
        "place": shown(source.place),
        "refusal": source.problem,
        "email": "",
        "email_key": None,
        "balance": None,
        "amount_micros": None,
        "rounded_away": None,
        "services": [],
        "holdings": [],
        "conflicts": [],
        "decision": "",
        "document": "",
    }
    if not source.problem:
        try:
            judged = judge(documents.read(source.content), rate)
        except Refused as refusal:
            return {**line, "refusal": shown(str(refusal))}
        is_held = abs(judged.dollars.micros) <= MAX_AMOUNT_MICROS
        line |= {
            "email": judged.email,
            "email_key": judged.email_key,
            "balance": judged.balance,
            "amount_micros": judged.dollars.micros if is_held else None,
            "rounded_away": judged.dollars.rounded_away,
            "services": judged.services,
            "holdings": judged.holdings,
            "conflicts": judged.conflicts,
            "document": documents.text_of(source.content),
        }
    return line


@dataclass(frozen=True)
class Totals:
    """What a plan comes to. Points are exact, ``new_micros`` is what goes into wallets,
    ``rounded_away`` what that differs from the exact value, in micro-dollars."""

    documents: int
    refused: int
    in_conflict: int
    ready: int
    old_points: Decimal
    old_points_ready: Decimal
    new_micros: int
    rounded_away: Decimal
    services: int


_TOTALS = text(
    "SELECT count(*), count(*) FILTER (WHERE refusal <> ''),"
    " count(*) FILTER (WHERE conflicts <> '{}'),"
    " count(*) FILTER (WHERE is_ready), coalesce(sum(balance), 0),"
    " coalesce(sum(balance) FILTER (WHERE is_ready), 0),"
    " coalesce(sum(amount_micros) FILTER (WHERE is_ready), 0)::bigint,"
    " coalesce(sum(rounded_away) FILTER (WHERE is_ready), 0),"
    " coalesce(sum((SELECT count(*) FROM jsonb_array_elements(services) AS each"
    " WHERE each ->> 'problem' = '')) FILTER (WHERE is_ready), 0)::bigint"
    " FROM (SELECT *, refusal = '' AND conflicts = '{}' AS is_ready FROM lines"
    " WHERE plan_id = :plan_id) AS line"
)


def totals(session: Session, plan_id: UUID) -> Totals:
    """What the plan comes to, by its lines as they are decided now."""
    return Totals(*session.execute(_TOTALS, {"plan_id": plan_id}).one())


def holdings(session: Session, plan_id: UUID) -> list[Row[tuple[str, bool, int, int]]]:
    """What is opened in the pools for who is ready: ``coin``, ``is_staked``, ``units`` in all, and
    for how many ``people``."""
    return list(session.execute(_HOLDINGS, {"plan_id": plan_id}).all())


_HOLDINGS = text(
    "SELECT each ->> 'coin' AS coin, (each ->> 'is_staked')::boolean AS is_staked,"
    " sum((each ->> 'units')::bigint)::numeric AS units, count(*) AS people"
    " FROM lines, jsonb_array_elements(holdings) AS each"
    " WHERE plan_id = :plan_id AND refusal = '' AND conflicts = '{}' GROUP BY 1, 2 ORDER BY 1, 2"
)


def begun(session: Session) -> dict[UUID, str]:
    """What became of whom each plan has begun to move: ``280 moved, 3 pending``."""
    rows = session.execute(
        text("SELECT plan_id, status, count(*) FROM moves GROUP BY plan_id, status ORDER BY status")
    )
    told: dict[UUID, str] = {}
    for plan_id, status, count in rows:
        told[plan_id] = f"{told[plan_id]}, " if plan_id in told else ""
        told[plan_id] += f"{count:,} {status}"
    return told


def finished(session: Session, plan_id: UUID) -> PlanRow:
    """A plan that has read everything. Raises ``NotFound``, ``Conflict``."""
    row = session.get(PlanRow, plan_id)
    if row is None:
        raise NotFound("There is no such plan: `move plans` lists them.")
    if row.finished_at is None:
        raise Refusal("This plan was not finished: make another one.")
    return row


def conflict_counts(session: Session, plan_id: UUID) -> dict[str, int]:
    """How many lines are in each conflict."""
    rows = session.execute(_CONFLICT_COUNTS, {"plan_id": plan_id})
    return {conflict: count for conflict, count in rows}  # noqa: C416 - rows are no pairs to mypy


_CONFLICT_COUNTS = text(
    "SELECT conflict, count(*) FROM lines, unnest(conflicts) AS conflict"
    " WHERE plan_id = :plan_id GROUP BY conflict ORDER BY conflict"
)


def problems(session: Session, plan_id: UUID) -> Iterator[LineRow]:
    """The lines that were refused, or wait for a decision. For a snapshot, as the next one."""
    yield from _lines(session, plan_id, (LineRow.refusal != "") | (LineRow.conflicts != []))


def rounded(session: Session, plan_id: UUID) -> Iterator[LineRow]:
    """The lines whose amount is not a whole number of micro-dollars."""
    yield from _lines(session, plan_id, LineRow.rounded_away != 0)


def _lines(session: Session, plan_id: UUID, which: ColumnElement[bool]) -> Iterator[LineRow]:
    query = select(LineRow).where(LineRow.plan_id == plan_id, which).order_by(LineRow.line_id)
    light = query.options(defer(LineRow.document)).execution_options(yield_per=500)
    yield from session.scalars(light)


def take(
    session: Session, plan_id: UUID, place: str, points: str | None, by: str, reason: str
) -> LineRow:
    """Decide that somebody is moved in spite of what is in the way, with another balance if
    ``points`` are given; services that have a problem stay behind.

    Raises ``NotFound``, and ``Conflict`` for what no decision helps, or a second one of a person.
    """
    plan = finished(session, plan_id)
    line = session.scalar(
        for_update(select(LineRow).where(LineRow.plan_id == plan_id, LineRow.place == place))
    )
    if line is None or line.balance is None:
        raise NotFound(f"{place}: there is no such document in this plan that could be read.")
    if points is not None:
        try:
            line.balance = parse(points)
        except Unreadable as error:
            raise Refusal(f"--points: {error}") from None
    dollars = in_dollars(line.balance, plan.rate)
    if not 0 <= dollars.micros <= MAX_AMOUNT_MICROS:
        raise Refusal(f"{place}: no wallet can hold {line.balance} points. Give --points.")
    if Conflict.ADDRESS_UNUSABLE in line.conflicts:
        raise Refusal(f"{place}: nobody can be invited at {line.email!r}. Correct the file.")
    if Conflict.ACCOUNT_DELETED in line.conflicts:
        raise Refusal("This person was moved, and has deleted the account since.")
    if Conflict.ADDRESS_REGISTERED in line.conflicts:
        raise Refusal(f"{place}: {line.email} has an account. Write to the person.")
    others = select(LineRow.place).where(
        LineRow.plan_id == plan_id,
        LineRow.email_key == line.email_key,
        LineRow.line_id != line.line_id,
        LineRow.conflicts == [],
    )
    if (other := session.scalar(others)) is not None:
        raise Refusal(f"{place}: this person is moved with {other}.")
    line.decision = f"{', '.join(line.conflicts)}: taken by {by}: {reason}"
    line.amount_micros, line.rounded_away = dollars.micros, dollars.rounded_away
    line.conflicts = []
    return line
