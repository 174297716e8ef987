#!/usr/bin/env bash
# A row that is locked is read, and what was read is thrown away.
#
# session.get(Row, key, with_for_update=True) is how one takes a row before changing it. One would
# expect the object to hold what the row holds now that it is locked: the statement that locks it
# also selects all columns.
#
# What happens: where the session has seen the row before, the statement is sent, and the object
# keeps its old values. Whoever decides by them decides by what was there before the lock was
# waited for, and writes over what another transaction committed meanwhile. With
# populate_existing=True the object is as the row is.
#
# SQLite stands in for a server here: it has no FOR UPDATE, which SQLAlchemy then leaves out, and
# whether an object is refreshed does not depend on the database.
#
# Seen with SQLAlchemy 2.1.9 on Python 3.11. Output:
#   selects sent by get with_for_update: 1
#   balance in the row: 5, in the object: 100
#   with populate_existing: 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check sqlalchemy==2.1.9
"$folder/venv/bin/python" - "$folder/rows.sqlite" <<'PYTHON'
import sys

from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Wallet(Base):
    __tablename__ = "wallets"
    wallet_id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


engine = create_engine(f"sqlite:///{sys.argv[1]}")
Base.metadata.create_all(engine)
with Session(engine) as session, session.begin():
    session.add(Wallet(wallet_id=1, balance=100))

selects = []
event.listen(
    engine,
    "before_cursor_execute",
    lambda _c, _cursor, sql, *_: selects.append(sql) if sql.startswith("SELECT") else None,
)
with Session(engine, expire_on_commit=False) as session:
    wallet = session.get(Wallet, 1)
    session.commit()
    with engine.begin() as another:
        another.execute(text("UPDATE wallets SET balance = 5"))
    selects.clear()
    locked = session.get(Wallet, 1, with_for_update=True)
    kept, sent = locked.balance, len(selects)
    row = session.execute(text("SELECT balance FROM wallets")).scalar_one()
    fresh = session.get(Wallet, 1, with_for_update=True, populate_existing=True).balance
print(f"selects sent by get with_for_update: {sent}")
print(f"balance in the row: {row}, in the object: {kept}")
print(f"with populate_existing: {fresh}")
sys.exit((sent, row, kept, fresh) != (1, 5, 100, 5))
PYTHON
