"""The chain's text of a transaction is JSON with sorted keys, whatever stands in it."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import column, select, table

from contracts.wallet import Adjust, Refund
from services.wallet import chain
from services.wallet.models import EntryRow, TransactionRow
from tests.wallet.conftest import NOON, USD, Ledger, debit

CHAIN = table("chain", column("position"), column("digest"))

# PostgreSQL's text has no NUL, and its JSON no lone surrogates.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
words = texts.map(lambda text: f"x{text}x")
notes = st.dictionaries(words, texts, max_size=3)
pasts = st.none() | st.timedeltas(timedelta(0), timedelta(days=400)).map(lambda ago: NOON - ago)


def moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds")


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(description=words, metadata=notes, effective_at=pasts)
def test_a_link_is_the_hash_of_the_one_before_and_of_sorted_json(
    own_book: Ledger, description: str, metadata: dict[str, str], effective_at: datetime | None
) -> None:
    user_id = own_book.user(10 * USD)
    taken = own_book.transaction(
        debit(user_id, 2 * USD, description=description, metadata=metadata,
              effective_at=effective_at)
    )  # fmt: skip
    key = str(taken.transaction_id)
    own_book.do(
        Refund(idempotency_key=f"refund:{key}", user_id=user_id, description=description,
               transaction_id=taken.transaction_id, amount_micros=USD)
    )  # fmt: skip
    own_book.do(
        Adjust(idempotency_key=f"adjust:{key}", user_id=user_id, amount_micros=-1,
               reason=description, actor="a person", metadata=metadata)
    )  # fmt: skip
    newest_first = select(CHAIN.c.position, CHAIN.c.digest).order_by(CHAIN.c.position.desc())
    with own_book.session() as session:
        place, before = session.execute(newest_first.limit(1)).one_or_none() or (0, bytes(32))
    chain.seal(own_book.database)

    with own_book.session() as session:
        links = session.execute(
            select(TransactionRow, CHAIN.c.digest)
            .join(CHAIN, CHAIN.c.position == TransactionRow.position)
            .where(TransactionRow.position > place)
            .order_by(TransactionRow.position)
        ).all()
        assert len(links) == 4
        for row, digest in links:
            entries = session.scalars(
                select(EntryRow)
                .where(EntryRow.transaction_id == row.transaction_id)
                .order_by(EntryRow.account_id)
            )
            content = {
                "position": row.position,
                "transaction_id": str(row.transaction_id),
                "kind": row.kind,
                "amount_micros": row.amount_micros,
                "description": row.description,
                "metadata": row.metadata_,
                "effective_at": moment(row.effective_at),
                "recorded_at": moment(row.recorded_at),
                "corrects_transaction_id": str(row.corrects_transaction_id or ""),
                "correction": row.correction or "",
                "entries": [
                    [e.account_id, e.entry_number, e.amount_micros, e.balance_after_micros]
                    for e in entries
                ],
            }
            if row.caller is not None:
                content["caller"] = row.caller
            text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            before = hashlib.sha256(bytes(before) + text.encode()).digest()
            assert bytes(digest) == before, text
