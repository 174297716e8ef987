"""The engine and its sessions, on a database of the test's own."""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import monotonic, sleep
from types import SimpleNamespace

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from chassis import inbox
from chassis.database import (
    PUBLISHED,
    SILENT_MS_MAX,
    Connected,
    after_commit,
    commit_unhurried,
    connect,
    is_held,
    is_lost,
)
from chassis.identifiers import new_id
from chassis.migrate import migrate
from chassis.rpc import _told
from contracts.errors import NotFound, Overloaded
from deploy.local.postgres import Postgres
from deploy.local.startup import free_port
from tests.locks import done_after, held
from tests.patience import PATIENCE_S, eventually


def test_what_is_rehearsed_is_undone_and_calls_nobody(database: Connected) -> None:
    called: list[bool] = []
    with database.rehearse() as session:
        session.execute(text("CREATE TABLE rehearsed ()"))
        after_commit(session, lambda: called.append(True))

    with database.read() as session:
        assert session.scalar(text("SELECT to_regclass('rehearsed')")) is None
    assert called == []


def test_a_single_statement_is_committed_when_it_is_done(database: Connected) -> None:
    with database.singles.connect() as connection:
        connection.execute(text("CREATE TABLE single ()"))

        with database.read() as session:
            assert session.scalar(text("SELECT to_regclass('single')")) == "single"


def test_the_connection_that_was_used_last_is_used_next(database: Connected) -> None:
    ask = text("SELECT pg_backend_pid()")
    with database.engine.connect() as first, database.engine.connect() as second:
        used = [each.scalar(ask) for each in (first, second)]

    with database.engine.connect() as next_one:
        assert next_one.scalar(ask) == used[0]


def test_what_runs_after_the_commit_finds_it_committed(database: Connected) -> None:
    with database.begin() as session:
        session.execute(text("CREATE TABLE committed (n integer)"))
    seen: list[tuple[str, int | None]] = []

    def look(who: str) -> None:
        with database.read() as session:
            seen.append((who, session.scalar(text("SELECT count(*) FROM committed"))))

    database.on_publish.append(lambda _: look("the relay"))
    try:
        with database.begin() as session:
            session.execute(text("INSERT INTO committed VALUES (1)"))
            session.info[PUBLISHED] = [SimpleNamespace(source="probe", type="told")]
            after_commit(session, lambda: look("first"))
            after_commit(session, lambda: look("second"))
            assert seen == []
    finally:
        database.on_publish.clear()

    assert seen == [("the relay", 1), ("first", 1), ("second", 1)]


@pytest.mark.parametrize("fails_at", ["in the block", "at the commit"])
def test_what_is_rolled_back_runs_nothing(database: Connected, fails_at: str) -> None:
    with database.begin() as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS early (n int UNIQUE INITIALLY DEFERRED)"))
    called: list[str] = []
    database.on_publish.append(lambda _: called.append("the relay"))

    def fail() -> None:
        with database.begin() as session:
            session.info[PUBLISHED] = ["an event"]
            after_commit(session, lambda: called.append("it"))
            session.execute(text("INSERT INTO early VALUES (1), (1)"))
            if fails_at == "in the block":
                raise ValueError

    try:
        with pytest.raises((ValueError, IntegrityError)):
            fail()
    finally:
        database.on_publish.clear()

    assert called == []


def test_what_was_to_follow_a_part_that_is_undone_does_not(database: Connected) -> None:
    called: list[str] = []
    with database.begin() as session:
        after_commit(session, lambda: called.append("before"))
        part = session.begin_nested()
        after_commit(session, lambda: called.append("of the part"))
        part.rollback()
        with session.begin_nested():
            after_commit(session, lambda: called.append("of another"))

    assert called == ["before", "of another"]


