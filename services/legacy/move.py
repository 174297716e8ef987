"""The operator's command for the migration out of the old system.

    python -m services.legacy.move plan DIRECTORY --rate 0.1 [--registered FILE]
    python -m services.legacy.move show PLAN
    python -m services.legacy.move take PLAN PLACE --by NAME --reason TEXT [--points 100]
    python -m services.legacy.move run PLAN [--dry-run] [--workers 2]
    python -m services.legacy.move verify PLAN
    python -m services.legacy.move revert PLAN --by NAME --reason TEXT [--email …] [--dry-run]

It exits with 0 when all is well, with 1 when something is in the way, differs, or is left for
another run, and with 2 when a service or the database does not answer. docs/migration.md says when
to call what.
"""

import argparse
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected, connect
from chassis.money import format_usd
from contracts.errors import ServiceError
from contracts.messages import ShortText
from contracts.wallet import COMMANDS_MAX
from services.legacy.models import LineRow, PlanRow
from services.legacy.moving import reverting, running, verifying
from services.legacy.moving.moves import MoveStatus
from services.legacy.moving.work import Crew, Progress
from services.legacy.planning import plans
from services.legacy.planning.judging import MEANINGS, Conflict, email_key
from services.legacy.pools import book
from services.legacy.reading.amounts import Unreadable, parse, plain
from services.legacy.settings import LegacySettings, get_settings

SHOWN_MAX = 50
PROGRESS_EVERY_S = 1.0


