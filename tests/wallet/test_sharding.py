"""What docs/growth.md says of a ledger over several databases, held against the tables."""

from pathlib import Path

from sqlalchemy import text

from tests.wallet.conftest import Ledger

PAGE = Path("docs/growth.md")
# Rows of them are few, or go after days.
SMALL = {"alembic_version", "inbox", "outbox", "verifications", "adjustments"}
_UNIQUE = text(
    "SELECT c.relname AS table_name, i.relname AS index_name,"
    " EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid"
    "   AND a.attnum = ANY(x.indkey) AND a.attname = 'account_id') AS has_account"
    " FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indrelid"
    " JOIN pg_class AS i ON i.oid = x.indexrelid"
    " WHERE x.indisunique AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"
)


def test_the_page_names_each_unique_key_without_an_account(own_book: Ledger):
    with own_book.session() as session:
        rows = [row for row in session.execute(_UNIQUE) if row.table_name not in SMALL]

    without = {f"`{row.table_name}`: `{row.index_name}`" for row in rows if not row.has_account}
    named = {line[2:] for line in PAGE.read_text().splitlines() if line.startswith("- `")}
    assert without == named


def test_every_row_that_is_locked_to_post_is_an_accounts(own_book: Ledger):
    """A house account has no balance: nothing that all postings would wait for."""
    with own_book.session() as session:
        assert session.scalar(text("SELECT count(*) FROM balances WHERE account_id < 1000")) == 0
