"""Exports of entries: pages for RPC, and a stream for a file, in bounded memory.

python -m services.wallet.export [--user <id>] [--format jsonl|csv] > entries.jsonl
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.cursors import decode_cursor, encode_cursor
from chassis.database import connect
from chassis.settings import service_settings
from contracts.errors import NotFound
from contracts.wallet import Export, ExportedEntry, ExportPage
from services.wallet import statements
from services.wallet.reply_size import fitting

STREAM_PAGE_SIZE = 1_000

_FIELDS = tuple(ExportedEntry.model_fields)
_PAGE = text(
    "SELECT e.account_id, e.entry_number, a.user_id, a.house_name AS house_account,"
    " e.transaction_id, e.kind, e.amount_micros, e.balance_after_micros, t.description,"
    " t.metadata, e.effective_at, e.recorded_at, t.corrects_transaction_id, t.caller"
    " FROM entries AS e JOIN accounts AS a ON a.account_id = e.account_id"
    " JOIN transactions AS t ON t.transaction_id = e.transaction_id"
    " WHERE (e.account_id, e.entry_number) > (:account_id, :entry_number)"
    " AND e.account_id <= :last_account_id"
    " ORDER BY e.account_id, e.entry_number LIMIT :limit"
)
_LAST_ACCOUNT_ID = 2**63 - 1


def page(session: Session, request: Export) -> ExportPage:
    """A page of entries, oldest first within an account. Raises ``NotFound``, ``BadRequest``."""
    place, last_account_id = (0, 0), _LAST_ACCOUNT_ID
    if request.user_id is not None:
        account_id = statements.get_wallet(session, request.user_id).account_id
        place, last_account_id = (account_id, 0), account_id
    if request.cursor:
        account_id, entry_number = decode_cursor(request.cursor, int, int)
        place = max(place, (account_id, entry_number))
    rows = _rows(session, place, last_account_id, request.limit + 1)
    shown = fitting(rows, [row["metadata"] for row in rows], request.limit)
    entries = [ExportedEntry.model_validate(row) for row in shown]
    next_cursor = None
    if len(rows) > len(shown):
        next_cursor = encode_cursor(entries[-1].account_id, entries[-1].entry_number)
    return ExportPage(entries=entries, next_cursor=next_cursor)


def _rows(
    session: Session, place: tuple[int, int], last_account_id: int, limit: int
) -> list[dict[str, Any]]:
    account_id, entry_number = (min(number, _LAST_ACCOUNT_ID) for number in place)
    result = session.execute(
        _PAGE,
        {
            "account_id": account_id,
            "entry_number": entry_number,
            "last_account_id": last_account_id,
            "limit": limit,
        },
    )
    return [dict(row) for row in result.mappings()]


def stream(session: Session, user_id: UUID | None = None) -> Iterator[ExportedEntry]:
    """All entries of one user's account, or of all accounts. Raises ``NotFound``."""
    cursor = None
    while True:
        request = Export(user_id=user_id, cursor=cursor, limit=STREAM_PAGE_SIZE)
        chunk = page(session, request)
        yield from chunk.entries
        cursor = chunk.next_cursor
        if cursor is None:
            return


def write_jsonl(entries: Iterator[ExportedEntry], out: TextIO) -> None:
    """One JSON object in each line."""
    out.writelines(entry.model_dump_json() + "\n" for entry in entries)


def write_csv(entries: Iterator[ExportedEntry], out: TextIO) -> None:
    """A header and one line for each entry; the metadata is JSON in its column."""
    writer = csv.writer(out)
    writer.writerow(_FIELDS)
    for entry in entries:
        values = entry.model_dump(mode="json")
        values["metadata"] = json.dumps(values["metadata"], ensure_ascii=False)
        writer.writerow([_cell(values[name]) for name in _FIELDS])


def _cell(value: object) -> object:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m services.wallet.export")
    parser.add_argument("--user", type=UUID, help="only this user's account")
    parser.add_argument("--format", choices=("jsonl", "csv"), default="jsonl")
    options = parser.parse_args(arguments)
    write = write_csv if options.format == "csv" else write_jsonl
    database = connect(service_settings().database_url, pool_size=1)
    with database.snapshot() as session:
        try:
            write(stream(session, options.user), sys.stdout)
        except NotFound as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
