"""Moving people for real: into a real wallet, with kills at each step, twice, and back again."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected, connect
from contracts.errors import Conflict
from contracts.wallet import (
    BatchCommand,
    BatchOutcome,
    Credit,
    Debit,
    GetWallets,
    OpenAccount,
    PostBatch,
    Statement,
    TransactionKind,
    Verify,
)
from deploy.local.processes import ROOT
from services.legacy import move as move_command
from services.legacy.models import MoveRow
from services.legacy.moving import running, verifying, work
from services.legacy.moving.moves import MoveStatus, Undone
from services.legacy.moving.work import Crew, Progress
from services.legacy.planning import plans
from services.legacy.pools import adjusting
from services.legacy.pools import verifying as pool_verifying
from services.legacy.settings import LegacySettings
from tests.conftest import StackFactory
from tests.legacy.conftest import TABLES, directory, user
from tests.legacy.pools import COIN, Trader
from tests.legacy.test_holdings import HELD
from tests.locks import held
from tests.patience import PATIENCE_S, START_PATIENCE_S
from tests.system import System


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    """The wallet; the old system's service is its command here."""
    return service_stack("wallet", settings={"MAX_WORKERS": "20"})


@pytest.fixture(scope="module")
def legacy_url(stack: System) -> str:
    return stack.database_url("legacy")


@pytest.fixture
def database(legacy_url: str) -> Iterator[Connected]:
    connected = connect(legacy_url, pool_size=3)
    with connected.begin() as session:
        session.execute(text(f"TRUNCATE {TABLES}"))
    yield connected
    connected.engine.dispose()


@pytest.fixture
def rpc(stack: System) -> RpcClient:
    return stack.rpc


@dataclass
class Command:
    """The operator's command, with the login of the service: in this process, or in one of its own
    that is killed at a point."""

    settings: LegacySettings
    capsys: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def __call__(self, *arguments: str) -> tuple[int, str]:
        self.patch.setattr(move_command, "get_settings", lambda: self.settings)
        status = move_command.main(list(arguments))
        return status, self.capsys.readouterr().out

    def killed_at(self, point: str, *arguments: str) -> int:
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.settings.database_url,
            "AMQP_URI": self.settings.amqp_uri,
            "MYCELIUM_CRASH_AT": point,
        }
        command = [sys.executable, "-W", "ignore", "-m", "services.legacy.move", *arguments]
        return subprocess.run(
            command, env=environment, cwd=ROOT, check=False, timeout=START_PATIENCE_S
        ).returncode


