"""Group commit: many callers, one transaction, and the truth for each of them."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace

import psycopg2
import pytest
from greenlet import GreenletExit
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from chassis.context import CallContext
from chassis.identifiers import new_id
from contracts.errors import (
    DeadlineExceeded,
    InsufficientFunds,
    Overloaded,
    ServiceError,
    Unavailable,
)
from contracts.wallet import Transaction
from services.wallet import committer
from services.wallet.committer import (
    Committer,
    Job,
    Queue,
    held_by_others,
    in_time,
    pass_over,
    settle,
)
from services.wallet.ledger import Outcome
from tests.wallet.conftest import USD, Ledger, credit, debit, wallet_held


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "RETRY_DELAYS_S", (0.001, 0.001, 0.001))


def failing(begin, is_failing, *, after_commit=False):
    """``begin`` that loses its connection, before the commit or just after it."""
    numbers = count()
    lost = OperationalError("COMMIT", {}, psycopg2.OperationalError("the connection was closed"))

    @contextmanager
    def broken():
        fails = is_failing(next(numbers))
        with begin() as session:
            yield session
            if fails and not after_commit:
                raise lost
        if fails:
            raise lost

    return broken


def test_jobs_of_several_callers_are_carried_out_together(book: Ledger):
    user_id = book.user(10 * USD)
    jobs = [Job([debit(user_id, 6 * USD)]), Job([debit(user_id, 6 * USD)])]

    settle(book.database.begin, jobs)

    (first,), (second,) = (job.outcomes for job in jobs)
    assert isinstance(first, Transaction)
    assert isinstance(second, InsufficientFunds)


def test_who_is_refused_waits_for_no_disk(book: Ledger):
    user_id = book.user(USD)
    commits: list[object] = []
    engine, note = book.database.engine, commits.append
    event.listen(engine, "commit", note)

    settle(book.database.begin, [refused := Job([debit(user_id, 6 * USD)])])
    event.remove(engine, "commit", note)

    assert isinstance(refused.outcomes[0], InsufficientFunds)
    assert commits == []


def test_an_event_goes_on_with_the_calls_that_led_to_it(book: Ledger):
    users = [book.user(), book.user()]
    jobs = [Job([credit(user, USD)], call=CallContext(chain=(f"of {user}",))) for user in users]

    settle(book.database.begin, jobs)

    query = text("SELECT headers FROM outbox WHERE payload ->> 'user_id' = :user")
    with book.database.read() as session:
        told = [session.scalar(query, {"user": str(user)}) for user in users]
    assert told == [{"nameko.call_id_stack": [f"of {user}"]} for user in users]


def test_a_connection_lost_before_the_commit_is_tried_again(book: Ledger):
    user_id = book.user(10 * USD)
    job = Job([debit(user_id, USD)])

    settle(failing(book.database.begin, lambda number: number < 2), [job])

    (outcome,) = job.outcomes
    assert isinstance(outcome, Transaction)
    assert book.balance(user_id) == 9 * USD


def test_a_connection_lost_after_the_commit_charges_once(book: Ledger):
    user_id = book.user(10 * USD)
    job = Job([debit(user_id, USD)])
    begin = failing(book.database.begin, lambda number: number == 0, after_commit=True)

    settle(begin, [job])

    (outcome,) = job.outcomes
    assert isinstance(outcome, Transaction)
    assert outcome.replayed is True
    assert book.balance(user_id) == 9 * USD


def test_a_database_that_stays_away_is_told_as_an_unknown_outcome(book: Ledger):
    job = Job([debit(book.user(10 * USD), USD)])

    settle(failing(book.database.begin, lambda _number: True), [job])

    (outcome,) = job.outcomes
    assert isinstance(outcome, Unavailable)
    assert "unknown" in str(outcome)


@pytest.fixture
def poison(own_book: Ledger) -> str:
    """A description that the database refuses."""
    with own_book.database.begin() as session:
        session.execute(
            text("ALTER TABLE transactions ADD CHECK (description <> 'poison') NOT VALID")
        )
    return "poison"


@pytest.mark.parametrize("are_together", [True, False])
def test_what_the_database_refuses_does_not_take_its_neighbours_with_it(
    own_book: Ledger, poison: str, are_together: bool
):
    rich = own_book.user(10 * USD)
    commands = [debit(rich, USD), debit(rich, USD, description=poison), debit(rich, USD)]
    jobs = [Job(commands)] if are_together else [Job([command]) for command in commands]

    settle(own_book.database.begin, jobs)

    first, refused, last = (outcome for job in jobs for outcome in job.outcomes)
    assert isinstance(first, Transaction)
    assert isinstance(last, Transaction)
    assert type(refused) is ServiceError
    assert "nothing was done" in str(refused)
    assert own_book.balance(rich) == 8 * USD


def test_an_atomic_job_is_never_divided(own_book: Ledger, poison: str):
    rich = own_book.user(10 * USD)
    job = Job([debit(rich, USD), debit(rich, USD, description=poison)], is_atomic=True)

    settle(own_book.database.begin, [job])

    assert [type(outcome) for outcome in job.outcomes] == [ServiceError] * 2
    assert own_book.balance(rich) == 10 * USD


def failing_once_committed(begin, error):
    """``begin`` that loses its connection right after the first commit, then raises ``error``."""
    lost = failing(begin, lambda number: number == 0, after_commit=True)
    numbers = count()

    @contextmanager
    def broken():
        if next(numbers) > 0:
            raise error
        with lost() as session:
            yield session

    return broken


def test_what_may_have_been_committed_is_never_called_undone(book: Ledger):
    user_id = book.user(10 * USD)
    job = Job([debit(user_id, USD)])

    settle(failing_once_committed(book.database.begin, ZeroDivisionError()), [job])

    (outcome,) = job.outcomes
    assert isinstance(outcome, Unavailable)
    assert book.balance(user_id) == 9 * USD


def test_a_wallet_that_somebody_else_locks_is_refused_and_the_others_go_on(book: Ledger):
    locked, free = book.user(10 * USD), book.user(10 * USD)
    jobs = [Job([debit(locked, USD)]), Job([debit(free, USD)])]

    with wallet_held(book, locked):
        held = settle(book.database.begin, jobs)

    assert isinstance(jobs[0].outcomes[0], Overloaded)
    assert isinstance(jobs[1].outcomes[0], Transaction)
    assert held == {locked}


def counting(begin):
    """``begin`` that keeps count of the transactions that waited in vain for a lock."""
    waits: list[Exception] = []

    @contextmanager
    def counted():
        try:
            with begin() as session:
                yield session
        except OperationalError as error:
            waits.append(error)
            raise

    return counted, waits


@pytest.mark.parametrize("are_together", [True, False])
def test_a_batch_waits_once_for_a_held_wallet_whatever_its_volume(book: Ledger, are_together: bool):
    locked, free = book.user(90 * USD), book.user(90 * USD)
    commands = [debit(user_id, USD) for _ in range(20) for user_id in (locked, free)]
    jobs = [Job(commands)] if are_together else [Job([command]) for command in commands]
    begin, waits = counting(book.database.begin)

    with wallet_held(book, locked):
        settle(begin, jobs)

    outcomes = [outcome for job in jobs for outcome in job.outcomes]
    assert {type(outcome) for outcome in outcomes[0::2]} == {Overloaded}
    assert {type(outcome) for outcome in outcomes[1::2]} == {Transaction}
    assert len(waits) == 1
    assert (book.balance(locked), book.balance(free)) == (90 * USD, 70 * USD)


def test_a_wallet_that_is_known_to_be_held_is_not_waited_for_again(book: Ledger):
    locked, free = book.user(10 * USD), book.user(10 * USD)
    jobs = [Job([debit(locked, USD)]), Job([debit(free, USD)])]
    begin, waits = counting(book.database.begin)

    with wallet_held(book, locked):
        held = held_by_others(begin, frozenset({locked, free}))
        pass_over(begin, jobs, held)

    assert (held, waits) == ({locked}, [])
    assert [type(job.outcomes[0]) for job in jobs] == [Overloaded, Transaction]


def test_nobody_is_said_to_hold_a_wallet_where_the_database_does_not_answer(book: Ledger):
    away = failing(book.database.begin, lambda _number: True)

    assert held_by_others(away, frozenset({book.user()})) == frozenset()


def test_an_atomic_batch_with_a_held_wallet_does_nothing(book: Ledger):
    locked, free = book.user(10 * USD), book.user(10 * USD)
    job = Job([debit(free, USD), debit(locked, USD)], is_atomic=True)

    with wallet_held(book, locked):
        settle(book.database.begin, [job])

    assert [type(outcome) for outcome in job.outcomes] == [Overloaded] * 2
    assert book.balance(free) == 10 * USD


def test_a_mistake_in_a_rule_fails_its_own_command_only(book: Ledger, monkeypatch):
    user_id = book.user(10 * USD)
    good, bad = debit(user_id, USD), debit(user_id, 2 * USD)
    rule = committer.ledger.RULES[type(bad)]

    def broken(open_book, command):
        if command is bad:
            raise ZeroDivisionError
        return rule(open_book, command)

    monkeypatch.setitem(committer.ledger.RULES, type(bad), broken)
    jobs = [Job([good]), Job([bad])]

    settle(book.database.begin, jobs)

    assert isinstance(jobs[0].outcomes[0], Transaction)
    assert type(jobs[1].outcomes[0]) is ServiceError
    assert book.balance(user_id) == 9 * USD


def test_an_atomic_job_with_a_refusal_leaves_nothing_behind(book: Ledger):
    user_id = book.user(10 * USD)
    job = Job([debit(user_id, 6 * USD), debit(user_id, 6 * USD)], is_atomic=True)

    settle(book.database.begin, [job])

    assert isinstance(job.outcomes[1], InsufficientFunds)
    assert book.balance(user_id) == 10 * USD


def test_a_new_wallet_that_many_replicas_credit_at_once_is_opened_once(book: Ledger):
    user_id = new_id()
    jobs = [Job([credit(user_id, USD)]) for _ in range(4)]

    with ThreadPoolExecutor(4) as replicas:
        list(replicas.map(lambda job: settle(book.database.begin, [job]), jobs))

    assert all(isinstance(job.outcomes[0], Transaction) for job in jobs)
    assert book.balance(user_id) == 4 * USD


def test_a_full_queue_refuses_at_once():
    queue = Queue(size_max=2)
    queue.put(Job([debit(new_id(), USD), debit(new_id(), USD)]))

    with pytest.raises(Overloaded):
        queue.put(Job([debit(new_id(), USD)]))


def test_a_group_is_bounded_and_keeps_the_order():
    queue = Queue(size_max=100)
    jobs = [Job([debit(new_id(), USD)] * size) for size in (2, 2, 2)]
    for job in jobs:
        queue.put(job)

    assert queue.take(batch_size=4) == jobs[:2]
    assert queue.take(batch_size=4) == jobs[2:]
    assert queue.take(batch_size=4) == []


def test_what_was_taken_from_a_full_queue_makes_room_for_as_much():
    queue = Queue(size_max=2)
    for _ in range(2):
        queue.put(Job([debit(new_id(), USD), debit(new_id(), USD)]))
        queue.take(batch_size=2)


def test_a_job_larger_than_a_group_is_carried_out_alone():
    queue = Queue(size_max=100)
    large, small = Job([debit(new_id(), USD)] * 9), Job([debit(new_id(), USD)])
    queue.put(large)
    queue.put(small)

    assert queue.take(batch_size=5) == [large]


def test_an_atomic_job_shares_its_transaction_with_nobody():
    queue = Queue(size_max=100)
    jobs = [Job([debit(new_id(), USD)], is_atomic=flag) for flag in (False, True, False)]
    for job in jobs:
        queue.put(job)

    assert [queue.take(batch_size=5) for _ in range(3)] == [[job] for job in jobs]


def test_who_gives_way_is_carried_out_alone_and_never_twice_before_somebody_else():
    queue = Queue(size_max=100)
    giving_way = [Job([debit(new_id(), USD)], gives_way=True) for _ in range(3)]
    others = [Job([debit(new_id(), USD)]) for _ in range(2)]
    queue.put(giving_way[0])
    queue.put(others[0])

    assert queue.take(batch_size=5) == [others[0]]
    queue.put(others[1])
    queue.put(giving_way[1])
    assert [queue.take(batch_size=5) for _ in range(3)] == [
        [giving_way[0]],
        [others[1]],
        [giving_way[1]],
    ]
    assert (queue.take(batch_size=5), queue.size) == ([], 0)


def test_who_gives_way_hands_in_a_few_while_others_ask_and_much_when_nobody_does(
    monkeypatch: pytest.MonkeyPatch,
):
    now_s = [100.0]
    monkeypatch.setattr(committer.time, "monotonic", lambda: now_s[0])
    queue = Queue(size_max=100)
    queue.put(Job([debit(new_id(), USD)], gives_way=True))

    assert queue.share() == committer.ALONE
    queue.put(Job([debit(new_id(), USD)]))
    assert queue.share() == committer.SHARE
    now_s[0] += committer.SHARED_FOR_S
    assert queue.share() == committer.ALONE


def test_a_committer_that_has_nothing_to_do_waits(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    class EmptyQueue(Queue):
        def take(self, batch_size: int) -> list[Job]:
            asked.append("take")
            assert len(asked) <= 2, "it spins"
            return super().take(batch_size)

        def wait(self) -> None:
            asked.append("wait")
            raise GreenletExit

    sizes = SimpleNamespace(committer_batch_size=1, committer_queue_size=1)
    monkeypatch.setattr(committer, "get_settings", lambda: sizes)
    monkeypatch.setattr(committer, "Queue", EmptyQueue)
    idle = Committer()
    idle.connection = SimpleNamespace(connected=None)
    idle.setup()

    with pytest.raises(GreenletExit):
        idle._run()

    assert asked == ["take", "wait"]


def test_what_waited_past_its_deadline_is_not_begun_and_its_caller_hears_so():
    told: list[list[Outcome]] = []
    now_ms = int(time.time() * 1000)
    late, timely = (
        Job([debit(new_id(), USD)], call=CallContext(deadline_ms=at_ms), tell=told.append)
        for at_ms in (now_ms - 1, now_ms + 60_000)
    )

    assert in_time([late, timely]) == [timely]
    assert [type(outcome) for (outcome,) in told] == [DeadlineExceeded]