def test_what_fails_after_the_commit_keeps_nothing_else_from_running(database: Connected) -> None:
    called: list[bool] = []
    with database.begin() as session:
        after_commit(session, lambda: 1 // 0)
        after_commit(session, lambda: called.append(True))

    assert called == [True]


def test_a_commit_that_need_not_hurry_is_the_only_one_that_does_not(database: Connected) -> None:
    shown = text("SHOW synchronous_commit")
    with database.begin() as session:
        commit_unhurried(session)
        unhurried = session.scalar(shown)
    with database.begin() as session:
        next_one = session.scalar(shown)

    assert (unhurried, next_one) == ("off", "on")


def test_the_relay_is_woken_by_events_alone(database: Connected) -> None:
    woken: list[bool] = []
    database.on_publish.append(lambda _: woken.append(True))
    try:
        with database.begin() as session:
            session.execute(text("SELECT 1"))
    finally:
        database.on_publish.clear()

    assert woken == []


def test_one_at_a_time_holds_what_is_held_exclusively(database: Connected) -> None:
    with database.exclusively("one") as first:
        with database.exclusively("one") as second, database.exclusively("two") as another:
            pass
        with database.exclusively("one") as still_not:
            pass
    with database.exclusively("one") as afterwards:
        pass

    assert (first, second, another, still_not, afterwards) == (True, False, True, False, True)


def test_two_migrations_at_once_come_one_after_the_other(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"twice_{new_id().hex[-12:]}"
    url = postgres.create_database(name)
    fresh = connect(url)
    tables = text("SELECT to_regclass('outbox')")
    waits = Event()
    monkeypatch.setattr(
        "chassis.migrate.time",
        SimpleNamespace(sleep=lambda _: (waits.set(), sleep(0.05)), monotonic=monotonic),
    )

    with ThreadPoolExecutor(1) as other:
        with held(fresh, "SELECT pg_advisory_xact_lock(hashtextextended('chassis.migrate', 0))"):
            migrating = other.submit(migrate, "tests.chassis.probe", url)
            eventually(lambda: migrating.done() or waits.is_set(), interval_s=0.01)
            with fresh.read() as session:
                untouched = session.scalar(tables)
        migrating.result(PATIENCE_S)

    with fresh.read() as session:
        assert (waits.is_set(), untouched, session.scalar(tables)) == (True, None, "outbox")
    fresh.engine.dispose()
    postgres.drop_database(name)


def test_an_event_that_is_being_handled_is_not_new_a_second_time(postgres: Postgres) -> None:
    name = f"inbox_{new_id().hex[-12:]}"
    url = postgres.create_database(name)
    migrate("tests.chassis.probe", url)
    fresh, event_id = connect(url), new_id()

    def is_new(handler: str = "handler") -> bool:
        with fresh.begin() as session:
            return inbox.is_new(session, event_id, handler)

    second = done_after(fresh, lambda other: inbox.is_new(other, event_id, "handler"), is_new)

    assert (second, is_new("another")) == (False, True)
    fresh.engine.dispose()
    postgres.drop_database(name)


def test_who_reads_cannot_write_and_keeps_no_transaction_open(database: Connected) -> None:
    state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
    with database.read() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        with database.begin() as other:
            seen = other.scalar(state, {"pid": pid})
        with pytest.raises(InternalError):
            session.execute(text("CREATE TABLE written ()"))

    assert seen == "idle"


def test_questions_of_one_moment_are_answered_in_one_look(database: Connected) -> None:
    looks: list[list[int]] = []
    is_free = Event()

    def look(session: Session, questions: Sequence[int]) -> list[int | Exception]:
        looks.append(list(questions))
        if len(looks) == 1:
            is_free.wait(PATIENCE_S)
        return list(session.scalars(text("SELECT 2 * unnest(:asked)"), {"asked": list(questions)}))

    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(database.answer, look, 1)]
        assert eventually(lambda: bool(looks))
        answers += [pool.submit(database.answer, look, number) for number in (2, 3, 4)]
        assert eventually(lambda: len(database._looks[look]._waiting) == 3)
        is_free.set()
        assert [answer.result(PATIENCE_S) for answer in answers] == [2, 4, 6, 8]

    assert [sorted(asked) for asked in looks] == [[1], [2, 3, 4]]


@pytest.mark.parametrize("failures", [0, 1])
def test_a_question_that_has_no_answer_is_told_so_and_keeps_nobody_from_his(
    database: Connected, failures: int
) -> None:
    failing = ["not all of them"] * failures

    def look(_session: Session, questions: Sequence[int]) -> list[int | Exception]:
        if 2 in questions and failing:
            raise RuntimeError(failing.pop())
        return [NotFound("There is none.") if number == 2 else number for number in questions]

    def ask(number: int) -> int | str:
        try:
            return database.answer(look, number)
        except NotFound as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(ask, [1, 2, 3, 1]))

    assert found == [1, "There is none.", 3, 1]


class _Base(DeclarativeBase):
    pass


class _Thing(_Base):
    __tablename__ = "things"

    number: Mapped[int] = mapped_column(primary_key=True)


def test_what_was_stored_or_read_can_be_used_after_the_end(database: Connected) -> None:
    with database.begin() as session:
        session.execute(text("CREATE TABLE things (number integer PRIMARY KEY)"))
        stored = _Thing(number=1)
        session.add(stored)
    with database.read() as session:
        read = session.get_one(_Thing, 1)

    assert (stored.number, read.number) == (1, 1)


def test_a_snapshot_cannot_write(database: Connected) -> None:
    with pytest.raises(OperationalError), database.snapshot() as session:
        session.execute(text("CREATE TABLE written ()"))


