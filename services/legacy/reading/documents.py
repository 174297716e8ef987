"""A user's document of the old program, read into what the migration needs.

Each field is read by itself, in whichever form its generation wrote it; what nobody remembers stays
in the document, which is archived as it stands. A document is refused as a whole, with its field
and the reason, where an amount of it cannot be what was meant.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from services.legacy.reading import moments
from services.legacy.reading.amounts import Unreadable, Written, parse
from services.legacy.reading.moments import OldMoment

TFP, USD, RATE = "TFP", "USD", "rate"
_OWN_COINS = {"tfp-cad": "CAD", "tfp-tft": "TFT", "tfp-peaq": "PEAQ"}
"""The pools whose positions are not in TFP, where the position does not say."""
_LIST_KINDS = ("Gift", "Transfer")
_VALUE_KINDS = ("Bonus",)
KINDS = frozenset(
    {
        *("TopUp", "AutoTopUp", "Purchase", "Transfer", "Earning", "Exchange", "Stake", "Unstake"),
        *("Rental", "Opened", *_LIST_KINDS, *_VALUE_KINDS),
    }
)


class Refused(ValueError):
    """A document that is left out, with the reason: ``wallet_balance: null``."""


@dataclass(frozen=True)
class OldAmount:
    """An amount as it is, and what it is an amount of."""

    exact: Decimal
    unit: str


@dataclass(frozen=True)
class OldTransaction:
    """A line of the old history. ``amount`` is None for a kind without one."""

    old_id: str
    kind: str
    status: str
    at: OldMoment | None
    amount: OldAmount | None
    note: str


@dataclass(frozen=True)
class OldService:
    """Something that was rented. ``monthly`` is None where the price could not be found."""

    old_id: str
    name: str
    category: str
    status: str
    monthly: OldAmount | None
    renewal: OldMoment | None


@dataclass
class OldUser:
    """``amounts`` and ``times`` are all that were read, by their JSON pointers.

    ``balance_written`` is a :class:`Written` where the balance was a number. ``staked`` is in TFP,
    and no part of the balance; ``positions`` are what was in pools."""

    email: str = ""
    balance: Decimal = field(default_factory=Decimal)
    balance_written: str = ""
    transactions: list[OldTransaction] = field(default_factory=list)
    services: list[OldService] = field(default_factory=list)
    staked: Decimal = field(default_factory=Decimal)
    positions: list[OldAmount] = field(default_factory=list)
    amounts: dict[str, OldAmount] = field(default_factory=dict)
    times: dict[str, OldMoment] = field(default_factory=dict)


Object = Mapping[str, Any]


def text_of(content: bytes) -> str:
    """A document's text. Raises :class:`Refused`."""
    if not content.strip():
        raise Refused("empty")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"not UTF-8 at byte {error.start}") from None


def read(content: bytes) -> OldUser:
    """The user of a document. Raises :class:`Refused`."""
    document = decoded(text_of(content))
    if not isinstance(document, dict):
        raise Refused("not an object")
    reader = _Reader()
    try:
        return reader.user(document)
    except Unreadable as error:
        raise Refused(f"{reader.place}: {error}") from None


def decoded(text: str) -> Any:
    """JSON with every number as it is written. Raises :class:`Refused`."""
    try:
        value, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip(_BLANKS)))
    except json.JSONDecodeError as error:
        is_end = not text[error.pos :].strip(_BLANKS) or error.msg.startswith("Unterminated")
        raise Refused("ends early" if is_end else f"not JSON at {error.pos}: {error.msg}") from None
    except RecursionError:
        raise Refused("nested too deeply") from None
    if text[end:].strip(_BLANKS):
        raise Refused("more text after the end")
    return value


_BLANKS = " \t\r\n"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refused(f"{twice}: key twice")
    return found


def _constant(name: str) -> Any:
    raise Refused(f"not JSON: {name}")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Written, parse_int=Written, parse_constant=_constant
)


