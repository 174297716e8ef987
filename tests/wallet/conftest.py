"""A migrated database of the wallet, and a few ways to say what a test is about."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from contracts.errors import ServiceError
from contracts.messages import Command
from contracts.wallet import Credit, Debit, OpenAccount, Transaction, Transfer, Wallet
from deploy.local.postgres import Postgres
from services.wallet import ledger, statements
from services.wallet.ledger import Postable

USD = 1_000_000
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def wallet_database(databases: Mapping[str, str]) -> Iterator[Connected]:
    """One database for all tests of the rules: the ledger forgets nothing, users differ."""
    database = connect(databases["wallet"])
    yield database
    database.engine.dispose()


@dataclass
class Ledger:
    """The rules on a real database, one transaction for each call, with a clock by hand."""

    database: Connected
    now: datetime = NOON
    users: list[UUID] = field(default_factory=list)

    def user(self, balance_micros: int = 0) -> UUID:
        """A new user with a wallet and some money."""
        user_id = new_id()
        self.users.append(user_id)
        self.do(OpenAccount(idempotency_key=f"open:{user_id}", user_id=user_id))
        if balance_micros:
            self.do(credit(user_id, balance_micros))
        return user_id

    def post(self, *commands: Postable) -> list[ledger.Outcome]:
        with self.database.begin() as session:
            return ledger.post(session, self.now, commands)

    def do(self, command: Postable) -> ledger.Outcome:
        """Carry out one command; raises what refuses it."""
        (outcome,) = self.post(command)
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome

    def transaction(self, command: Command[Transaction]) -> Transaction:
        outcome = self.do(command)
        assert isinstance(outcome, Transaction)
        return outcome

    def wallet(self, user_id: UUID) -> Wallet:
        with self.database.read() as session:
            return statements.get_wallet(session, user_id)

    def balance(self, user_id: UUID) -> int:
        return self.wallet(user_id).balance_micros

    def later(self, **difference: float) -> None:
        self.now += timedelta(**difference)

    def events(self, user_id: UUID, event_type: str) -> list[dict[str, object]]:
        """What was put into the outbox about a user, oldest first."""
        query = text(
            "SELECT payload FROM outbox WHERE type = :type AND payload ->> 'user_id' = :user"
            " ORDER BY id"
        )
        with self.database.read() as session:
            return list(session.scalars(query, {"type": event_type, "user": str(user_id)}))

    def session(self) -> Session:
        """A bare session, for what only a wrong program would do."""
        return Session(self.database.engine)


@pytest.fixture
def book(wallet_database: Connected) -> Ledger:
    return Ledger(wallet_database)


@contextmanager
def fresh_ledger(postgres: Postgres) -> Iterator[Ledger]:
    """An empty ledger, for tests that damage it or look at all of it."""
    name = f"wallet_{new_id().hex[-12:]}"
    url = postgres.create_database(name)
    migrate("services.wallet", url)
    database = connect(url)
    yield Ledger(database)
    # It goes with the server: to drop it here would wait for a checkpoint.
    database.engine.dispose()


@pytest.fixture
def own_book(postgres: Postgres) -> Iterator[Ledger]:
    with fresh_ledger(postgres) as book:
        yield book


@contextmanager
def wallet_held(book: Ledger, user_id: UUID) -> Iterator[None]:
    """Somebody else has locked this user's wallet and does not let go."""
    with book.database.begin() as other:
        other.execute(
            text("SELECT FROM balances WHERE account_id = :id FOR UPDATE"),
            {"id": book.wallet(user_id).account_id},
        )
        yield


def credit(user_id: UUID, amount_micros: int, key: str | None = None) -> Credit:
    return Credit(
        idempotency_key=key or f"credit:{new_id()}",
        user_id=user_id,
        amount_micros=amount_micros,
        description="Top-up",
    )


def debit(user_id: UUID, amount_micros: int, key: str | None = None, **fields: Any) -> Debit:
    return Debit(
        idempotency_key=key or f"debit:{new_id()}",
        user_id=user_id,
        amount_micros=amount_micros,
        description=fields.pop("description", "VM-Production"),
        **fields,
    )


def transfer(sender: UUID, receiver: UUID, amount_micros: int, key: str | None = None) -> Transfer:
    return Transfer(
        idempotency_key=key or f"transfer:{new_id()}",
        from_user_id=sender,
        to_user_id=receiver,
        amount_micros=amount_micros,
        description="Thanks",
    )
