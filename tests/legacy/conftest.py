"""The old system's service on a real database, and beside a real wallet."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from chassis.database import Connected, connect

TABLES = "plans, lines, moves, outbox, inbox"


@pytest.fixture(scope="session")
def legacy_database(databases: dict[str, str]) -> Iterator[Connected]:
    database = connect(databases["legacy"], pool_size=8)
    yield database
    database.engine.dispose()


@pytest.fixture
def database(legacy_database: Connected) -> Connected:
    with legacy_database.begin() as session:
        session.execute(text(f"TRUNCATE {TABLES}"))
    return legacy_database


def user(
    email: str, balance: str, *more: str, name: str = "wallet_balance", as_number: bool = False
) -> str:
    """The least that is a user's document."""
    written = balance if as_number else f'"{balance}"'
    return "{" + ",".join([f'"user_email":"{email}"', f'"{name}":{written}', *more]) + "}"


def directory(tmp_path: Path, *users: str) -> Path:
    """Documents 0.json, 1.json, …"""
    for number, content in enumerate(users):
        (tmp_path / f"{number}.json").write_text(content)
    return tmp_path
