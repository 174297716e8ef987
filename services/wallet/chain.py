"""A tamper-evident chain over the transactions, computed off the hot path.

Each link is the SHA-256 of the link before it and of one transaction with its entries. Whoever
changes, adds or removes a sealed transaction, even as the database's owner, must compute every
later link anew, and then the head is not the one that was noted elsewhere.

    python -m services.wallet.chain head                   the last link, to be noted elsewhere
    python -m services.wallet.chain export > ledger.jsonl  the sealed transactions
    python -m services.wallet.chain check ledger.jsonl     needs no database; --head <digest>
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg2 import errorcodes
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.database import Connected, connect
from chassis.settings import service_settings

GENESIS = bytes(32)
BATCH_SIZE = 200
"""Links in one transaction. Calls wait while they are computed: 5 ms, not 25."""
PAGE_SIZE = 2_000
BARRIER_TIMEOUT = "200ms"

Content = dict[str, Any]


@dataclass(frozen=True)
class Link:
    """One transaction's place in the chain. Position 0 stands before the first."""

    position: int
    digest: bytes


def link_digest(previous: bytes, content: Content) -> bytes:
    """SHA-256 of the link before and the canonical JSON of a transaction."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(previous + canonical.encode()).digest()


_CONTENTS = text(
    "SELECT t.position, t.transaction_id, t.kind, t.amount_micros, t.description, t.metadata,"
    " t.effective_at, t.recorded_at, t.corrects_transaction_id, t.correction,"
    " (SELECT json_agg(json_build_array(e.account_id, e.entry_number, e.amount_micros,"
    " e.balance_after_micros) ORDER BY e.account_id) FROM entries AS e"
    " WHERE e.transaction_id = t.transaction_id) AS entries, c.digest"
    # The bounds twice: else the chain is read from its beginning for each page.
    " FROM transactions AS t LEFT JOIN chain AS c"
    " ON c.position = t.position AND c.position > :after AND c.position <= :until"
    " WHERE t.position > :after AND t.position <= :until ORDER BY t.position LIMIT :limit"
)


def _content(row: Any) -> Content:
    return {
        "position": row.position,
        "transaction_id": str(row.transaction_id),
        "kind": row.kind,
        "amount_micros": row.amount_micros,
        "description": row.description,
        "metadata": row.metadata,
        "effective_at": _moment(row.effective_at),
        "recorded_at": _moment(row.recorded_at),
        "corrects_transaction_id": str(row.corrects_transaction_id or ""),
        "correction": row.correction or "",
        "entries": row.entries or [],
    }


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def _page(session: Session, after: int, until: int, limit: int) -> list[tuple[Content, Any]]:
    rows = session.execute(_CONTENTS, {"after": after, "until": until, "limit": limit})
    return [(_content(row), row.digest) for row in rows]


def head(session: Session) -> Link:
    """The last link."""
    query = text("SELECT position, digest FROM chain ORDER BY position DESC LIMIT 1")
    row = session.execute(query).one_or_none()
    return Link(row.position, bytes(row.digest)) if row else Link(0, GENESIS)


def settled_position(session: Session) -> int:
    """The last position below which no transaction is still on its way.

    For a moment this waits until nobody writes: every writer shares the lock. If that takes
    longer than 0.2 s it gives up, so that it never holds writers up for long.
    """
    session.execute(text(f"SET LOCAL lock_timeout = '{BARRIER_TIMEOUT}'"))
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('wallet.ledger', 0))"))
    last = session.scalar(text("SELECT coalesce(max(position), 0) FROM transactions"))
    return int(last or 0)


def seal(database: Connected) -> int:
    """Link every settled transaction to the chain; the number of new links.

    0 also where somebody writes for long; the next call comes through.
    """
    try:
        with database.begin() as session:
            until = settled_position(session)
    except OperationalError as error:
        if getattr(error.orig, "pgcode", None) != errorcodes.LOCK_NOT_AVAILABLE:
            raise
        return 0
    sealed = 0
    while True:
        with database.begin() as session:
            count = _seal_batch(session, until)
        sealed += count
        if count < BATCH_SIZE:
            return sealed


_LINK = Bulk(
    "INSERT INTO chain ({columns}) SELECT * FROM {rows}", position="bigint", digest="bytea"
)


def _seal_batch(session: Session, until: int) -> int:
    last = head(session)
    page = _page(session, last.position, until, BATCH_SIZE)
    if not page:
        return 0
    links: list[tuple[int, bytes]] = []
    digest = last.digest
    for content, _ in page:
        digest = link_digest(digest, content)
        links.append((content["position"], digest))
    _LINK.execute(session, links)
    return len(page)


def first_difference(session: Session) -> tuple[str | None, int]:
    """The first transaction whose link is not what it should be, and how many were looked at."""
    last = head(session)
    looked_at = 0
    position, digest = 0, GENESIS
    while page := _page(session, position, last.position, PAGE_SIZE):
        for content, found in page:
            digest = link_digest(digest, content)
            if found is None or bytes(found) != digest:
                return (
                    f"the chain breaks at transaction {content['transaction_id']}"
                    f" (position {content['position']}): it, or one before it, was changed,"
                    " added or removed after it was sealed"
                ), looked_at
            looked_at += 1
        position = page[-1][0]["position"]
    if position != last.position:
        return f"the chain ends at position {last.position}, where no transaction is", looked_at
    return None, looked_at


def lines(session: Session) -> Iterator[str]:
    """The sealed transactions as lines of JSON, each with its link."""
    last = head(session)
    position = 0
    while page := _page(session, position, last.position, PAGE_SIZE):
        for content, digest in page:
            yield json.dumps({"content": content, "digest": bytes(digest or b"").hex()})
        position = page[-1][0]["position"]


def check_lines(exported: Iterable[str], noted_head: bytes = GENESIS) -> tuple[str | None, Link]:
    """Check an export without a database: the first difference, and the last right link.

    ``noted_head`` is a link that was noted elsewhere; what was sealed after it may follow it.
    """
    link = Link(0, GENESIS)
    is_noted_found = noted_head == GENESIS
    for number, line in enumerate(exported, start=1):
        try:
            record = json.loads(line)
            content, digest = record["content"], bytes.fromhex(record["digest"])
            position, entries = content["position"], content["entries"]
            total_micros = sum(amount for _, _, amount, _ in entries)
        except (ValueError, KeyError, TypeError):
            return f"line {number} is not a line of an export", link
        if link_digest(link.digest, content) != digest:
            return f"the chain breaks at line {number}, position {position}", link
        if total_micros != 0:
            return f"the entries of line {number} do not sum to zero", link
        link = Link(position, digest)
        is_noted_found = is_noted_found or digest == noted_head
    if link.position == 0:
        return "there is no line of an export", link
    if not is_noted_found:
        return "the chain holds, and yet the link that was noted is not in it", link
    return None, link


def main(arguments: list[str] | None = None) -> int:
    """See the module; 0 when all is well, 1 at a difference."""
    parser = argparse.ArgumentParser(prog="python -m services.wallet.chain")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("head", help="print the last link")
    actions.add_parser("export", help="write the sealed transactions as lines of JSON")
    check = actions.add_parser("check", help="check an export, without a database")
    check.add_argument("file", type=Path)
    check.add_argument(
        "--head", type=bytes.fromhex, default=GENESIS, help="a head as it was noted elsewhere"
    )
    options = parser.parse_args(arguments)
    if options.action == "check":
        return _check(options.file, options.head)
    database = connect(service_settings().database_url, pool_size=1)
    with database.snapshot() as session:
        if options.action == "head":
            last = head(session)
            print(last.position, last.digest.hex())
        else:
            for line in lines(session):
                print(line)
    return 0


def _check(file: Path, noted_head: bytes) -> int:
    with file.open() as exported:
        difference, last = check_lines(exported, noted_head)
    print(difference or f"The chain holds up to position {last.position}: {last.digest.hex()}")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
