"""Batches that come in one call: carried out whole or in part, rehearsed, or refused unread."""

from collections.abc import Sequence

import pytest

from chassis.identifiers import new_id
from contracts.errors import Overloaded
from contracts.messages import Command
from contracts.wallet import BatchCommand, BatchOutcome, PostBatch, Transaction
from services.wallet import batches
from services.wallet.committer import Job, settle
from services.wallet.ledger import Outcome
from tests.wallet.conftest import USD, Ledger, debit


def post(book: Ledger, *commands: Command[Transaction] | BatchCommand, **how: bool) -> BatchOutcome:
    """As the committer would."""

    def submit_all(readable: Sequence[Command[Transaction]], **how: bool) -> list[Outcome]:
        job = Job(readable, **how)
        settle(book.database.begin, [job])
        return job.outcomes

    on_the_wire = [
        command if isinstance(command, BatchCommand) else BatchCommand.of(command)
        for command in commands
    ]
    return batches.post(submit_all, PostBatch(commands=on_the_wire, **how), lambda: SHARE)


SHARE = 10


def codes(outcome: BatchOutcome) -> list[str | None]:
    return [result.error.code if result.error else None for result in outcome.results]


UNREADABLE = BatchCommand(method="debit", arguments={"user_id": "nobody"})


def test_an_atomic_batch_that_nothing_speaks_against_is_carried_out(book: Ledger):
    user_id = book.user(10 * USD)

    outcome = post(book, debit(user_id, USD), debit(user_id, 2 * USD), atomic=True)

    assert (outcome.applied, codes(outcome)) == (True, [None, None])
    assert [result.reply["amount_micros"] for result in outcome.results if result.reply] == [
        -USD,
        -2 * USD,
    ]
    assert book.balance(user_id) == 7 * USD


def test_an_atomic_batch_with_a_command_that_cannot_be_read_changes_nothing(book: Ledger):
    user_id = book.user(10 * USD)

    outcome = post(book, debit(user_id, USD), UNREADABLE, atomic=True)

    assert (outcome.applied, codes(outcome)) == (False, [None, "bad_request"])
    assert outcome.results[0].reply is None
    assert book.balance(user_id) == 10 * USD


def test_of_commands_that_cannot_be_read_the_ledger_hears_nothing():
    def submit_all(*_commands: object, **_how: bool) -> list[Outcome]:
        raise AssertionError("there was nothing to carry out")

    outcome = batches.post(submit_all, PostBatch(commands=[UNREADABLE]))

    assert codes(outcome) == ["bad_request"]


def test_a_command_that_no_batch_can_hold_is_refused_by_its_name(book: Ledger):
    user_id = book.user(10 * USD)
    question = BatchCommand(method="get_wallet", arguments={"user_id": str(new_id())})

    outcome = post(book, question, debit(user_id, USD))

    assert codes(outcome) == ["bad_request", None]
    error = outcome.results[0].error
    assert error is not None
    assert error.details == ["method"]
    assert book.balance(user_id) == 9 * USD


def test_a_rehearsed_batch_with_a_refusal_says_what_each_would_have_come_to(book: Ledger):
    user_id = book.user(10 * USD)

    outcome = post(book, debit(user_id, 6 * USD), debit(user_id, 6 * USD), dry_run=True)

    assert (outcome.applied, codes(outcome)) == (False, [None, "insufficient_funds"])
    assert book.balance(user_id) == 10 * USD


@pytest.mark.parametrize("count", [1, SHARE, SHARE + 1, 3 * SHARE])
def test_a_batch_that_gives_way_is_handed_in_a_few_at_a_time_and_answered_in_its_order(
    book: Ledger, count: int
):
    user_id = book.user(1_000 * USD)
    handed_in: list[int] = []

    def submit_all(some: Sequence[Command[Transaction]], **how: bool) -> list[Outcome]:
        # Whoever asks for something now is behind these alone.
        handed_in.append(len(some))
        return book.post(*some)

    commands = [BatchCommand.of(debit(user_id, number)) for number in range(1, count + 1)]
    request = PostBatch(commands=[*commands, UNREADABLE], gives_way=True)
    outcome = batches.post(submit_all, request, lambda: SHARE)

    assert codes(outcome) == [*[None] * count, "bad_request"]
    amounts = [each.reply["amount_micros"] for each in outcome.results if each.reply]
    assert amounts == [-number for number in range(1, count + 1)]
    assert (sum(handed_in), max(handed_in)) == (count, min(count, SHARE))
    assert outcome.applied


@pytest.mark.parametrize("how", [{"atomic": True, "gives_way": True}, {"dry_run": True}, {}])
def test_what_is_all_or_none_or_gives_no_way_is_handed_in_as_a_whole(
    book: Ledger, how: dict[str, bool]
):
    user_id, handed_in = book.user(1_000 * USD), []

    def submit_all(some: Sequence[Command[Transaction]], **_how: bool) -> list[Outcome]:
        handed_in.append(len(some))
        return book.post(*some)

    commands = [BatchCommand.of(debit(user_id, 1)) for _ in range(2 * SHARE)]
    batches.post(submit_all, PostBatch(commands=commands, **how), lambda: SHARE)

    assert handed_in == [2 * SHARE]


def test_how_much_is_handed_in_next_is_asked_each_time(book: Ledger):
    user_id, handed_in, shares = book.user(1_000 * USD), [], iter((2, 5, 100, 100))

    def submit_all(some: Sequence[Command[Transaction]], **how: bool) -> list[Outcome]:
        assert how["gives_way"]
        handed_in.append(len(some))
        return book.post(*some)

    commands = [BatchCommand.of(debit(user_id, 1)) for _ in range(20)]
    request = PostBatch(commands=commands, gives_way=True)
    batches.post(submit_all, request, lambda: next(shares))

    assert handed_in == [2, 5, 13]


def test_a_rehearsal_that_gives_way_leaves_nothing_behind(book: Ledger):
    user_id = book.user(100 * USD)

    commands = [debit(user_id, USD) for _ in range(SHARE + 1)]
    outcome = post(book, *commands, dry_run=True, gives_way=True)

    assert (outcome.applied, codes(outcome)) == (False, [None] * (SHARE + 1))
    assert book.balance(user_id) == 100 * USD


def test_where_too_much_waits_already_what_was_done_before_is_told(book: Ledger):
    user_id, calls = book.user(1_000 * USD), []

    def submit_all(some: Sequence[Command[Transaction]], **_how: bool) -> list[Outcome]:
        calls.append(len(some))
        if len(calls) == 2:
            raise Overloaded("Too many commands wait here; nothing was done.")
        return book.post(*some)

    commands = [BatchCommand.of(debit(user_id, USD)) for _ in range(2 * SHARE + 1)]
    request = PostBatch(commands=commands, gives_way=True)
    outcome = batches.post(submit_all, request, lambda: SHARE)

    assert codes(outcome) == [*[None] * SHARE, *["overloaded"] * SHARE, None]
    assert book.balance(user_id) == (1_000 - SHARE - 1) * USD
