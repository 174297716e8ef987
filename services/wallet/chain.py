"""A tamper-evident chain over the transactions, computed off the hot path.

Each link is the SHA-256 of the link before it and of one transaction with its entries; what that
is good for says :mod:`chassis.chain`.

    python -m services.wallet.chain head                   the last link, to be noted elsewhere
    python -m services.wallet.chain export > ledger.jsonl  the sealed transactions
    python -m services.wallet.chain check ledger.jsonl     needs no database; --head <digest>
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import TextClause, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from chassis import chain
from chassis.bulk import Bulk
from chassis.chain import GENESIS, Link, canonical_json, exported_line, link_digest
from chassis.database import Connected, is_held, lock_until_commit
from chassis.metrics import Gauge

GAUGES = {
    "unsealed_transactions": Gauge(
        "Transactions that have no link in the chain yet, and positions that nothing took.",
        "SELECT coalesce((SELECT max(position) FROM transactions), 0)"
        " - coalesce((SELECT max(position) FROM chain), 0)",
    ),
    "oldest_unsealed_seconds": Gauge(
        "How long the oldest of them has been there.",
        "SELECT extract(epoch FROM :now - (SELECT recorded_at FROM transactions WHERE position >"
        " coalesce((SELECT max(position) FROM chain), 0) ORDER BY position LIMIT 1))",
    ),
}
BATCH_SIZE = 200
"""Links in one transaction. Calls wait while they are computed: 5 ms, not 25."""
PAGE_SIZE = 2_000
BARRIER_TIMEOUT = "200ms"


@dataclass(frozen=True, slots=True)
class Sealable:
    """A transaction as the chain knows it: its canonical JSON, and its link if it has one."""

    position: int
    transaction_id: str
    canonical: str
    digest: bytes | None

    def link(self, previous: bytes) -> bytes:
        """What the link of this transaction is after the one before."""
        return link_digest(previous, self.canonical)


# Everything is asked for as the text that stands in the JSON: no value is parsed only to be
# written again, which was three quarters of the time for a link.
_TEXTS = """
    SELECT t.position, t.transaction_id::text, t.kind, t.amount_micros, t.description,
        t.metadata::text,
        to_char(t.effective_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24\\:MI\\:SS.US'),
        to_char(t.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24\\:MI\\:SS.US'),
        coalesce(t.corrects_transaction_id::text, ''), coalesce(t.correction, ''), t.caller,
        (SELECT string_agg(format('[%s,%s,%s,%s%s]', e.account_id, e.entry_number,
                e.amount_micros, coalesce(e.balance_after_micros::text, 'null'),
                CASE WHEN e.kind <> t.kind THEN format(',"%s"', e.kind) END),
                ',' ORDER BY e.account_id, e.entry_number)
            FROM entries AS e WHERE e.transaction_id = t.transaction_id),
        {digest}
    FROM transactions AS t {join}
    WHERE t.position > :after AND t.position <= :until ORDER BY t.position LIMIT :limit
"""
_UNSEALED = text(_TEXTS.format(digest="NULL", join=""))
_SEALED = text(
    _TEXTS.format(
        digest="c.digest",
        # The bounds twice: else the chain is read from its beginning for each page.
        join="LEFT JOIN chain AS c"
        " ON c.position = t.position AND c.position > :after AND c.position <= :until",
    )
)


def _sealable(row: Any) -> Sealable:
    (
        position, transaction_id, kind, amount_micros, description, metadata,
        effective_at, recorded_at, corrected_id, correction, caller, entries, digest,
    ) = row  # fmt: skip
    # Links from before callers were recorded must stay as they are.
    called_by = "" if caller is None else f'"caller":{canonical_json(caller)},'
    canonical = (
        f'{{"amount_micros":{amount_micros},{called_by}"correction":"{correction}",'
        f'"corrects_transaction_id":"{corrected_id}","description":{canonical_json(description)},'
        f'"effective_at":"{effective_at}+00:00","entries":[{entries or ""}],"kind":"{kind}",'
        f'"metadata":{metadata if metadata == "{}" else canonical_json(json.loads(metadata))},'
        f'"position":{position},"recorded_at":"{recorded_at}+00:00",'
        f'"transaction_id":"{transaction_id}"}}'
    )
    return Sealable(position, transaction_id, canonical, digest and bytes(digest))


def _page(
    session: Session, query: TextClause, after: int, until: int, limit: int
) -> list[Sealable]:
    rows = session.execute(query, {"after": after, "until": until, "limit": limit})
    return [_sealable(row) for row in rows]


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
    lock_until_commit(session, "wallet.ledger")
    last = session.scalar(text("SELECT coalesce(max(position), 0) FROM transactions"))
    return int(last or 0)


def seal(database: Connected) -> int:
    """Link every settled transaction to the chain; the number of new links.

    0 also where somebody writes for long; the next call comes through.
    """
    if not is_any_unsealed(database):
        return 0
    try:
        with database.begin() as session:
            until = settled_position(session)
    except OperationalError as error:
        if not is_held(error):
            raise
        return 0
    sealed = 0
    while True:
        with database.begin() as session:
            count = _seal_batch(session, until)
        sealed += count
        if count < BATCH_SIZE:
            return sealed


def is_any_unsealed(database: Connected) -> bool:
    """Whether a transaction has come after the last link: asked without holding anybody up."""
    with database.read() as session:
        last = session.scalar(text("SELECT max(position) FROM transactions"))
        return (last or 0) > head(session).position


_LINK = Bulk(
    "INSERT INTO chain ({columns}) SELECT * FROM {rows}", position="bigint", digest="bytea"
)


def _seal_batch(session: Session, until: int) -> int:
    last = head(session)
    page = _page(session, _UNSEALED, last.position, until, BATCH_SIZE)
    if not page:
        return 0
    links: list[tuple[int, bytes]] = []
    digest = last.digest
    for sealable in page:
        digest = sealable.link(digest)
        links.append((sealable.position, digest))
    _LINK.execute(session, links)
    return len(page)


def _sealed(session: Session, until: int, after: int = 0) -> Iterator[Sealable]:
    """All transactions after one position and up to another, with the links that they have."""
    position = after
    while page := _page(session, _SEALED, position, until, PAGE_SIZE):
        yield from page
        position = page[-1].position


class Stretch(NamedTuple):
    """The links after the first of two, up to the second. Who finds all stretches of a chain
    right, each from the link that the one before ends with, has found the chain right."""

    first: Link
    last: Link


_LINK_BEFORE = text(
    "SELECT position, digest FROM chain WHERE position <= :position ORDER BY position DESC LIMIT 1"
)


def stretches(session: Session, count: int) -> list[Stretch]:
    """The whole chain in ``count`` stretches about as long as each other, or fewer."""
    last = head(session)
    positions = (last.position * number // count for number in range(1, count))
    rows = (session.execute(_LINK_BEFORE, {"position": at}).one_or_none() for at in positions)
    between = [Link(row.position, bytes(row.digest)) for row in rows if row]
    links = sorted({Link(0, GENESIS), *between, last}, key=lambda link: link.position)
    return [Stretch(*pair) for pair in pairwise(links)]


def first_difference(session: Session, stretch: Stretch | None = None) -> tuple[str | None, int]:
    """The first transaction whose link is not what it should be, and how many were looked at."""
    link, last = stretch or Stretch(Link(0, GENESIS), head(session))
    looked_at = 0
    for sealable in _sealed(session, last.position, link.position):
        link = Link(sealable.position, sealable.link(link.digest))
        if sealable.digest != link.digest:
            return (
                f"the chain breaks at transaction {sealable.transaction_id}"
                f" (position {sealable.position}): it, or one before it, was changed,"
                " added or removed after it was sealed"
            ), looked_at
        looked_at += 1
    if link.position != last.position:
        return f"the chain ends at position {last.position}, where no transaction is", looked_at
    return None, looked_at


def lines(session: Session) -> Iterator[str]:
    """The sealed transactions as lines of JSON, each with its link."""
    for sealable in _sealed(session, head(session).position):
        yield exported_line(sealable.canonical, sealable.digest or b"")


def check_lines(exported: Iterable[str], noted_head: bytes = GENESIS) -> tuple[str | None, Link]:
    """Check an export without a database: :func:`chassis.chain.check_lines`."""
    return chain.check_lines(exported, _flaw, noted_head)


def _flaw(content: Mapping[str, Any]) -> str | None:
    total_micros = sum(amount for _, _, amount, *_ in content["entries"])
    return "its entries do not sum to zero" if total_micros else None


def main(arguments: list[str] | None = None) -> int:
    """See the module; 0 when all is well, 1 at a difference."""
    return chain.command("python -m services.wallet.chain", arguments, head, lines, _flaw)


if __name__ == "__main__":
    sys.exit(main())
