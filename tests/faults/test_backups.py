"""A drill: the database server is lost while payments go on, and comes back out of its backup.

``RESTORED_AGE_S`` is how old the moment is that is restored: so long people go on.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, make_url, text

from chassis.money import parse_usd
from contracts.billing import ListPurchases, PurchaseLine, PurchaseStatus, StartPurchase
from contracts.errors import ServiceError
from contracts.topup import TopupStatus
from contracts.wallet import Credit, GetWallet, OpenAccount, Verify
from deploy.local.broker import Node
from deploy.local.child import Child
from deploy.local.postgres import BINARIES, SUPERUSER, Postgres, _as_server_user
from deploy.local.processes import ROOT
from deploy.local.startup import free_port, wait_for
from services.catalog.seed import product_id_of
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually
from tests.system import System
from tests.topup.conftest import USD, Sandbox
from tests.topup.test_service import Person
from tests.wallet.conftest import credit, fresh_ledger

SCRIPT = (ROOT / "deploy/backup/backup.sh").read_text()
SLUG = "app-theme-pack"
PRICE = parse_usd("29.00")
CREDIT = 1_000 * PRICE
BUYERS = 4


CHECKER = r"""#!/bin/sh
cd "$2"
sed -n 's/^{ "Path": "\([^"]*\)".*"Checksum": "\([0-9a-f]*\)".*/\2  \1/p' backup_manifest >../sums
sha256sum --quiet --check ../sums
"""
"""In the place of ``pg_verifybackup``, which the wheel has, and which dies there of whatever it is
asked (SIGSEGV on ``--version``)."""


def _give(place: Path, like: Path) -> None:
    owner = like.stat()
    os.chown(place, owner.st_uid, owner.st_gid)


class Backed:
    """A server of the test's own, a directory of backups, and the script between them."""

    def __init__(self, directory: Path) -> None:
        self.server = Postgres(directory / "first", free_port())
        self.server.start()
        self.directory = directory
        self.backups = directory / "backups"
        self.follower: Child | None = None
        hba = directory / "first/cluster/pg_hba.conf"
        hba.write_text(
            f"{hba.read_text()}host replication {SUPERUSER} 127.0.0.1/32 scram-sha-256\n"
        )
        self.sql("SELECT pg_reload_conf()")
        checker = directory / "bin/pg_verifybackup"
        checker.parent.mkdir()
        checker.write_text(CHECKER)
        checker.chmod(0o755)
        # The server user writes here, whoever we are.
        self.backups.mkdir()
        if os.geteuid() == 0:
            _give(self.backups, hba)
            _give(directory, hba)

    def sql(self, statement: str) -> None:
        with self.server._connection() as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def command(self, *arguments: str) -> list[str]:
        as_user = _as_server_user(self.directory)
        return [*as_user, "bash", "-c", SCRIPT, "backup.sh", *arguments]

    def environment(self, port: int, databases: str = "") -> dict[str, str]:
        return {
            "PATH": f"{self.directory / 'bin'}:{BINARIES}:{os.environ['PATH']}",
            "LC_ALL": "C",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": SUPERUSER,
            "PGPASSWORD": self.server._password,
            "BACKUP_EXPECTS": databases,
        }

    def run(self, *arguments: str, databases: str = "") -> subprocess.CompletedProcess[str]:
        port = free_port() if arguments[0] in ("restore", "drill") else self.server.port
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(port, databases),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=START_PATIENCE_S,
        )

    def follow(self) -> None:
        """Receive the log, before any commit is answered."""
        log = self.directory / "follow.log"
        environment = self.environment(self.server.port)
        command = self.command("follow", str(self.backups))
        self.follower = Child("follower", command, environment, log, directory=Path("/"))
        self.follower.start()
        assert wait_for(lambda: any(self.backups.glob("wal/*.partial")), PATIENCE_S), (
            log.read_text()
        )
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'pg_receivewal'")
        self.sql("SELECT pg_reload_conf()")

    def lose(self) -> None:
        """The machine is gone, with all that was not sent away."""
        [server] = self.server.children
        server.kill()
        assert self.follower is not None
        self.follower.kill()

    def restored(self) -> Path:
        """Where a server is to be: the layout of deploy.local.postgres."""
        place = self.directory / f"restored-{uuid4().hex[:6]}"
        place.mkdir()
        password = self.directory / "first/superuser-password"
        (place / password.name).write_text(password.read_text())
        if os.geteuid() == 0:
            _give(place, password)
        return place

    def comes_back(self, databases: str, until: str = "") -> None:
        """Out of the backup, where the one that was lost had been."""
        place = self.restored()
        arguments = [str(self.backups), str(place / "cluster"), *([until] if until else [])]
        done = self.run("restore", *arguments, databases=databases)
        assert done.returncode == 0, done.stderr
        self.server.stop()
        self.server = Postgres(place, self.server.port)
        self.server.start()

    def close(self) -> None:
        if self.follower is not None:
            self.follower.kill()
        self.server.stop()


