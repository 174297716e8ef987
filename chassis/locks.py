"""Rows that are held until the transaction ends, as they are then.

SQLAlchemy locks a row that the session has seen before, reads it, and keeps what it knew: who
decides by that writes over what others committed meanwhile. So nothing of ours locks but by these.
What was changed in the session and not written yet is written first, and stays.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session
from sqlalchemy.orm.interfaces import ORMOption

RowT = TypeVar("RowT")
SelectT = TypeVar("SelectT", bound=Select[*tuple[Any, ...]])


def locked(
    session: Session,
    table: type[RowT],
    key: Any,
    *,
    key_share: bool = False,
    options: Sequence[ORMOption] = (),
) -> RowT:
    """The row with this primary key. Raises ``NoResultFound``.

    With ``key_share`` rows of other tables may go on to refer to it.
    """
    return session.get_one(
        table,
        key,
        with_for_update={"key_share": key_share},
        populate_existing=True,
        options=options,
    )


def locked_or_none(session: Session, table: type[RowT], key: Any) -> RowT | None:
    """The same where there may be none."""
    return session.get(table, key, with_for_update=True, populate_existing=True)


def for_update(query: SelectT, **how: Any) -> SelectT:
    """A query that holds the rows that it finds; ``how`` as SQLAlchemy's ``with_for_update`` has
    it (``skip_locked``, ``of``, …)."""
    return query.with_for_update(**how).execution_options(populate_existing=True)