def test_there_are_no_more_connections_than_were_asked_for(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.database.POOL_TIMEOUT_S", 0.1)
    narrow = connect(postgres.admin_url, pool_size=1)

    with narrow.begin() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(PoolTimeout), narrow.begin() as other:
            other.execute(text("SELECT 1"))

    narrow.engine.dispose()


def test_a_database_that_is_left_keeps_no_connection(postgres: Postgres) -> None:
    name = f"left_{new_id().hex}"
    left = connect(postgres.create_database(name))
    for way in (left.begin, left.read):
        with way() as session:
            session.execute(text("SELECT 1"))
    left.engine.dispose()

    watcher = connect(postgres.admin_url)
    count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
    with watcher.read() as session:
        eventually(lambda: session.scalar(count, {"name": name}) == 0)
    watcher.engine.dispose()
    postgres.drop_database(name)


def test_a_connection_that_died_in_the_pool_is_not_given_out(
    database: Connected, postgres: Postgres
) -> None:
    database.engine.dispose()  # it is the only one: no later test gets it
    with database.begin() as session:
        process = {"id": session.scalar(text("SELECT pg_backend_pid()"))}
    watcher = connect(postgres.admin_url)
    with watcher.read() as session:
        session.execute(text("SELECT pg_terminate_backend(:id)"), process)
        is_there = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :id")
        eventually(lambda: session.scalar(is_there, process) == 0)
    watcher.engine.dispose()

    with database.begin() as session:
        assert session.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize("way", ["engine", "singles"])
def test_a_server_that_takes_no_writes_any_more_is_left_for_the_next(
    database: Connected, postgres: Postgres, way: str
) -> None:
    engine = getattr(database, way)
    engine.dispose()
    is_read_only = f"DATABASE {engine.url.database} {{}} default_transaction_read_only"
    admin = connect(postgres.admin_url)

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE taken_by_{way} ()"))

    # As a standby does: it lets us in, answers questions, and refuses this.
    with admin.begin() as session:
        session.execute(text(f"ALTER {is_read_only.format('SET')} = on"))
    with pytest.raises(OperationalError) as caught:
        write()
    with admin.begin() as session:
        session.execute(text(f"ALTER {is_read_only.format('RESET')}"))
    admin.engine.dispose()

    write()
    assert is_lost(caught.value)


def test_a_machine_that_vanished_is_waited_for_no_longer_than_a_bound(database: Connected) -> None:
    for engine in (database.engine, database.readers, database.singles):
        with engine.connect() as connection:
            link = socket.fromfd(connection.connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        with link:
            is_kept_alive = link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            silent_ms = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

        assert (is_kept_alive, silent_ms) == (1, SILENT_MS_MAX)


def test_a_list_of_servers_leads_to_the_primary_for_who_reads_too(
    database: Connected, postgres: Postgres
) -> None:
    url = database.engine.url
    servers = tuple(f"127.0.0.1:{port}" for port in (free_port(), postgres.port))

    def reached(wanted: str) -> int | None:
        # `read-write` would refuse every connection that may not write, on a primary too.
        query = {"host": servers, "target_session_attrs": wanted}
        listed = url.set(host=None, port=None, query=query)
        connected = connect(listed.render_as_string(hide_password=False))
        try:
            with connected.read() as session, connected.begin() as other:
                assert other.scalar(text("SELECT 1")) == 1
                found: int | None = session.scalar(text("SELECT 1"))
        except OperationalError:
            found = None
        connected.engine.dispose()
        return found

    assert (reached("primary"), reached("read-write")) == (1, None)


def test_a_snapshot_sees_one_moment_and_may_take_its_time(database: Connected) -> None:
    asked = "SELECT current_setting('transaction_isolation'), current_setting('statement_timeout')"
    with database.snapshot() as session:
        seen = session.execute(text(asked)).one()

    assert tuple(seen) == ("repeatable read", "0")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError("", {}, psycopg2.OperationalError("the connection was closed")), True),
        (PoolTimeout(), True),
        (IntegrityError("", {}, psycopg2.IntegrityError("twice")), False),
        (ValueError(), False),
    ],
)
def test_a_lost_connection_is_told_from_a_refusal(error: Exception, expected: bool) -> None:
    assert is_lost(error) is expected


def test_a_row_that_somebody_holds_is_told_from_a_mistake_of_ours(database: Connected) -> None:
    with database.begin() as session:
        session.execute(text("CREATE TABLE held AS SELECT 1 AS id"))
    lock = text("SELECT FROM held FOR UPDATE")

    with database.begin() as holder:
        holder.execute(lock)
        with pytest.raises(OperationalError) as caught, database.begin() as session:
            session.execute(lock)

    assert (is_held(caught.value), is_lost(caught.value)) == (True, False)
    assert isinstance(_told(caught.value), Overloaded)
