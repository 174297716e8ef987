"""Files as the old program wrote them, of invented people, for a rehearsal and for tests.

    python -m services.legacy.examples DIRECTORY --users 1000 [--seed 1] [--faults 0.05] [--lines]

The same seed writes the same files. A part of them, ``--faults``, has what real ones have: a write
that was cut, a doubled key, somebody twice, a balance below zero, what a float left behind.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMS = ("first", "camel", "float", "exact")
"""The generations of the program, by how each wrote names and amounts."""
_KINDS = ("TopUp", "Purchase", "Transfer", "Earning", "Exchange", "Opened")
_NAMES = ("VM one", "VM two", "Gateway", "Store", "Mail", "Backup")
_CATEGORIES = ("compute", "3nodes", "gateways", "applications", "services")
POSITIONS = {
    "tfp-usd": {"amount": "100", "shares": 1000},
    "tfp-tft": {"amount": "1000.25", "shares": 1000},
}
_STATES = ("Running", "Running", "Stopped", "PaymentOverdue")


@dataclass(frozen=True)
class Example:
    """A file, and the fault that was put into it; empty where there is none."""

    name: str
    content: bytes
    fault: str = ""


def examples(
    users: int, *, seed: int = 1, faults: float = 0.05, transactions: int = 10
) -> Iterator[Example]:
    """One file for each user, and more where somebody is there twice."""
    chance = random.Random(seed)
    for number in range(users):
        form = FORMS[number % len(FORMS)]
        email = f"user{number}.{seed}@example.com"
        user = _user(chance, email, transactions)
        fault = chance.choice(sorted(FAULTS)) if chance.random() < faults else ""
        name = f"{email.replace('@', '_at_').replace('.', '_')}.json"
        if fault:
            yield from FAULTS[fault](Example(name, b"", fault), user, form)
        else:
            yield Example(name, written(user, form))


def _user(chance: random.Random, email: str, transactions: int) -> dict[str, Any]:
    return {
        "user_email": email,
        "name": email.partition("@")[0],
        "country": chance.choice([None, "BE", "Österreich"]),
        "wallet_balance": _amount(chance),
        "display_currency": chance.choice([None, "EUR", "USD"]),
        "auto_topup_settings": None,
        "transactions": [_transaction(chance, number) for number in range(transactions)],
        "services": [_service(chance) for _ in range(chance.choice((0, 0, 1, 2)))],
        "staked_amount": chance.choice(("0", "0", "112.5")),
        "pool_positions": chance.choice(({}, {}, POSITIONS)),
        "registered": "2024-04-19T09:30:00",
        "theme": "dark",
    }


def _amount(chance: random.Random) -> str:
    """With a scale that an old amount may have: a few decimals mostly, 28 at times."""
    places = chance.choice((0, 1, 2, 2, 2, 6, 12, 28))
    whole = chance.randrange(10 ** chance.randrange(1, 6))
    fraction = "".join(str(chance.randrange(10)) for _ in range(places))
    return f"{min(whole, 9) if places == 28 else whole}{'.' if places else ''}{fraction}"


def _transaction(chance: random.Random, number: int) -> dict[str, Any]:
    kind = chance.choice(_KINDS)
    fields: dict[str, Any] = {"amount": _amount(chance)}
    if kind == "Exchange":
        fields |= {"from_currency": "EUR", "to_currency": "TFP", "rate": "10.8"}
    return {
        "id": f"{chance.getrandbits(64):016x}",
        "transaction_type": kind if kind == "Opened" else {kind: fields},
        "status": chance.choice(("Completed", "Completed", "Pending", "Failed")),
        "created_at": f"2025-{number % 12 + 1:02}-03T10:05:07.{chance.randrange(10**9):09}Z",
        "note": None,
    }


def _service(chance: random.Random) -> dict[str, Any]:
    return {
        "id": f"{chance.getrandbits(64):016x}",
        "name": chance.choice(_NAMES),
        "category": chance.choice(_CATEGORIES),
        "price_per_month": f"{chance.randrange(1, 2_000)}.{chance.randrange(10)}",
        "status": chance.choice(_STATES),
        "next_renewal": f"2025-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}",
        "rating": 4.7,
    }


_MARK = "\ue000"
AMOUNTS = ("wallet_balance", "staked_amount", "amount", "price_per_month", "rate")


def written(user: dict[str, Any], form: str) -> bytes:
    """A user in the manner of one generation."""
    names = _camel if form == "camel" else str
    text = json.dumps(_formed(user, form, names), ensure_ascii=False)
    return text.replace(f'"{_MARK}', "").replace(f'{_MARK}"', "").encode()


def _formed(value: Any, form: str, names: Callable[[str], str], key: str = "") -> Any:
    if isinstance(value, dict):
        return {
            names(name): _formed(each, form, names, name)
            for name, each in value.items()
            if form != "camel" or each is not None
        }
    if isinstance(value, list):
        return [_formed(each, form, names) for each in value]
    if key in AMOUNTS and form == "float":
        return float(value)
    if key in AMOUNTS and form == "exact":
        # Between marks that `written` takes away again: a number with every digit.
        return f"{_MARK}{value}{_MARK}"
    return value


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first[:1].lower() + first[1:] + "".join(part.title() for part in others)


Fault = Callable[[Example, dict[str, Any], str], Iterator[Example]]


def _cut(example: Example, user: dict[str, Any], form: str) -> Iterator[Example]:
    content = written(user, form)
    yield Example(example.name, content[: len(content) * 2 // 3], example.fault)


def _key_twice(example: Example, user: dict[str, Any], form: str) -> Iterator[Example]:
    content = written(user, form)
    yield Example(example.name, content[:-1] + b',"theme":"light"}', example.fault)


def _somebody_twice(example: Example, user: dict[str, Any], form: str) -> Iterator[Example]:
    other = {**user, "user_email": user["user_email"].upper(), "wallet_balance": "1"}
    yield Example(example.name, written(user, form), example.fault)
    yield Example(f"Old_{example.name}", written(other, form), example.fault)


def _balance(*, balance: Any) -> Fault:
    def change(example: Example, user: dict[str, Any], _form: str) -> Iterator[Example]:
        changed = {**user, "wallet_balance": balance}
        yield Example(example.name, json.dumps(changed).encode(), example.fault)

    return change


def _beside(example: Example, user: dict[str, Any], form: str) -> Iterator[Example]:
    yield Example(example.name, written(user, form))
    yield Example(f"{example.name}.tmp", written(user, form)[:100], example.fault)


FAULTS: dict[str, Fault] = {
    "cut in mid-write": _cut,
    "a key twice": _key_twice,
    "somebody twice": _somebody_twice,
    "below zero": _balance(balance="-12.50"),
    "what a float left behind": _balance(balance=99.99999999999999),
    "no balance": _balance(balance=None),
    "true as a balance": _balance(balance=True),
    "more than a wallet holds": _balance(balance="79228162514264337593543950335"),
    "a file beside": _beside,
}
BLOCKING = frozenset(FAULTS) - {"a file beside"}
"""Those after which somebody is not moved without a decision."""


def write(directory: Path, found: Iterator[Example], *, as_lines: bool = False) -> int:
    """Write them, a file each or all as lines of one; how many."""
    directory.mkdir(parents=True, exist_ok=True)
    if as_lines:
        with (directory / "users.jsonl").open("wb") as lines:
            return sum(bool(lines.write(example.content + b"\n")) for example in found)
    return sum(bool((directory / example.name).write_bytes(example.content)) for example in found)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="examples", description="Files of the old program.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=float, default=0.05, help="the part that has one")
    parser.add_argument("--transactions", type=int, default=10, help="of each user")
    parser.add_argument("--lines", action="store_true", help="one file of JSON lines")
    given = parser.parse_args()
    found = examples(
        given.users, seed=given.seed, faults=given.faults, transactions=given.transactions
    )
    count = write(given.directory, found, as_lines=given.lines)
    print(f"{count:,} documents in {given.directory}")


if __name__ == "__main__":
    main()