@pytest.fixture
def backed(scratch: Path) -> Iterator[Backed]:
    directory = scratch / f"backed-{uuid4().hex[:6]}"
    directory.mkdir()
    made = Backed(directory)
    yield made
    made.close()


class Buyers:
    """People who go on buying, and note what they were told."""

    def __init__(self, stack: System) -> None:
        self.stack = stack
        self.users = [uuid4() for _ in range(BUYERS)]
        self.commands: list[StartPurchase] = []
        self.told: set[UUID] = set()
        self.stopping = threading.Event()

    def open(self) -> None:
        for user_id in self.users:
            self.stack.rpc.call(OpenAccount(idempotency_key=f"open:{user_id}", user_id=user_id))
            self.stack.rpc.call(self.credit(user_id))

    def credit(self, user_id: UUID) -> Credit:
        return Credit(
            idempotency_key=f"credit:{user_id}",
            user_id=user_id,
            amount_micros=CREDIT,
            description="Credits bought",
        )

    def buy_on(self, user_id: UUID) -> None:
        # Slowly: a page of purchases holds 200.
        while not self.stopping.wait(0.3):
            command = StartPurchase(
                idempotency_key=f"order:{uuid4()}",
                user_id=user_id,
                lines=[PurchaseLine(product_id=product_id_of(SLUG), quantity=1)],
            )
            self.commands.append(command)
            self.send(command)

    def send(self, command: StartPurchase) -> bool:
        try:
            bought = self.stack.rpc.call(command, timeout_s=5)
        except ServiceError:
            return False
        if bought.status == PurchaseStatus.COMPLETED:
            self.told.add(bought.purchase_id)
        return bought.status == PurchaseStatus.COMPLETED

    def completed(self, user_id: UUID) -> list[UUID]:
        page = self.stack.rpc.call(ListPurchases(user_id=user_id, limit=200))
        return [each.purchase_id for each in page.purchases if each.status == "completed"]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_server_that_is_lost_comes_back_with_every_payment_and_none_twice(
    backed: Backed, broker: Node, request: pytest.FixtureRequest
) -> None:
    backed.follow()
    directory = backed.directory / "system"
    directory.mkdir()
    stack = System(backed.server, broker, directory, ("wallet", "catalog", "billing"))
    request.addfinalizer(stack.end_processes)
    stack.start_all()
    buyers = Buyers(stack)
    buyers.open()
    pool = ThreadPoolExecutor(BUYERS)
    running = [pool.submit(buyers.buy_on, user_id) for user_id in buyers.users]
    try:
        eventually(lambda: len(buyers.told), lambda count: count >= 5)
        made = backed.run("base", str(backed.backups))
        assert made.returncode == 0, made.stderr
        count = len(buyers.told)
        eventually(lambda: len(buyers.told), lambda now: now >= count + 10)
        backed.lose()
        told = set(buyers.told)
    finally:
        buyers.stopping.set()
        pool.shutdown()
    for each in running:
        each.result()

    backed.comes_back(
        " ".join(f"{stack._prefix}_{name}" for name in ("wallet", "catalog", "billing"))
    )

    stack.wait_ready()
    takes_rows(stack, "wallet", "catalog", "billing")
    assert len(told) >= 15
    assert told <= {each for user_id in buyers.users for each in buyers.completed(user_id)}
    for command in buyers.commands:
        eventually(lambda command=command: buyers.send(command))
    assert stack.rpc.call(Verify(), timeout_s=60).first_difference is None
    for user_id in buyers.users:
        orders = {c.idempotency_key for c in buyers.commands if c.user_id == user_id}
        wallet = stack.rpc.call(GetWallet(user_id=user_id))
        assert len(buyers.completed(user_id)) == len(orders)
        assert wallet.balance_micros == CREDIT - len(orders) * PRICE


