"""The wallet as a process, through the real broker."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from kombu import Connection, Exchange
from nameko.exceptions import RemoteError
from nameko.standalone.rpc import ClusterRpcProxy
from pydantic import ValidationError
from sqlalchemy import text

from chassis.clock import utc_now
from chassis.database import connect
from chassis.identifiers import new_id
from contracts.errors import BadRequest, Conflict, InsufficientFunds, NotFound, Overloaded
from contracts.topup import TopupKind, TopupPaid
from contracts.wallet import (
    Adjust,
    AskVerification,
    BalanceAt,
    BatchCommand,
    Capture,
    CheckAffordability,
    CloseKey,
    DebitAll,
    DecideAdjustment,
    Export,
    Freeze,
    GetBooks,
    GetByKey,
    GetJournal,
    GetPromotions,
    GetTransaction,
    GetWallet,
    GivePromotion,
    KeyState,
    ListAdjustments,
    OpenAccount,
    PlaceHold,
    PostBatch,
    ProposeAdjustment,
    Refund,
    Reverse,
    SetLevel,
    Statement,
    Totals,
    Unfreeze,
    Verify,
    VoidHold,
)
from tests.patience import PATIENCE_S, eventually, insist
from tests.wallet.conftest import USD, credit, debit, transfer


@pytest.fixture(scope="module")
def stack(service_stack):
    return service_stack("wallet", settings={"MAX_WORKERS": "40"})


@pytest.fixture
def rpc(stack):
    return stack.rpc


def new_user(rpc, balance_micros=0):
    user_id = new_id()
    rpc.call(OpenAccount(idempotency_key=f"open:{user_id}", user_id=user_id))
    if balance_micros:
        rpc.call(credit(user_id, balance_micros))
    return user_id


def test_money_comes_in_and_goes_out(rpc):
    user_id = new_user(rpc, 25 * USD)

    rpc.call(debit(user_id, 5 * USD))

    assert rpc.call(GetWallet(user_id=user_id)).balance_micros == 20 * USD
    kinds = [t.kind for t in rpc.call(Statement(user_id=user_id)).transactions]
    assert kinds == ["purchase", "topup"]


def test_an_unknown_user_is_not_found(rpc):
    with pytest.raises(NotFound):
        rpc.call(CheckAffordability(user_id=new_id(), amount_micros=USD))


def test_fifty_debits_at_once_never_take_more_than_there_is(rpc):
    user_id = new_user(rpc, 10 * USD)

    def attempt(_):
        command = debit(user_id, USD)
        try:
            insist(lambda: rpc.call(command, timeout_s=30))
        except InsufficientFunds:
            return False
        return True

    with ThreadPoolExecutor(25) as pool:
        outcomes = list(pool.map(attempt, range(50)))

    assert outcomes.count(True) == 10
    assert rpc.call(GetWallet(user_id=user_id)).balance_micros == 0


def test_the_same_debit_from_many_callers_at_once_is_made_once(rpc):
    user_id = new_user(rpc, 10 * USD)
    command = debit(user_id, USD)

    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(lambda _: insist(lambda: rpc.call(command, timeout_s=30)), range(20))
        )

    assert len({answer.transaction_id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1


def test_each_of_several_debits_stands_by_itself(rpc):
    user_id, poor = new_user(rpc, 10 * USD), new_user(rpc, 2 * USD)
    made = debit(user_id, 4 * USD)
    first = rpc.call(made)

    outcome = rpc.call(DebitAll(debits=[made, debit(poor, 5 * USD), debit(user_id, USD)]))

    again, refused, new = outcome.results
    assert (again.transaction.transaction_id, again.transaction.replayed) == (
        first.transaction_id,
        True,
    )
    assert (refused.error.code, refused.error.details) == (
        "insufficient_funds",
        [str(2 * USD), str(3 * USD), "1"],
    )
    assert new.transaction.balance_after_micros == 5 * USD


def test_a_rehearsal_or_a_key_of_the_wallets_own_among_debits_is_refused_before_anything(rpc):
    user_id = new_user(rpc, 10 * USD)
    fine = debit(user_id, USD)
    for wrong in ({"dry_run": True}, {"idempotency_key": "topup:1"}):
        with pytest.raises(BadRequest):
            rpc.call(DebitAll(debits=[fine, fine.model_copy(update=wrong)]))

    assert rpc.call(GetWallet(user_id=user_id)).balance_micros == 10 * USD


def test_a_batch_answers_for_each_command(rpc):
    user_id, other = new_user(rpc, 10 * USD), new_user(rpc)
    commands = [
        debit(user_id, 4 * USD),
        debit(user_id, 40 * USD),
        transfer(user_id, other, 5 * USD),
    ]
    broken = BatchCommand(method="debit", arguments={"user_id": "nobody"})

    outcome = rpc.call(PostBatch(commands=[*map(BatchCommand.of, commands), broken]))

    codes = [result.error.code if result.error else None for result in outcome.results]
    assert codes == [None, "insufficient_funds", None, "bad_request"]
    assert outcome.results[2].reply["balance_after_micros"] == USD


def test_an_atomic_batch_with_a_refusal_changes_nothing(rpc):
    user_id = new_user(rpc, 10 * USD)
    commands = [debit(user_id, 4 * USD), debit(user_id, 40 * USD)]

    outcome = rpc.call(PostBatch(commands=[BatchCommand.of(c) for c in commands], atomic=True))

    assert outcome.applied is False
    assert outcome.results[1].error.code == "insufficient_funds"
    assert rpc.call(GetWallet(user_id=user_id)).balance_micros == 10 * USD


def test_a_dry_run_of_a_batch_says_in_every_reply_that_it_is_one(rpc):
    user_id = new_user(rpc, 10 * USD)
    command = BatchCommand.of(debit(user_id, 4 * USD))

    outcome = rpc.call(PostBatch(commands=[command], dry_run=True))

    assert (outcome.applied, outcome.results[0].reply["dry_run"]) == (False, True)
    assert rpc.call(GetWallet(user_id=user_id)).balance_micros == 10 * USD


def test_a_dry_run_beside_the_arguments_is_refused_and_not_dropped():
    command = {**BatchCommand.of(debit(new_id(), USD)).model_dump(), "dry_run": True}

    with pytest.raises(ValidationError, match="dry_run"):
        PostBatch.model_validate({"commands": [command]})


def test_a_key_that_is_the_wallets_own_is_refused(rpc):
    user_id = new_user(rpc, 10 * USD)
    own = debit(user_id, USD, f"topup:{new_id()}")

    with pytest.raises(BadRequest, match="wallet's own"):
        rpc.call(own)
    with pytest.raises(BadRequest, match="wallet's own"):
        rpc.call(CloseKey(idempotency_key=f"topup:{new_id()}"))
    outcome = rpc.call(PostBatch(commands=[BatchCommand.of(own)]))
    assert outcome.results[0].error.code == "bad_request"


def test_one_verification_runs_at_a_time(stack, rpc):
    database = connect(stack.database_url("wallet"))
    with database.exclusively("wallet.verification"), pytest.raises(Conflict, match="running"):
        rpc.call(Verify())
    database.engine.dispose()


def test_a_dry_run_answers_and_changes_nothing(rpc):
    user_id = new_user(rpc, 10 * USD)
    command = debit(user_id, 4 * USD, dry_run=True)

    answer = rpc.call(command)

    assert (answer.dry_run, answer.balance_after_micros) == (True, 6 * USD)
    assert rpc.call(GetWallet(user_id=user_id)).balance_micros == 10 * USD
    key = command.idempotency_key
    assert rpc.call(GetByKey(idempotency_key=key)).state is KeyState.UNUSED


def test_the_outcome_of_a_lost_answer_is_known_by_its_key(rpc):
    user_id = new_user(rpc, 10 * USD)
    answer = rpc.call(debit(user_id, USD, key=f"debit:{user_id}"))

    outcome = rpc.call(GetByKey(idempotency_key=f"debit:{user_id}"))

    assert (outcome.state, outcome.method) == (KeyState.DONE, "debit")
    assert outcome.reply == answer.model_dump(mode="json")


def test_a_batch_closes_a_key_and_what_comes_late_under_it_does_nothing(rpc):
    user_id = new_user(rpc, 10 * USD)
    late = debit(user_id, USD)
    commands = [
        CloseKey(idempotency_key=late.idempotency_key, metadata={"why": "given up"}),
        late,
        SetLevel(user_id=user_id, threshold_micros=5 * USD),
    ]

    outcome = rpc.call(PostBatch(commands=[BatchCommand.of(command) for command in commands]))

    closed, refused, level = outcome.results
    assert (closed.reply["closed"], refused.error.code) == (True, "key_closed")
    assert level.reply["threshold_micros"] == 5 * USD
    known = rpc.call(GetByKey(idempotency_key=late.idempotency_key))
    assert (known.state, known.metadata) == (KeyState.CLOSED, {"why": "given up"})


def test_a_stock_nameko_client_can_call(stack):
    user_id = str(new_id())
    with ClusterRpcProxy({"AMQP_URI": stack.vhost.admin_uri}) as services:
        services.wallet.credit(
            idempotency_key=f"credit:{user_id}",
            user_id=user_id,
            amount_micros=25 * USD,
            description="Top-up",
        )

        assert services.wallet.get_wallet(user_id=user_id)["balance_micros"] == 25 * USD


def test_a_misspelt_argument_is_named(stack):
    with (
        ClusterRpcProxy({"AMQP_URI": stack.vhost.admin_uri}) as services,
        pytest.raises(RemoteError, match="amount") as refusal,
    ):
        services.wallet.get_wallet(user_id=str(new_id()), amount=1)

    assert refusal.value.exc_type == "BadRequest"


def test_a_paid_topup_that_is_published_twice_is_credited_once(stack, rpc):
    user_id = new_id()
    event = TopupPaid(
        event_id=new_id(),
        occurred_at=utc_now(),
        user_id=user_id,
        topup_id=new_id(),
        kind=TopupKind.MANUAL,
        amount_micros=25 * USD,
        payment_id="pi_1",
    )
    with Connection(stack.vhost.uri("topup")) as connection:
        producer = connection.Producer(serializer="json")
        for _ in range(2):
            producer.publish(
                event.model_dump(mode="json"),
                exchange=Exchange("topup.events", type="topic", durable=True),
                routing_key="topup_paid",
            )

    def balance():
        try:
            return rpc.call(GetWallet(user_id=user_id)).balance_micros
        except NotFound:
            return None

    eventually(lambda: balance() == 25 * USD)
    assert len(rpc.call(Statement(user_id=user_id)).transactions) == 1


def test_every_command_answers_through_the_broker(rpc):
    user_id = new_user(rpc, 100 * USD)

    def key():
        return f"command:{new_id()}"

    who = {"reason": "Under review", "actor": "operator-7"}
    held = [
        rpc.call(
            PlaceHold(
                idempotency_key=key(), user_id=user_id, amount_micros=5 * USD, description="Hold"
            )
        )
        for _ in range(2)
    ]
    rpc.call(Capture(idempotency_key=key(), user_id=user_id, hold_id=held[0].hold_id))
    rpc.call(VoidHold(idempotency_key=key(), user_id=user_id, hold_id=held[1].hold_id))
    bought = rpc.call(debit(user_id, 10 * USD))
    mistake = rpc.call(debit(user_id, USD))
    refund = Refund(
        idempotency_key=key(),
        user_id=user_id,
        transaction_id=bought.transaction_id,
        amount_micros=4 * USD,
        description="Refund",
    )
    rpc.call(refund)
    place = {"user_id": user_id, "transaction_id": mistake.transaction_id}
    rpc.call(Reverse(idempotency_key=key(), **place, **who))
    rpc.call(Adjust(idempotency_key=key(), user_id=user_id, amount_micros=2 * USD, **who))
    rpc.call(SetLevel(user_id=user_id, threshold_micros=10 * USD))
    rpc.call(Freeze(idempotency_key=key(), user_id=user_id, **who))
    rpc.call(Unfreeze(idempotency_key=key(), user_id=user_id, **who))

    wallet = rpc.call(GetWallet(user_id=user_id))
    assert (wallet.balance_micros, wallet.held_micros) == (91 * USD, 0)


def test_every_question_answers_through_the_broker(rpc):
    user_id = new_user(rpc, 25 * USD)
    bought = rpc.call(debit(user_id, 5 * USD))
    now = utc_now()

    past = rpc.call(BalanceAt(user_id=user_id, at=now))
    exported = rpc.call(Export(user_id=user_id))
    days = rpc.call(Totals(since=now - timedelta(days=1), until=now + timedelta(days=1))).days
    same = rpc.call(GetTransaction(user_id=user_id, transaction_id=bought.transaction_id))

    assert past.balance_micros == 20 * USD
    assert [entry.amount_micros for entry in exported.entries] == [25 * USD, -5 * USD]
    assert any(day.kind == "purchase" for day in days)
    assert same == bought.model_copy(update={"caller": "mycelium_admin"})


def test_verification_answers_through_the_broker(rpc):
    verdict = rpc.call(Verify())

    assert verdict.first_difference is None


def test_a_hold_expires_by_itself(rpc):
    user_id = new_user(rpc, 10 * USD)
    rpc.call(
        PlaceHold(
            idempotency_key=f"hold:{user_id}",
            user_id=user_id,
            amount_micros=5 * USD,
            expires_in_s=1,
            description="Reservation",
        )
    )

    eventually(lambda: rpc.call(GetWallet(user_id=user_id)).held_micros == 0)


def test_the_chain_is_sealed_by_itself(rpc):
    new_user(rpc, 10 * USD)

    def is_sealed():
        verdict = rpc.call(Verify())
        return verdict.sealed_count == verdict.transaction_count

    eventually(is_sealed, interval_s=1)


def test_a_held_wallet_keeps_no_other_waiting_however_much_is_asked_of_it(stack, rpc):
    held, free = new_user(rpc, 100 * USD), new_user(rpc, 100 * USD)
    database = connect(stack.database_url("wallet"))
    hold = text(
        "SELECT FROM balances JOIN accounts USING (account_id) WHERE user_id = :user"
        " FOR UPDATE OF balances"
    )

    def ask(user_id):
        try:
            return type(rpc.call(debit(user_id, USD), timeout_s=PATIENCE_S))
        except Overloaded:
            return Overloaded

    with database.begin() as other, ThreadPoolExecutor(30) as pool:
        other.execute(hold, {"user": held})
        refused = pool.map(ask, [held] * 100)
        paid = [rpc.call(debit(free, USD), timeout_s=PATIENCE_S) for _ in range(20)]
        refusals = set(refused)
    database.engine.dispose()

    assert (len(paid), refusals) == (20, {Overloaded})
    assert rpc.call(GetWallet(user_id=held)).balance_micros == 100 * USD


def test_a_statement_tells_what_is_promotional_where_it_is_asked_to(rpc):
    user_id = new_user(rpc, 25 * USD)
    rpc.call(
        GivePromotion(
            idempotency_key=f"gift:{user_id}",
            user_id=user_id,
            amount_micros=5 * USD,
            reason="Case 17",
            expires_at=utc_now() + timedelta(days=1),
            given_by=new_id(),
        )
    )

    plain = rpc.call(Statement(user_id=user_id))
    whole = rpc.call(Statement(user_id=user_id, with_promotions=True))

    assert plain.promotions is None
    assert whole.transactions == plain.transactions
    assert whole.promotions == rpc.call(GetPromotions(user_id=user_id)).promotions
    assert [each.left_micros for each in whole.promotions] == [5 * USD]


def test_finance_corrects_gives_and_reads_through_the_broker(rpc):
    user_id, ann, bob = new_user(rpc, 25 * USD), new_id(), new_id()
    key = {"idempotency_key": f"finance:{user_id}"}
    fields = {"user_id": user_id, "amount_micros": 5 * USD, "reason": "Case 17"}
    day = utc_now().date()

    asked = rpc.call(AskVerification(**key, asked_by=ann))
    proposed = rpc.call(ProposeAdjustment(**key, **fields, proposed_by=ann))
    decision = {"adjustment_id": proposed.adjustment_id, "is_approved": True, "reason": "Seen"}
    with pytest.raises(Conflict):
        rpc.call(DecideAdjustment(**key, **decision, decided_by=ann))
    rpc.call(DecideAdjustment(**key, **decision, decided_by=bob))
    ends_at = utc_now() + timedelta(seconds=1)
    rpc.call(GivePromotion(**key, **fields, given_by=ann, expires_at=ends_at))
    given = rpc.call(GetWallet(user_id=user_id)).balance_micros
    journal = rpc.call(GetJournal(since=day, until=day + timedelta(days=2))).lines
    books = rpc.call(GetBooks())

    assert given == 35 * USD
    assert {line.kind for line in journal} >= {"adjustment", "promotion"}
    assert books.difference_micros == 0
    eventually(lambda: rpc.call(GetWallet(user_id=user_id)).balance_micros == 30 * USD)
    assert rpc.call(GetPromotions(user_id=user_id)).promotions == []
    assert proposed.adjustment_id in {
        each.adjustment_id for each in rpc.call(ListAdjustments()).adjustments
    }
    eventually(
        lambda: any(
            each.verification_id == asked.verification_id and each.clean
            for each in rpc.call(GetBooks()).verifications
        )
    )
