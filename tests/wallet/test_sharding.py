"""What docs/growth.md says of a ledger over several databases, held against the tables."""

from pathlib import Path

from sqlalchemy import TextClause, text

from contracts.wallet import HouseAccount, Share
from services.wallet import ledger
from tests.wallet.conftest import NOON, USD, Ledger, debit

FEES = HouseAccount.FEES
PAGE = Path("docs/growth.md")
# Rows of them are few, or go after days.
SMALL = {"alembic_version", "inbox", "outbox", "verifications", "adjustments"}
_UNIQUE = text(
    "SELECT c.relname AS table_name, i.relname AS key_name,"
    " EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid"
    "   AND a.attnum = ANY(x.indkey) AND a.attname = 'account_id') AS has_account"
    " FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indrelid"
    " JOIN pg_class AS i ON i.oid = x.indexrelid"
    " WHERE x.indisunique AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"
)
# The account of the one row has to be that of the other.
_FOREIGN = text(
    "SELECT conrelid::regclass::text AS table_name, conname AS key_name,"
    " EXISTS (SELECT FROM unnest(conkey, confkey) AS pair (ours, theirs)"
    "   JOIN pg_attribute AS o ON o.attrelid = conrelid AND o.attnum = pair.ours"
    "   JOIN pg_attribute AS t ON t.attrelid = confrelid AND t.attnum = pair.theirs"
    "   WHERE o.attname = 'account_id' AND t.attname = 'account_id') AS has_account"
    " FROM pg_constraint WHERE contype = 'f'"
)
_WALLETS = text("SELECT account_id FROM balances")
_FREE_WALLETS = text("SELECT account_id FROM balances FOR UPDATE SKIP LOCKED")
_ACCOUNTS = text("SELECT account_id FROM accounts")
# As strong as anything that is done to an account: that an entry names it keeps nobody from it.
_FREE_ACCOUNTS = text("SELECT account_id FROM accounts FOR NO KEY UPDATE SKIP LOCKED")


def named_after(begin: str) -> set[str]:
    """The keys that the page lists after the line that begins so."""
    after = PAGE.read_text().partition(begin)[2]
    listed = after.partition("\n- ")[2].partition("\n\n")[0]
    return {line.removeprefix("- ") for line in listed.splitlines()}


def without_account(book: Ledger, keys: TextClause) -> set[str]:
    with book.session() as session:
        rows = [row for row in session.execute(keys) if row.table_name not in SMALL]
    return {f"`{row.table_name}`: `{row.key_name}`" for row in rows if not row.has_account}


def test_the_page_names_each_unique_key_without_an_account(own_book: Ledger):
    assert without_account(own_book, _UNIQUE) == named_after("These unique keys")


def test_the_page_names_each_foreign_key_without_an_account(own_book: Ledger):
    assert without_account(own_book, _FOREIGN) == named_after("Nor do these foreign keys")


def test_a_sale_holds_the_wallets_of_who_pays_and_who_earns_and_no_other_row(own_book: Ledger):
    """The marketplace, which gets its fee of every sale, is nothing that all of them wait for."""
    buyer, seller, _ = (own_book.user(10 * USD) for _ in range(3))
    shares = [Share(destination=seller, amount_micros=9), Share(destination=FEES, amount_micros=1)]
    wallets, accounts = (set(_asked(own_book, query)) for query in (_WALLETS, _ACCOUNTS))

    with own_book.database.begin() as sale:
        ledger.post(sale, NOON, [debit(buyer, 10, shares=shares)])
        free_wallets = set(_asked(own_book, _FREE_WALLETS))
        free_accounts = set(_asked(own_book, _FREE_ACCOUNTS))

    paid_and_earned = {own_book.wallet(user_id).account_id for user_id in (buyer, seller)}
    assert wallets - free_wallets == paid_and_earned
    assert free_accounts == accounts


def _asked(book: Ledger, query: TextClause) -> list[int]:
    with book.session() as session:
        return list(session.scalars(query))
