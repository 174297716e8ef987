"""What is asked of the ledger all the time is found by an index, however much was written down.

The ledger has 100,000 entries here, from which on PostgreSQL prefers reading a table as a whole
where it has no better way; `make bench` asks the same of tens of millions.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.identifiers import new_id
from contracts.wallet import BalanceAt, DateAxis, Statement, TransactionKind
from deploy.local.postgres import Postgres
from services.wallet import chain, ledger, statements, verification
from services.wallet.book import keys
from tests.plans import Node, nodes, planned, ways
from tests.wallet.filled import FilledLedger, filled

ENTRIES = 100_000
USERS = 10_000
# Account 1005 is a user's, in the middle of none of the orders that rows were written in.
SOMEBODY = text("SELECT user_id FROM accounts WHERE account_id = 1005")


class Question(NamedTuple):
    """``ways``: how each table may be read for it, as :func:`tests.plans.ways` says it."""

    ask: Callable[[Session, UUID], object]
    ways: list[str]


def a_month_ago() -> dict[str, object]:
    return {"at": utc_now() - timedelta(days=30)}


BALANCE = ["accounts: Index Scan by accounts_user_id_key", "balances: Index Scan by balances_pkey"]
PAGE = [
    "accounts: Index Scan by accounts_user_id_key",
    "entries: Index Scan by entries_by_time",
    "transactions: Index Scan by transactions_pkey",
]
HOT = {
    "the balance": Question(statements.get_wallet, BALANCE),
    "the balances of many": Question(
        lambda session, user_id: statements.wallets(session, [user_id, new_id(), new_id()]),
        BALANCE,
    ),
    "a statement's first page": Question(
        lambda session, user_id: statements.statement(session, Statement(user_id=user_id)), PAGE
    ),
    "a page of one kind and of some weeks": Question(
        lambda session, user_id: statements.statement(
            session,
            Statement(
                user_id=user_id,
                kinds=[TransactionKind.TOPUP],
                since=utc_now() - timedelta(days=60),
                until=utc_now() - timedelta(days=30),
            ),
        ),
        PAGE,
    ),
    "the balance of a past day": Question(
        lambda session, user_id: statements.balance_at(
            session, BalanceAt(user_id=user_id, axis=DateAxis.EFFECTIVE, **a_month_ago())
        ),
        [
            *BALANCE,
            "entries: Index Scan by entries_by_time",
            "entries: Index Scan by entries_of_another_date",
        ],
    ),
    "what became of a key": Question(
        lambda session, user_id: keys.find(session, f"nobody's:{user_id}"),
        ["keys: Index Scan by keys_pkey"],
    ),
    "the last link of the chain": Question(
        lambda session, _: chain.head(session), ["chain: Index Scan by chain_pkey"]
    ),
    "a stretch of the chain, to be verified": Question(
        lambda session, _: chain._page(session, chain._SEALED, 1_000, 3_000, chain.PAGE_SIZE),
        [
            "chain: Index Scan by chain_pkey",
            "entries: Index Scan by one_entry_for_each_side",
            "transactions: Index Scan by transactions_position_key",
        ],
    ),
}


def make_known(ledger: FilledLedger) -> UUID:
    """Seal it and have the planner know its tables; whom to ask about."""
    chain.seal(ledger.database)
    with ledger.database.begin() as session:
        session.execute(text("ANALYZE"))
        user_id: UUID = session.scalar(SOMEBODY)
    return user_id


@pytest.fixture(scope="module")
def grown(postgres: Postgres) -> Iterator[FilledLedger]:
    with filled(postgres, f"plans_{new_id().hex[-12:]}", ENTRIES, USERS) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def somebody(grown: FilledLedger) -> UUID:
    return make_known(grown)


@pytest.mark.parametrize("question", HOT.values(), ids=HOT.keys())
def test_what_is_asked_all_the_time_is_found_by_an_index(
    grown: FilledLedger, somebody: UUID, question: Question
) -> None:
    with grown.database.read() as session, planned(session) as plans:
        question.ask(session, somebody)

    assert ways(plans) == sorted(question.ways)
    # A page ends where it is full: what has to be sorted first is read to its end.
    ends = (node for plan in plans for node in nodes(plan) if node["Node Type"] == "Limit")
    assert "Sort" not in {node["Node Type"] for end in ends for node in nodes(end)}


def test_whether_anything_is_unsealed_is_read_off_an_index_alone(
    grown: FilledLedger, somebody: UUID
) -> None:
    with grown.database.read() as session, planned(session) as plans:
        session.scalar(text("SELECT max(position) FROM transactions"))

    assert ways(plans) == ["transactions: Index Only Scan by transactions_position_key"]


_READ_AS_A_WHOLE = text(
    "SELECT relname FROM pg_stat_xact_user_tables WHERE seq_scan > 0 AND relname IN"
    " ('accounts', 'balances', 'entries', 'transactions', 'keys', 'levels')"
)


def test_a_posting_reads_no_table_as_a_whole(grown: FilledLedger, somebody: UUID) -> None:
    """Its questions are those of functions and triggers, whose plans nobody is shown."""
    with grown.database.begin() as session:
        ledger.post(session, utc_now(), grown.debits(20))
        by_a_posting = session.scalars(_READ_AS_A_WHOLE).all()
        session.execute(text("SELECT count(*) FROM levels"))
        and_by_us = session.scalars(_READ_AS_A_WHOLE).all()

    assert (by_a_posting, and_by_us) == ([], ["levels"])


SORTS = {"Sort", "Incremental Sort"}
GROWING = {"entries", "transactions", "keys", "chain"}


@pytest.fixture(scope="module")
def verifying(grown: FilledLedger, somebody: UUID) -> dict[str, Node]:
    """The sentence that a check of the verification begins → its plan."""
    found = {}
    with grown.database.snapshot() as session:
        for check in verification.CHECKS:
            with planned(session) as plans:
                verification.difference(session, check)
            found[check.partition("format('")[2].partition("'")[0]] = plans[-1]
    return found


def test_no_check_goes_through_what_grows_again_and_again(verifying: dict[str, Node]) -> None:
    """But for the newest entry of each of the few house accounts, which is one look."""
    loops = [
        node
        for plan in verifying.values()
        for node in nodes(plan)
        if node["Node Type"] == "Nested Loop"
    ]

    read = [way for way in ways(loops) if way.partition(":")[0] in GROWING]
    ends = (node for loop in loops for node in nodes(loop) if node["Node Type"] == "Limit")
    assert read == ["entries: Index Only Scan by entries_pkey"]
    assert read[0] in ways([below for end in ends for below in end["Plans"]])


@pytest.mark.parametrize(
    ("says", "way"),
    [
        ("does not follow from", "entries: Index Scan by entries_pkey"),
        ("balance %s, by its entries", "entries: Seq Scan"),
    ],
)
def test_what_is_read_account_by_account_is_not_sorted(
    verifying: dict[str, Node], says: str, way: str
) -> None:
    (plan,) = (plan for sentence, plan in verifying.items() if says in sentence)

    assert way in ways([plan])
    assert SORTS.isdisjoint(node["Node Type"] for node in nodes(plan))


IN_ORDER = {
    "its entries sum to": [],
    "its kind or a date": [],
    "keys lead to it": ["keys: Seq Scan"],
    "that made an entry of": ["keys: Seq Scan"],
}


@pytest.mark.parametrize(("says", "written_aside"), IN_ORDER.items(), ids=IN_ORDER)
def test_what_grows_is_compared_in_the_order_of_ids_and_only_keys_are_written_aside(
    verifying: dict[str, Node], says: str, written_aside: list[str]
) -> None:
    (plan,) = (plan for sentence, plan in verifying.items() if says in sentence)
    sorts = [node for node in nodes(plan) if node["Node Type"] in SORTS]

    assert ways(sorts) == written_aside
    assert not {"Hash", "Gather", "Gather Merge"} & {node["Node Type"] for node in nodes(plan)}
    assert len(verification.OF_EACH_TRANSACTION) == len(IN_ORDER)
