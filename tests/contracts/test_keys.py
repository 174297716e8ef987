"""The keys under which money moves: each caller's own, and none of them the wallet's."""

import inspect
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from contracts import keys

VALUES: dict[Any, Any] = {
    UUID: UUID("6f1d3a52-0d3c-4b0e-9c55-7a1f2d8e4b90"),
    str: "x",
    int: 1,
    datetime: datetime(2026, 11, 29, tzinfo=UTC),
}
MAKERS = {
    name: make
    for name, make in vars(keys).items()
    if inspect.isfunction(make) and make.__module__ == keys.__name__ and name.endswith("_key")
}
OF_THE_WALLET = {
    *("topup_key", "reversal_key", "restored_key", "opened_key", "expiry_key", "released_key"),
    *("approved_key", "promotion_key", "lapsed_key"),
}
"""Under which it acts by itself; it refuses them from anybody else."""


def made(name: str) -> str:
    types = inspect.get_annotations(MAKERS[name], eval_str=True)
    return str(MAKERS[name](**{each: VALUES[types[each]] for each in types if each != "return"}))


def test_only_the_wallets_keys_begin_as_the_wallets_own() -> None:
    assert {name for name in MAKERS if made(name).startswith(keys.WALLETS_OWN)} == OF_THE_WALLET


def test_no_two_things_have_one_key() -> None:
    assert len({made(name) for name in MAKERS}) == len(MAKERS)