@pytest.fixture
def move(
    stack: System,
    legacy_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    settings = LegacySettings(
        amqp_uri=stack.vhost.uri("legacy"), database_url=legacy_url, move_lease_s=1
    )
    return Command(settings, capsys, monkeypatch)


def people(tmp_path: Path, *balances: str) -> tuple[Path, list[str]]:
    """Documents of people whom no other test knows, with these balances."""
    emails = [f"{uuid4().hex}@example.org" for _ in balances]
    pairs = zip(emails, balances, strict=True)
    return directory(tmp_path, *(user(email, balance) for email, balance in pairs)), emails


def planned(database: Connected, path: Path) -> str:
    return str(plans.make(database, path, Decimal("0.1"), utc_now))


def moves(database: Connected) -> dict[str, MoveRow]:
    with database.read() as session:
        return {row.email: row for row in session.scalars(select(MoveRow))}


def balances(rpc: RpcClient, found: dict[str, MoveRow]) -> dict[str, int]:
    wallets = rpc.call(GetWallets(user_ids=[row.user_id for row in found.values()])).wallets
    held = {wallet.user_id: wallet.balance_micros for wallet in wallets}
    return {email: held[row.user_id] for email, row in found.items() if row.user_id in held}


def events(database: Connected, kind: str) -> int:
    with database.read() as session:
        count = text("SELECT count(*) FROM outbox WHERE type = :kind")
        return session.scalar(count, {"kind": kind}) or 0


def release(database: Connected) -> None:
    """What a killed process had in hand is due at once, and not after its lease."""
    with database.begin() as session:
        session.execute(text("UPDATE moves SET due_at = now() WHERE due_at IS NOT NULL"))


def rows(rpc: RpcClient, user_id: UUID) -> list[tuple[TransactionKind, int, str]]:
    page = rpc.call(Statement(user_id=user_id))
    return [(each.kind, each.amount_micros, each.description) for each in page.transactions]


def test_what_somebody_had_arrives_with_its_sentence(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    path, [ann, ben] = people(tmp_path, "150.50", "0")
    plan = planned(database, path)

    done = move("run", plan)

    found = moves(database)
    assert done == (0, "All moved.\n")
    assert balances(rpc, found) == {ann: 15_050_000, ben: 0}
    assert rows(rpc, found[ann].user_id) == [
        (
            TransactionKind.MIGRATION,
            15_050_000,
            "Moved from the old system: 150.5 TFP at 0.10 = $15.05",
        )
    ]
    assert events(database, "person_moved") == 2


def test_twice_is_once_also_by_another_plan(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    path, [ann, ben] = people(tmp_path, "10", "20")
    plan = planned(database, path)
    move("run", plan)

    again = move("run", plan)
    other = move("run", planned(database, path))

    assert again == other == (0, "All moved.\n")
    assert balances(rpc, moves(database)) == {ann: 1_000_000, ben: 2_000_000}
    assert events(database, "person_moved") == 2


def test_a_run_on_data_of_before_it_finds_what_it_paid(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    """As a backup has them that was made between the plan and its run."""
    path, [ann, ben] = people(tmp_path, "10", "0")
    plan = planned(database, path)
    move("run", plan)
    before = moves(database)
    with database.begin() as session:
        session.execute(text("TRUNCATE moves, outbox"))

    again = move("run", plan)

    assert again == (0, "All moved.\n")
    assert balances(rpc, before) == {ann: 1_000_000, ben: 0}
    assert {email: (row.user_id, row.transaction_id) for email, row in moves(database).items()} == {
        email: (row.user_id, row.transaction_id) for email, row in before.items()
    }


def test_a_rehearsal_writes_nothing(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    path, _ = people(tmp_path, "10", "20")
    plan = planned(database, path)

    rehearsed = move("run", plan, "--dry-run")

    assert rehearsed == (0, "2 would be moved, 0 would not. Nothing was written.\n")
    assert moves(database) == {}


KILLS = (
    pytest.param("legacy.taken", marks=pytest.mark.soak),
    "legacy.paid",
    pytest.param("legacy.recorded", marks=pytest.mark.soak),
)


@pytest.mark.parametrize("point", KILLS)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path, point: str
) -> None:
    path, emails = people(tmp_path, "10", "20", "30")
    plan = planned(database, path)

    killed = move.killed_at(point, "run", plan, "--batch", "2")
    release(database)
    ended, _ = move("run", plan)

    assert (killed, ended) == (-9, 0)
    assert balances(rpc, moves(database)) == dict(
        zip(emails, (1_000_000, 2_000_000, 3_000_000), strict=True)
    )
    assert events(database, "person_moved") == 3


@pytest.mark.parametrize("point", ["", "legacy.reversed"])
def test_what_is_moved_back_leaves_every_wallet_as_it_was(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path, point: str
) -> None:
    path, emails = people(tmp_path, "10", "0.00001", "0")
    plan = planned(database, path)
    move("run", plan)
    back = ("revert", plan, "--by", "ops", "--reason", "a rehearsal")
    if point:
        assert move.killed_at(point, *back) == -9
        release(database)

    done, _ = move(*back)

    assert done == 0
    found = moves(database)
    assert balances(rpc, found) == dict.fromkeys(emails, 0)
    assert events(database, "person_moved_back") == 3
    assert rpc.call(Verify()).first_difference is None


def test_who_was_moved_back_can_be_moved_again(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    path, [ann] = people(tmp_path, "10")
    plan = planned(database, path)
    move("run", plan)
    move("revert", plan, "--by", "ops", "--reason", "a mistake")

    again, _ = move("run", planned(database, path))
    back, _ = move("revert", str(moves(database)[ann].plan_id), "--by", "ops", "--reason", "again")

    assert (again, back) == (0, 0)
    assert [amount for _, amount, _ in rows(rpc, moves(database)[ann].user_id)] == [
        -1_000_000,
        1_000_000,
        -1_000_000,
        1_000_000,
    ]


def test_who_another_plan_has_begun_to_move_is_named_and_left_to_that(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    path, [ann, ben] = people(tmp_path, "10", "20")
    first = planned(database, path)
    assert move.killed_at("legacy.paid", "run", first, "--batch", "1", "--workers", "1") == -9
    other = planned(database, path)

    rehearsed, would = move("run", other, "--dry-run")
    ended, said = move("run", other)
    release(database)
    finished, _ = move("run", first)
    again, _ = move("run", other)

    for text_said in (would, said):
        assert f"pending in plan {first}: end that one first" in text_said
    assert (rehearsed, ended, finished, again) == (1, 1, 0, 0)
    assert balances(rpc, moves(database)) == {ann: 1_000_000, ben: 2_000_000}


def test_the_list_of_plans_says_what_became_of_whom_each_has_begun(
    database: Connected, move: Command, tmp_path: Path
) -> None:
    path, [ann, _] = people(tmp_path, "10", "20")
    plan = planned(database, path)
    untouched = planned(database, path)
    move("run", plan)
    move("revert", plan, "--by", "ops", "--reason", "a mistake", "--email", ann)

    _, said = move("plans")

    lines = {line.split()[0]: line for line in said.splitlines()}
    assert lines[plan].endswith("1 moved, 1 reverted")
    assert lines[untouched].rstrip().endswith(str(path))


def test_a_directory_without_documents_is_no_plan_to_run(move: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nobody")

    done, said = move("plan", str(tmp_path), "--rate", "0.1")

    assert (done, "There is no document in it" in said) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", ".", "--rate", "0.1", "--registered", "/nowhere/registered.txt"),
        ("run", str(uuid4()), "--batch", "1001"),
        ("run", str(uuid4()), "--batch", "0"),
        ("verify", str(uuid4()), "--workers", "-1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    database: Connected, move: Command, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit):
        move(*arguments)

    assert move("plans") == (0, "")


def test_nobody_is_moved_back_by_an_address_that_nobody_has(
    database: Connected, move: Command, tmp_path: Path
) -> None:
    path, [ann] = people(tmp_path, "10")
    plan = planned(database, path)
    move("run", plan)
    wish = ("--by", "ops", "--reason", "a mistake")

    unknown = [
        move("revert", plan, "--email", "nobody@example.org", *wish, *how)[0]
        for how in ((), ("--dry-run",))
    ]
    known = [move("revert", plan, "--email", ann.upper(), *wish)[0] for _ in range(2)]

    assert (unknown, known) == ([1, 1], [0, 0])


def test_who_has_spent_something_stays(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    path, [ann, ben] = people(tmp_path, "10", "20")
    plan = planned(database, path)
    move("run", plan)
    spender = moves(database)[ann].user_id
    rpc.call(
        Debit(idempotency_key=str(uuid4()), user_id=spender, amount_micros=1, description="spent")
    )
    wish = ("--by", "ops", "--reason", "a mistake")

    _, rehearsed = move("revert", plan, *wish, "--dry-run")
    done, said = move("revert", plan, *wish)

    assert rehearsed.startswith(f"{ann}: something was spent")
    assert said.startswith(f"{ann}: something was spent")
    assert done == 1
    assert balances(rpc, moves(database)) == {ann: 999_999, ben: 0}
    assert {email: row.status for email, row in moves(database).items()} == {
        ann: "moved",
        ben: "reverted",
    }


def test_who_was_reversed_when_the_run_was_killed_is_moved_back_whatever_came_then(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    path, [ann] = people(tmp_path, "10")
    plan = planned(database, path)
    move("run", plan)
    back = ("revert", plan, "--by", "ops", "--reason", "a mistake")
    assert move.killed_at("legacy.reversed", *back) == -9
    release(database)
    own = {"user_id": moves(database)[ann].user_id, "description": "their own money"}
    rpc.call(Credit(idempotency_key=str(uuid4()), amount_micros=5_000_000, **own))
    rpc.call(Debit(idempotency_key=str(uuid4()), amount_micros=1_000_000, **own))

    done, _ = move(*back)
    again, _ = move("run", plan)

    assert (done, again) == (0, 0)
    assert balances(rpc, moves(database)) == {ann: 5_000_000}


@pytest.mark.parametrize("reason", ["", " ", "x" * 201])
def test_a_reason_that_the_wallet_does_not_take_begins_nothing(
    database: Connected, move: Command, tmp_path: Path, reason: str
) -> None:
    path, [ann] = people(tmp_path, "10")
    plan = planned(database, path)
    move("run", plan)

    with pytest.raises(SystemExit):
        move("revert", plan, "--by", "ops", "--reason", reason)

    assert moves(database)[ann].status == "moved"


def test_after_the_stated_time_nobody_is_moved_back(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    path, [ann] = people(tmp_path, "10")
    plan = planned(database, path)
    move("run", plan)

    move.patch.setattr(move_command, "utc_now", lambda: utc_now() + timedelta(days=15))

    _, said = move("revert", plan, "--by", "ops", "--reason", "late")

    assert said.startswith(f"{ann}: it was moved too long ago")
    assert balances(rpc, moves(database)) == {ann: 1_000_000}


def answered(database: Connected) -> None:
    """As the site would."""
    with database.begin() as session:
        session.execute(text("UPDATE moves SET answered_at = now()"))


def test_what_was_moved_is_verified_to_the_micro_dollar(
    database: Connected, move: Command, tmp_path: Path
) -> None:
    path, _ = people(tmp_path, "10", "0.000015", "0")
    plan = planned(database, path)
    move("run", plan)
    answered(database)

    assert move("verify", plan) == (
        0,
        "3 moved, 0 moved back; planned $1.000002, paid $1.000002; 0 differences.\n",
    )


cents = st.integers(min_value=0, max_value=10**6).map(
    lambda units: f"{Decimal(units).scaleb(-5):f}"
)


@given(st.lists(cents, min_size=1, max_size=4), st.lists(st.sampled_from("rpb"), max_size=5))
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_in_whatever_order_everybody_has_all_of_it_or_nothing(
    database: Connected,
    move: Command,
    rpc: RpcClient,
    tmp_path_factory: pytest.TempPathFactory,
    had: list[str],
    steps: list[str],
) -> None:
    """Runs (r), other plans of the same files (p), and ways back (b)."""
    path, emails = people(tmp_path_factory.mktemp("people"), *had)
    plan = planned(database, path)
    is_moved = False
    for step in ["r", *steps]:
        if step == "p":
            plan = planned(database, path) if not is_moved else plan
        elif step == "r":
            assert move("run", plan)[0] == 0
            is_moved = True
        else:
            assert move("revert", plan, "--by", "ops", "--reason", "tried")[0] == 0
            is_moved = False

    micros = [round(Decimal(amount) * 100_000) if is_moved else 0 for amount in had]
    found = {email: row for email, row in moves(database).items() if email in emails}
    assert balances(rpc, found) == dict(zip(emails, micros, strict=True))


FORGERIES = {
    "the site did not answer": (
        "UPDATE moves SET answered_at = NULL",
        "the site has not answered yet",
    ),
    "the site refused": ("UPDATE moves SET refusal = 'address_taken'", "did not take the person"),
    "another amount": (
        "UPDATE moves SET amount_micros = amount_micros + 1",
        "the archived document says 10 TFP, which are $1.00, and $1.000001 were moved",
    ),
    "another transaction": (
        "UPDATE moves SET transaction_id = gen_random_uuid()",
        "another transaction was noted",
    ),
    "another attempt": ("UPDATE moves SET attempt = 2", "the wallet was not paid into"),
    "another document": (
        "UPDATE lines SET document = replace(document, '10', '11')",
        "the archived document says 11 TFP",
    ),
    "a line more": (
        (
            "INSERT INTO lines SELECT gen_random_uuid(), plan_id, 'x', '', 'x', 'x', 1, 7, 0, '[]',"
            " '{}', '', '' FROM plans"
        ),
        "the plan comes to $1.000007",
    ),
}


@pytest.fixture(scope="module")
def moved_plan(
    stack: System, legacy_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Connected]]:
    connected = connect(legacy_url, pool_size=3)
    with connected.begin() as session:
        session.execute(text(f"TRUNCATE {TABLES}"))
    path, _ = people(tmp_path_factory.mktemp("forged"), "10")
    plan = planned(connected, path)
    rate = Decimal("0.1")
    rpc = RpcClient(stack.vhost.uri("legacy"), "legacy")
    crew = Crew(connected, rpc, utc_now)
    running.begin(crew, UUID(plan))
    running.run(crew, UUID(plan), rate, Progress())
    rpc.close()
    answered(connected)
    yield plan, connected
    connected.engine.dispose()


@pytest.mark.parametrize("forgery", FORGERIES)
def test_every_difference_is_found(
    moved_plan: tuple[str, Connected], rpc: RpcClient, forgery: str
) -> None:
    plan, database = moved_plan
    statement, sentence = FORGERIES[forgery]

    found = verified_with(database, rpc, plan, statement)

    assert any(re.search(re.escape(sentence), difference) for difference in found), found


def verified_with(database: Connected, rpc: RpcClient, plan: str, statement: str) -> list[str]:
    """What verification finds once this was done to its tables, which is undone again."""
    with database.rehearse() as session:
        session.execute(text(statement))
        crew = Crew(_Inside(session), rpc, utc_now)  # type: ignore[arg-type]
        row = plans.finished(session, UUID(plan))
        return list(verifying.verify(crew, row, verifying.Findings(), Progress()))


class _Inside:
    """A database whose every session is the one that is given."""

    def __init__(self, session: object) -> None:
        self.session = session

    def read(self) -> "_Inside":
        return self

    def __enter__(self) -> object:
        return self.session

    def __exit__(self, *_: object) -> None:
        return None


# What they bring into the pools.


def brought(
    database: Connected,
    move: Command,
    tmp_path: Path,
) -> tuple[str, MoveRow, Trader]:
    email = f"{tmp_path.name}@example.org"
    plan = planned(database, directory(tmp_path, user(email, "10", *HELD)))
    assert move("run", plan) == (0, "All moved.\n")
    row = moves(database)[email]
    return plan, row, Trader(database, user_id=row.user_id)


def test_a_person_who_is_moved_has_it_in_the_pools_and_the_balance_in_dollars_only(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    plan, row, person = brought(database, move, tmp_path)
    move("run", plan)
    answered(database)

    assert person.holdings == {"TFP": 112_500_000, "CAD": 7 * COIN, "TFT": 1_000_250_000}
    assert person.pools.staked.units == 112_500_000
    # The 10 of the old wallet are $1.00, and nothing here.
    assert row.amount_micros == COIN
    assert [kind for kind, _ in person.history()] == ["opening"]
    assert move("verify", plan)[0] == 0
    # What came staked was so for long enough.
    person.unstakes(1)
    assert list(pool_verifying.verify(database, rpc)) == []


def test_the_plan_says_what_it_opens(
    database: Connected,
    move: Command,
    tmp_path: Path,
) -> None:
    path = directory(
        tmp_path, user("a@example.org", "1", *HELD), user("b@example.org", "1", HELD[0])
    )

    _, said = move("plan", str(path), "--rate", "0.1")

    assert "pools      225 TFP staked, of 2 people\n" in said
    assert "pools      1,000.25 TFT, of 1 people\n" in said


@pytest.mark.parametrize("point", ["legacy.paid", "legacy.recorded"])
def test_a_run_that_is_killed_opens_it_once(
    database: Connected,
    move: Command,
    tmp_path: Path,
    point: str,
) -> None:
    email = f"{tmp_path.name}@example.org"
    plan = planned(database, directory(tmp_path, user(email, "10", *HELD)))
    assert move.killed_at(point, "run", plan) == -9
    release(database)
    move("run", plan)

    person = Trader(database, user_id=moves(database)[email].user_id)
    assert person.holdings["TFP"] == person.pools.staked.units == 112_500_000


WAY_BACK = ("--by", "ops", "--reason", "a rehearsal")


def test_who_is_moved_back_leaves_nothing_in_the_pools_and_has_it_again_when_moved_again(
    database: Connected,
    move: Command,
    tmp_path: Path,
) -> None:
    plan, _, person = brought(database, move, tmp_path)
    assert move("revert", plan, *WAY_BACK)[0] == 0

    assert (person.holdings, person.pools.staked.units) == ({}, 0)
    assert move("verify", plan)[0] == 0
    move("run", plan)
    assert person.holdings["TFP"] == person.pools.staked.units == 112_500_000
    assert [kind for kind, _ in person.history()] == ["opening", "closing", "opening"]


def test_who_did_something_in_the_pools_stays(
    database: Connected,
    move: Command,
    tmp_path: Path,
) -> None:
    plan, _, person = brought(database, move, tmp_path)
    person.stakes(1)

    done, said = move("revert", plan, *WAY_BACK)

    assert done == 1
    assert "something was done in the pools" in said
    assert person.pools.staked.units == 113_500_000


def test_who_is_being_moved_back_does_nothing_in_the_pools(
    database: Connected,
    move: Command,
    tmp_path: Path,
) -> None:
    _, row, person = brought(database, move, tmp_path)
    with database.begin() as session:
        session.execute(text("UPDATE moves SET status = 'reverting'"))

    with pytest.raises(Conflict, match="being moved back"):
        person.stakes(1)
    with pytest.raises(Conflict, match="being moved back"):
        adjust(database, row.user_id)


def test_an_order_that_was_begun_before_exchanges_nothing_while_its_user_is_moved_back(
    database: Connected, move: Command, rpc: RpcClient, tmp_path: Path
) -> None:
    """Who moves people back has looked already what they did in the pools."""
    _, row, person = brought(database, move, tmp_path)
    provider = Trader(database, rpc)
    provider.has("TFP", 10)
    about = {"idempotency_key": f"{uuid4()}", "user_id": provider.user_id}
    rpc.call(Credit(amount_micros=10 * COIN, description="Tests", **about))
    provider.takes(provider.asks_to_add("TFP-USD", 10, 10))
    person.rpc = rpc
    order_id = person.begins(person.asks("TFP-USD", "USD", 0.5)).order_id
    with database.begin() as session:
        session.execute(text("UPDATE moves SET status = 'reverting'"))

    with pytest.raises(Conflict, match="being moved back"):
        person.orders.carried_out(order_id)
    assert person.pools.under_way is None
    [wallet] = rpc.call(GetWallets(user_ids=[row.user_id])).wallets
    assert (wallet.balance_micros, wallet.held_micros) == (COIN, 0)


def adjust(database: Connected, user_id: UUID) -> None:
    with database.begin() as session:
        adjusting.adjust(session, utc_now(), user_id, "TFP", 1, "tests")


NOT_OPENED = {
    "holdings = '[]'": "the archived document has something else for the pools",
    "user_id = gen_random_uuid()": "0 millionths of TFP staked were opened in the pools",
}


@pytest.mark.parametrize("change", NOT_OPENED)
def test_what_was_not_opened_as_planned_is_found(
    database: Connected,
    move: Command,
    tmp_path: Path,
    change: str,
) -> None:
    plan, _, _ = brought(database, move, tmp_path)
    with database.begin() as session:
        session.execute(text(f"UPDATE moves SET {change}"))  # noqa: S608

    done, said = move("verify", plan)

    assert done == 1
    assert NOT_OPENED[change] in said


def test_the_wallet_is_asked_by_one_worker_at_a_time_for_what_gives_way() -> None:
    asked: list[bool] = []

    class Wallet:
        def call(self, request: PostBatch) -> BatchOutcome:
            assert crew.turn.locked()
            asked.append(request.gives_way)
            return BatchOutcome(results=[], applied=True)

    crew = Crew(cast(Any, None), cast(Any, Wallet()), utc_now)
    command = BatchCommand.of(OpenAccount(idempotency_key="key", user_id=uuid4()))
    crew.post([command])
    crew.post([command], dry_run=True)
    assert not crew.turn.locked()
    with ThreadPoolExecutor(1) as pool:
        with crew.turn:
            waiting = pool.submit(crew.post, [command])
            assert len(asked) == 2
        waiting.result(PATIENCE_S)

    assert asked == [True] * 3


@pytest.mark.parametrize("is_held_to_the_end", [False, True])
def test_what_somebody_else_holds_is_tried_again_and_the_worker_lives(
    database: Connected,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_held_to_the_end: bool,
) -> None:
    monkeypatch.setattr(work, "AGAIN_AFTER", timedelta(0))
    monkeypatch.setattr(work, "FAILURES_MAX", 3)
    path, [email] = people(tmp_path, "1")
    plan_id = UUID(planned(database, path))
    crew = Crew(database, cast(Any, None), utc_now, workers=1)
    running.begin(crew, plan_id)
    tried, progress = [], Progress()

    def note(taken: Sequence[MoveRow]) -> tuple[int, list[Undone]]:
        tried.append(taken[0].email)
        with ExitStack() as other, database.begin() as session:
            if is_held_to_the_end or len(tried) == 1:
                other.enter_context(held(database, "LOCK TABLE plans"))
            session.execute(text("LOCK TABLE plans NOWAIT"))
            session.execute(
                text(
                    "UPDATE moves SET status = 'moved', due_at = NULL, reason = '',"
                    " moved_at = now(), transaction_id = gen_random_uuid()"
                )
            )
        return 1, []

    crew.work(plan_id, MoveStatus.PENDING, note, progress)

    row = moves(database)[email]
    assert (progress.done, progress.gave_up) == ((0, True) if is_held_to_the_end else (1, False))
    assert tried == [email] * (3 if is_held_to_the_end else 2)
    assert row.status == ("pending" if is_held_to_the_end else "moved")
    assert ("Somebody holds" in row.reason, row.due_at is not None) == (
        (True, True) if is_held_to_the_end else (False, False)
    )