AGE_S = float(os.environ.get("RESTORED_AGE_S", "2"))
PAYS_EVERY_S = 3
EACH_PAYS = max(2, int(AGE_S / PAYS_EVERY_S))
RESTORED = ("wallet", "topup", "sandbox")
TOMORROW = {"CLOCK_OFFSET_DAYS": "1"}
"""What is younger than a quarter of an hour is compared by tomorrow's reconciliation."""


def buy_credits(person: Person) -> None:
    """By the card page, paid at once and credited."""
    topup = person.start_topup()
    person.pay(topup)
    eventually(lambda: person.topup(topup.topup_id).status == TopupStatus.CREDITED)


def pay_on(person: Person) -> None:
    """For as long as the backup is to be old."""
    began = time.monotonic()
    for number in range(EACH_PAYS):
        time.sleep(max(0, began + number * PAYS_EVERY_S - time.monotonic()))
        buy_credits(person)


def operate(
    stack: System,
    service: str,
    module: str,
    *arguments: str,
    settings: Mapping[str, str] = TOMORROW,
) -> tuple[int, str]:
    """An operator's command, with the settings of the service and these."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        env={**stack.process(service).environment, **settings},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return done.returncode, f"{done.stdout}{done.stderr}"


def takes_rows(stack: System, *services: str) -> None:
    """What came back of each of these services takes a row in each of its tables."""
    for service in services:
        process = "notifier" if service == "gateway" else service
        code, said = operate(stack, process, "chassis.restored", service)
        assert code == 0, said


def bring_back(backed: Backed, stack: System, until: datetime) -> None:
    """The wallet and the top-up service as of then, on a server of their own, charges stopped."""
    names = " ".join(f"{stack._prefix}_{name}" for name in ("wallet", "topup"))
    backed.comes_back(names, until.isoformat())
    said = operate(stack, "topup", "services.topup.switch", "stop", "--by", "a test",
                   "--reason", "Restored")  # fmt: skip
    assert said[0] == 0, said[1]
    for name in ("wallet", "topup"):
        stack.start(name)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_what_was_paid_after_the_moment_that_was_restored_is_credited_once(
    backed: Backed, broker: Node, request: pytest.FixtureRequest
) -> None:
    """The card processor knows more than the backup."""
    backed.follow()
    directory = backed.directory / "system"
    directory.mkdir()
    # There is no website that notices could come to: none is sent, and the processor is asked.
    looks = ",".join(map(str, range(2, 600, 5)))
    stack = System(backed.server, broker, directory, RESTORED, {"JANITOR_LOOKS_S": looks})
    request.addfinalizer(stack.end_processes)
    stack.start_all()
    Sandbox(stack.sandbox_url).switch("webhook_drop", times=None)
    people = [Person(stack) for _ in range(3)]
    for person in people:
        buy_credits(person)
    open_page = people[0].start_topup()
    made = backed.run("base", str(backed.backups))
    assert made.returncode == 0, made.stderr
    time.sleep(1.1)
    until = datetime.now(UTC)
    time.sleep(1.1)
    # Payments go on, also on a page that was open by then.
    people[0].pay(open_page)
    eventually(lambda: people[0].topup(open_page.topup_id).status == TopupStatus.CREDITED)
    with ThreadPoolExecutor(len(people)) as pool:
        list(pool.map(pay_on, people))
    paid = EACH_PAYS * len(people)
    for name in ("wallet", "topup"):
        stack.stop(name)
    backed.lose()

    bring_back(backed, stack, until)

    takes_rows(stack, "wallet", "topup")
    assert operate(stack, "wallet", "services.wallet.verification")[0] == 0
    since = until.date().isoformat()
    code, listed = operate(stack, "topup", "services.topup.reconcile", "--since", since)
    assert (code, listed.count("charge_without_topup")) == (1, paid), listed
    began = time.monotonic()
    _, adopted = operate(stack, "topup", "services.topup.reconcile", "--since", since, "--adopt")
    print(f"{paid} payments of {AGE_S:.0f} s, adopted in {time.monotonic() - began:.0f} s")
    assert f"{paid} payments have their top-up back" in adopted

    def agrees() -> bool:
        return operate(stack, "topup", "services.topup.reconcile", "--since", since)[0] == 0

    eventually(agrees, interval_s=1)
    # One before, and the first's on the page that was open.
    expected = [number + EACH_PAYS for number in (2, 1, 1)]
    assert [person.balance() / (25 * USD) for person in people] == expected
    assert operate(stack, "topup", "services.topup.reconcile", "--since", since, "--adopt")[0] == 0
    assert stack.rpc.call(Verify(), timeout_s=60).first_difference is None


@pytest.mark.soak
def test_a_restore_reaches_the_time_that_was_asked_for_or_fails(backed: Backed) -> None:
    backed.server.create_database("kept")
    backed.follow()
    for statement in ("CREATE TABLE alembic_version (version_num text)",):
        backed.sql(statement)
    made = backed.run("base", str(backed.backups))
    assert made.returncode == 0, made.stderr
    time.sleep(1.1)
    before = datetime.now(UTC)
    time.sleep(1.1)
    backed.sql("CREATE TABLE later ()")
    after = datetime.now(UTC)
    backed.lose()

    def restore(until: str, expects: str) -> tuple[int, str, Path]:
        place = backed.restored() / "cluster"
        done = backed.run("restore", str(backed.backups), str(place), until, databases=expects)
        return done.returncode, done.stderr, place

    assert restore(before.isoformat(), "postgres")[0] == 0
    # The log ends before: not an older state in silence.
    assert restore(after.replace(year=after.year + 1).isoformat(), "postgres")[0] != 0
    assert "no base backup" in restore("2020-01-01 00:00:00+00", "postgres")[1]
    code, said, place = restore(before.isoformat(), "postgres wallet")
    assert (code, "wallet is not in the backup" in said) == (1, True)
    again = backed.run("restore", str(backed.backups), str(place))
    assert "never over it" in again.stderr


@pytest.mark.soak
def test_a_restore_without_a_time_reaches_the_last_of_the_log_or_fails(backed: Backed) -> None:
    backed.sql("CREATE TABLE alembic_version (version_num text)")
    backed.follow()
    made = backed.run("base", str(backed.backups))
    assert made.returncode == 0, made.stderr
    for number in range(4):
        backed.sql(f"CREATE TABLE later_{number} ()")
        backed.sql("SELECT pg_switch_wal()")
    backed.sql("CREATE TABLE last ()")

    def whole() -> list[Path]:
        found = backed.backups.glob("wal/*")
        return sorted(each for each in found if len(each.name) == 24)

    eventually(lambda: len(whole()) >= 4)
    backed.lose()

    def restore() -> tuple[int, str]:
        place = str(backed.restored() / "cluster")
        done = backed.run("restore", str(backed.backups), place, databases="postgres")
        return done.returncode, done.stderr

    middle = whole()[-2]
    aside = middle.with_name("aside")
    assert restore() == (0, "")
    middle.rename(aside)
    code, said = restore()
    assert (code, f"while there is {whole()[-1].name}" in said) == (1, True), said
    # Nobody reads a directory as a file, not even root.
    middle.mkdir()
    code, said = restore()
    assert (code, "it could not be restored" in said) == (1, True), said


@pytest.mark.parametrize(("verified", "noted"), [("exit 0", 1), ("exit 1", 0)])
def test_a_base_backup_that_was_verified_is_noted_for_node_exporter_and_no_other(
    tmp_path: Path, verified: str, noted: int
) -> None:
    for name, does in {"pg_basebackup": 'mkdir "$2"', "pg_verifybackup": verified}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    command = ["bash", "-c", SCRIPT, "backup.sh", "base", str(tmp_path / "backups")]
    path = f"{tmp_path}:{os.environ['PATH']}"

    began = int(time.time())
    subprocess.run(
        command, env={"PATH": path}, capture_output=True, check=False, timeout=START_PATIENCE_S
    )

    files = list(tmp_path.glob("backups/metrics/*"))
    assert [file.name for file in files] == ["backup.prom"] * noted
    for file in files:
        [family] = text_string_to_metric_families(file.read_text())
        [sample] = family.samples
        assert (family.type, sample.labels, sample.value >= began) == ("gauge", {}, True)


def test_a_drill_notes_what_it_restored_and_found_right_and_leaves_nothing(backed: Backed) -> None:
    for statement in ("CREATE TABLE alembic_version (version_num text)",
                      "INSERT INTO alembic_version VALUES ('0020')"):  # fmt: skip
        backed.sql(statement)
    made = backed.run("base", str(backed.backups))
    assert made.returncode == 0, made.stderr
    noted, place = backed.backups / "metrics/restore.prom", backed.restored()
    look = 'psql --no-psqlrc -tA -c "SELECT version_num FROM alembic_version" "${DATABASE_URL##*/}"'

    def drill(data: Path, expected: str) -> tuple[int, str]:
        asked = ("bash", "-c", f'[ "$({look})" = {expected} ]')
        done = backed.run("drill", str(backed.backups), str(data), *asked, databases="postgres")
        return done.returncode, done.stderr

    backed.sql("UPDATE alembic_version SET version_num = '0021'")
    code, said = drill(place / "cluster", "0021")
    assert (code, "found it wrong" in said, noted.exists()) == (1, True, False), said
    code, said = drill(backed.backups / "base", "0020")
    assert (code, "removes it" in said, any(backed.backups.glob("base/*"))) == (1, True, True)
    assert drill(place / "cluster", "0020") == (0, "")

    assert "\nmycelium_restore_last_success_timestamp_seconds " in noted.read_text()
    assert [file.name for file in place.iterdir()] == ["superuser-password"]


def _looked_at(url: str, module: str, *arguments: str) -> int:
    """What an operator's command ends with, on the wallet's database alone."""
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "AMQP_URI": "none"}
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, check=False, timeout=START_PATIENCE_S
    ).returncode


def test_a_ledger_that_was_lost_comes_back_to_its_last_posting_and_is_verified(
    backed: Backed,
) -> None:
    with fresh_ledger(backed.server) as book:
        url = book.database.engine.url
        backed.follow()
        user_id = book.user(10 * USD)
        made = backed.run("base", str(backed.backups))
        assert made.returncode == 0, made.stderr
        # The log alone has this.
        book.do(credit(user_id, 5 * USD))
        backed.lose()

        backed.comes_back(str(url.database))

        book.database.engine.dispose()
        at = url.render_as_string(hide_password=False)
        assert book.balance(user_id) == 15 * USD
        assert _looked_at(at, "chassis.restored", "wallet") == 0
        assert _looked_at(at, "services.wallet.verification") == 0
        _damage(backed.server, str(url.database))
        assert _looked_at(at, "services.wallet.verification") == 1


def _damage(server: Postgres, database: str) -> None:
    """As no program can that is not the database's own."""
    engine = create_engine(make_url(server.admin_url).set(database=database))
    with engine.begin() as connection:
        connection.execute(text("SET session_replication_role = replica"))
        connection.execute(text("UPDATE entries SET amount_micros = amount_micros + 1"))
    engine.dispose()


