"""Batches that come in one call: carried out whole or in part, rehearsed, or refused unread."""

from collections.abc import Sequence

from chassis.identifiers import new_id
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
    return batches.post(submit_all, PostBatch(commands=on_the_wire, **how))


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