def one_spelling(word: str) -> str:
    """``top_up``, ``topUp`` and ``TopUp`` are one kind, ``COMPLETED`` and ``Completed`` one
    state."""
    if "_" in word or word.isupper():
        return "".join(part[:1].upper() + part[1:].lower() for part in word.split("_"))
    return word[:1].upper() + word[1:]


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.title() for part in others)


class _Reader:
    """Reads one document. ``place`` is the field that it looks at, for a refusal."""

    def __init__(self) -> None:
        self.user_read = OldUser()
        self.place = ""

    def user(self, document: Object) -> OldUser:
        user = self.user_read
        user.email = self.email(document)
        user.balance = self.amount(document, "", "wallet_balance", TFP, is_needed=True).exact
        user.balance_written = self.field(document, "", "wallet_balance")[1]
        user.staked = self.amount(document, "", "staked_amount", TFP).exact
        for name in ("registered", "joined", "created", "last_seen", "last_login"):
            self.moment(document, "", name)
        self.settings(document)
        for pointer, each in self.objects(document, "transactions"):
            user.transactions.append(self.transaction(each, pointer))
        for pointer, each in self.objects(document, "services"):
            user.services.append(self.service(each, pointer))
        self.positions(document)
        self.farming(document)
        return user

    def email(self, document: Object) -> str:
        _, written = self.field(document, "", "user_email")
        if not isinstance(written, str) or isinstance(written, Written):
            raise Unreadable("absent" if written is None else "no text")
        if not written.strip():
            raise Unreadable("empty")
        return written

    def field(self, parent: Object, pointer: str, name: str) -> tuple[str, Any]:
        """A field's pointer and value, by its name of either spelling."""
        self.place = f"{pointer}/{name}".removeprefix("/")
        camel = _camel(name)
        if camel != name and name in parent and camel in parent:
            raise Unreadable(f"given twice, as {name} and {camel}")
        name = camel if camel in parent else name
        return f"{pointer}/{_escaped(name)}", parent.get(name)

    def amount(
        self, parent: Object, pointer: str, name: str, unit: str, *, is_needed: bool = False
    ) -> OldAmount:
        pointer, value = self.field(parent, pointer, name)
        if value is None and not is_needed:
            return OldAmount(Decimal(), unit)
        if value is None and name not in parent and _camel(name) not in parent:
            raise Unreadable("absent")
        return self.keep(pointer, value, unit)

    def optional(self, parent: Object, pointer: str, name: str, unit: str) -> OldAmount | None:
        _, value = self.field(parent, pointer, name)
        return None if value is None else self.amount(parent, pointer, name, unit)

    def keep(self, pointer: str, value: object, unit: str) -> OldAmount:
        self.place = pointer.removeprefix("/")
        found = OldAmount(parse(value), unit)
        self.user_read.amounts[pointer] = found
        return found

    def moment(self, parent: Object, pointer: str, name: str) -> OldMoment | None:
        pointer, value = self.field(parent, pointer, name)
        found = moments.read(value)
        if found is not None:
            self.user_read.times[pointer] = found
        return found

    def objects(self, parent: Object, name: str) -> list[tuple[str, Object]]:
        pointer, value = self.field(parent, "", name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise Unreadable("no list")
        if not all(isinstance(each, dict) for each in value):
            raise Unreadable("an entry of it is no object")
        return [(f"{pointer}/{number}", each) for number, each in enumerate(value)]

    def settings(self, document: Object) -> None:
        pointer, value = self.field(document, "", "auto_topup_settings")
        if isinstance(value, dict):
            for name in ("threshold_amount", "topup_amount", "daily_limit", "monthly_limit"):
                self.optional(value, pointer, name, USD)

    def transaction(self, entry: Object, pointer: str) -> OldTransaction:
        kind, content, inside = self.kind_of(entry, pointer)
        return OldTransaction(
            old_id=_text(entry.get("id")),
            kind=kind,
            status=self.status(entry, pointer),
            at=self.moment(entry, pointer, "created_at"),
            amount=self.amount_of(kind, content, inside),
            note=_text(entry.get("note")),
        )

    def kind_of(self, entry: Object, pointer: str) -> tuple[str, Any, str]:
        """The kind, what stands in it, and where that is."""
        at, tagged = self.field(entry, pointer, "transaction_type")
        if isinstance(tagged, str):
            return one_spelling(tagged), None, at
        if isinstance(tagged, dict) and len(tagged) == 1:
            ((name, content),) = tagged.items()
            return one_spelling(name), content, f"{at}/{_escaped(name)}"
        if isinstance(entry.get("type"), str):
            return one_spelling(entry["type"]), entry, pointer
        beside = entry.get("entry")
        if isinstance(beside, dict) and isinstance(beside.get("kind"), str):
            return one_spelling(beside["kind"]), beside.get("data"), f"{pointer}/entry/data"
        return "Unknown", None, pointer

    def amount_of(self, kind: str, content: Any, pointer: str) -> OldAmount | None:
        if kind not in KINDS:
            return None
        if isinstance(content, dict):
            unit = TFP
            if kind == "Exchange":
                unit = _text(content.get("from_currency")) or TFP
                self.optional(content, pointer, "rate", RATE)
            return self.optional(content, pointer, "amount", unit)
        if kind in _LIST_KINDS and isinstance(content, list) and len(content) == 2:
            return self.keep(f"{pointer}/1", content[1], TFP)
        if kind in _VALUE_KINDS:
            return self.keep(pointer, content, TFP)
        return None

    def status(self, entry: Object, pointer: str) -> str:
        status = entry.get("status")
        if isinstance(status, dict) and len(status) == 1:
            ((name, inside),) = status.items()
            if one_spelling(name) == "Refunded" and inside is not None:
                self.keep(f"{pointer}/status/{_escaped(name)}", inside, TFP)
            return one_spelling(name)
        return one_spelling(_text(status))

    def service(self, entry: Object, pointer: str) -> OldService:
        renewal = self.moment(entry, pointer, "next_renewal")
        self.moment(entry, pointer, "created_at")
        return OldService(
            old_id=_text(entry.get("id")),
            name=_text(entry.get("name")),
            category=_text(entry.get("category")),
            status=one_spelling(_text(entry.get("status"))),
            monthly=self.price(entry, pointer),
            renewal=renewal or self.moment(entry, pointer, "renewal"),
        )

    def price(self, entry: Object, pointer: str) -> OldAmount | None:
        at, pair = self.field(entry, pointer, "price")
        if isinstance(pair, list):
            if len(pair) != 2:
                raise Unreadable("no pair of amount and currency")
            return self.keep(f"{at}/0", pair[0], _text(pair[1]) or TFP)
        return self.optional(entry, pointer, "price_per_month", TFP)

    def positions(self, document: Object) -> None:
        pointer, value = self.field(document, "", "pool_positions")
        for name, each in value.items() if isinstance(value, dict) else ():
            if isinstance(each, dict):
                at = f"{pointer}/{_escaped(name)}"
                unit = _text(each.get("asset")) or _OWN_COINS.get(name.lower(), TFP)
                position = self.optional(each, at, "amount", unit)
                self.user_read.positions += [position] if position else []
                self.optional(each, at, "entry_rate", RATE)
                self.optional(each, at, "discount_percentage", RATE)
                self.moment(each, at, "staked_at")
                self.moment(each, at, "since")

    def farming(self, document: Object) -> None:
        for pointer, each in self.objects(document, "nodes"):
            self.optional(each, pointer, "earnings_today", TFP)
        for pointer, each in self.objects(document, "farmer_earnings"):
            self.optional(each, pointer, "amount", TFP)
            self.moment(each, pointer, "date")
            self.moment(each, pointer, "recorded_at")
        pointer, value = self.field(document, "", "earned_per_day")
        for day, amount in value.items() if isinstance(value, dict) else ():
            self.keep(f"{pointer}/{_escaped(day)}", amount, TFP)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