def main(arguments: list[str] | None = None) -> int:
    """See the head of this file."""
    given = _parser().parse_args(arguments)
    settings = get_settings()
    database = connect(settings.database_url, pool_size=given.workers + 2)
    rpc = RpcClient(settings.amqp_uri, "legacy", settings.broker_heartbeat_s)
    lease = timedelta(seconds=settings.move_lease_s)
    crew = Crew(database, rpc, utc_now, given.workers, given.batch, lease)
    try:
        is_well: bool = given.do(crew, settings, given)
    except (ServiceError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    except SQLAlchemyError as error:
        print(f"The database does not answer: {error}", file=sys.stderr)
        return 2
    finally:
        rpc.close()
    return 0 if is_well else 1


def _plan(crew: Crew, _settings: LegacySettings, given: argparse.Namespace) -> bool:
    progress = Progress()
    registered = _lines_of(given.registered) if given.registered else ()
    with _told(lambda: f"{progress.done:,} documents read"):
        plan_id = plans.make(
            crew.database, given.directory, given.rate, crew.clock, registered, progress.count
        )
    print(f"plan {plan_id}")
    is_clear = _shown(crew.database, plan_id)
    if not progress.done:
        print("There is no document in it: are these the old files?")
        return False
    print(f"Next: `show`, `take`, or `run {plan_id} --dry-run`.")
    return is_clear


def _show(crew: Crew, _settings: LegacySettings, given: argparse.Namespace) -> bool:
    return _shown(crew.database, given.plan)


def _list(crew: Crew, _settings: LegacySettings, _given: argparse.Namespace) -> bool:
    with crew.database.read() as session:
        begun = plans.begun(session)
        for row in session.scalars(select(PlanRow).order_by(PlanRow.plan_id)):
            state = begun.get(row.plan_id, "") if row.finished_at else "not finished"
            print(f"{row.plan_id}  {row.planned_at:%Y-%m-%d %H:%M} UTC  {row.source}  {state}")
    return True


def _take(crew: Crew, _settings: LegacySettings, given: argparse.Namespace) -> bool:
    with crew.database.begin() as session:
        line = plans.take(session, given.plan, given.place, given.points, given.by, given.reason)
        print(f"{given.place}: {line.email} is moved with {format_usd(line.amount_micros or 0)}.")
    return True


def _run(crew: Crew, _settings: LegacySettings, given: argparse.Namespace) -> bool:
    rate = _plan_of(crew.database, given.plan).rate
    progress = Progress()
    if given.dry_run:
        with crew.database.read() as session:
            total = plans.totals(session, given.plan).ready
        with _told(lambda: progress.line(total)):
            count = _print_all(running.rehearse(crew, given.plan, rate, progress))
        count += _print_all(running.begun_elsewhere(crew, given.plan))
        print(f"{progress.done:,} would be moved, {count:,} would not. Nothing was written.")
        return count == 0
    total = running.begin(crew, given.plan)
    with _told(lambda: progress.line(total)):
        running.run(crew, given.plan, rate, progress)
    left = running.waiting(crew, given.plan, MoveStatus.PENDING)
    if elsewhere := _print_all(running.begun_elsewhere(crew, given.plan)):
        print(f"{elsewhere:,} wait for another plan.")
    print(f"{progress.done:,} moved, {left:,} left: `verify` says why." if left else "All moved.")
    return left == elsewhere == 0


def _verify(crew: Crew, _settings: LegacySettings, given: argparse.Namespace) -> bool:
    plan = _plan_of(crew.database, given.plan)
    findings, progress = verifying.Findings(), Progress()
    with crew.database.read() as session:
        total = plans.totals(session, given.plan).ready
    with _told(lambda: progress.line(total)):
        _print_all(verifying.verify(crew, plan, findings, progress))
    print(
        f"{findings.moved:,} moved, {findings.reverted:,} moved back; planned"
        f" {format_usd(findings.planned_micros)}, paid {format_usd(findings.paid_micros)};"
        f" {findings.differences:,} differences."
    )
    return findings.differences == 0


def _revert(crew: Crew, settings: LegacySettings, given: argparse.Namespace) -> bool:
    _plan_of(crew.database, given.plan)
    key = email_key(given.email) if given.email else None
    wish = reverting.Wish(given.reason, given.by, settings.revertible, key, given.refused)
    if key is not None and not reverting.is_known(crew, given.plan, key):
        print(f"{given.email}: nobody with this address was moved by this plan.", file=sys.stderr)
        return False
    if given.dry_run:
        count = _print_all(reverting.rehearse(crew, given.plan, wish))
        print(f"{count:,} could not be moved back. Nothing was written.")
        return count == 0
    reverting.begin(crew, given.plan, wish)
    total = running.waiting(crew, given.plan, MoveStatus.REVERTING)
    progress = Progress()
    with _told(lambda: progress.line(total)):
        reverting.revert(crew, given.plan, wish, progress)
    _print_all(reverting.kept(crew, given.plan))
    left = running.waiting(crew, given.plan, MoveStatus.REVERTING)
    print(
        f"{progress.done:,} moved back, {progress.refused:,} stay, {left:,} left for another run."
    )
    return progress.refused == left == 0


def _plan_of(database: Connected, plan_id: UUID) -> PlanRow:
    with database.read() as session:
        return plans.finished(session, plan_id)


def _shown(database: Connected, plan_id: UUID) -> bool:
    """Print what a plan comes to. False where something is in the way."""
    with database.snapshot() as session:
        plan = plans.finished(session, plan_id)
        found = plans.totals(session, plan_id)
        counts = plans.conflict_counts(session, plan_id)
        holdings = plans.holdings(session, plan_id)
        _print_all(_problem(line) for line in plans.problems(session, plan_id))
        _print_all(
            f"rounded: {line.place}: {plain(line.balance or Decimal())} TFP became"
            f" {format_usd(line.amount_micros or 0)}"
            for line in plans.rounded(session, plan_id)
        )
    for name, count in counts.items():
        print(f"{count:>9,} {name}: {MEANINGS[Conflict(name)]}")
    print(
        f"{found.documents:>9,} documents: {found.ready:,} ready, {found.in_conflict:,} in"
        f" conflict, {found.refused:,} refused; {found.services:,} running services\n"
        f"old total  {plain(found.old_points)} TFP, of which {plain(found.old_points_ready)} are"
        f" ready\nnew total  {format_usd(found.new_micros)} at {plain(plan.rate)} USD for a TFP,"
        f" rounded by {plain(found.rounded_away)} micro-dollars in all"
    )
    for each in holdings:
        what = f"{book.written(int(each.units))} {each.coin}{' staked' if each.is_staked else ''}"
        print(f"pools      {what}, of {each.people:,} people")
    return not (found.refused or found.in_conflict)


def _problem(line: LineRow) -> str:
    if line.refusal:
        return f"refused: {line.place}: {line.refusal}"
    balance = plain(line.balance or Decimal())
    return f"{', '.join(line.conflicts)}: {line.place}: {line.email}, {balance} TFP"


def _print_all(lines: Iterable[str]) -> int:
    """Print the first ones; how many there are in all."""
    count = 0
    for count, line in enumerate(lines, start=1):
        if count <= SHOWN_MAX:
            print(line)
    if count > SHOWN_MAX:
        print(f"… and {count - SHOWN_MAX:,} more of this kind")
    return count


def _lines_of(file: Path) -> Iterator[str]:
    with file.open() as lines:
        yield from (line.strip() for line in lines if line.strip())


@contextmanager
def _told(line: Callable[[], str]) -> Iterator[None]:
    """Say on the terminal how far it is, every second, and once at the end."""
    over = threading.Event()
    start, end = ("\r", "\033[K") if sys.stderr.isatty() else ("", "\n")

    def tell() -> None:
        print(f"{start}{line()}", end=end, file=sys.stderr, flush=True)

    def watch() -> None:
        while not over.wait(PROGRESS_EVERY_S):
            tell()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        tell()
        if sys.stderr.isatty():
            print(file=sys.stderr)


def _short(text: str) -> str:
    """What the wallet will take beside a reversal."""
    try:
        return TypeAdapter(ShortText).validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError("write 1 to 200 characters") from None


def _rate(text: str) -> Decimal:
    try:
        rate = parse(text)
    except Unreadable as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if rate <= 0:
        raise argparse.ArgumentTypeError("a point is worth something")
    return rate


def _file(text: str) -> Path:
    """One that is there, before everything is read in vain."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("a whole number from 1 on")
    return int(text)


def _batch(text: str) -> int:
    if (count := _positive(text)) > COMMANDS_MAX:
        raise argparse.ArgumentTypeError(f"the wallet takes {COMMANDS_MAX:,} at most")
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="move", description="Out of the old system.")
    parser.set_defaults(workers=2, batch=250)
    actions = parser.add_subparsers(required=True)

    def action(name: str, do: Callable[..., bool], what: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=what)
        added.set_defaults(do=do)
        if name not in ("plan", "plans"):
            added.add_argument("plan", type=UUID)
        return added

    def decided(added: argparse.ArgumentParser) -> None:
        added.add_argument("--by", type=_short, required=True, help="who decided it")
        added.add_argument("--reason", type=_short, required=True, help="why")

    plan = action("plan", _plan, "read everything, and write a plan")
    plan.add_argument("directory", type=Path, help="or a file of JSON lines")
    plan.add_argument("--rate", type=_rate, required=True, help="dollars for a point: 0.1")
    plan.add_argument("--registered", type=_file, help="the addresses that the new site has")
    action("plans", _list, "list the plans")
    action("show", _show, "what a plan comes to")
    take = action("take", _take, "have somebody moved in spite of a conflict")
    take.add_argument("place", help="the document, as the plan names it")
    take.add_argument("--points", help="the balance that is right")
    decided(take)
    run = action("run", _run, "move everybody who is ready; again, it goes on")
    verify = action("verify", _verify, "check wallets, deployments and archive against the plan")
    revert = action("revert", _revert, "move people back who have spent nothing")
    revert.add_argument("--email", help="this person only")
    revert.add_argument("--refused", action="store_true", help="only whom the site did not take")
    decided(revert)
    for each in (run, revert):
        each.add_argument("--dry-run", action="store_true", help="write nothing")
    for each in (run, verify, revert):
        each.add_argument("--workers", type=_positive, default=2)
        each.add_argument("--batch", type=_batch, default=250, help="people in one call")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