def _prune(backups: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", SCRIPT, "backup.sh", "prune", str(backups), name]
    path = f"{backups / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=START_PATIENCE_S,
    )


def test_pruning_keeps_the_backup_that_is_named_and_takes_no_other_name(tmp_path: Path) -> None:
    older, kept, newer = "20261128T020000Z", "20261129T020000Z", "20261130T020000Z"
    label = "START WAL LOCATION: 0/5000028 (file 000000010000000000000005)\n"
    for name in (older, kept, newer, "draft"):
        (tmp_path / "base" / name).mkdir(parents=True)
        (tmp_path / "base" / name / "backup_label").write_text(label)
    cleanup = tmp_path / "bin/pg_archivecleanup"
    cleanup.parent.mkdir()
    cleanup.write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/cleaned\n')
    cleanup.chmod(0o755)

    def left() -> set[str]:
        return {each.name for each in (tmp_path / "base").iterdir()}

    for wrong in (f"{kept}/", f"./{kept}", f"{kept}/.", "draft", "", "..", "20261127T020000Z"):
        refused = _prune(tmp_path, wrong)
        assert (refused.returncode, refused.stderr[:8]) == (1, "backup: "), wrong
        assert left() == {older, kept, newer, "draft"}
    (tmp_path / "base" / newer / "backup_label").write_text("CHECKPOINT LOCATION: 0/5000060\n")
    assert "does not say where its log starts" in _prune(tmp_path, newer).stderr
    assert left() == {older, kept, newer, "draft"}
    assert not (tmp_path / "cleaned").exists()

    assert _prune(tmp_path, kept).returncode == 0
    assert left() == {kept, newer, "draft"}
    assert (tmp_path / "cleaned").read_text() == f"{tmp_path}/wal 000000010000000000000005\n"
