"""What the pages' forms have in common: keys, amounts of money, addresses to return to."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from flask import flash, get_flashed_messages, request

from chassis.digits import whole_number
from chassis.identifiers import new_id
from chassis.money import InvalidAmount, parse_usd, whole_cents
from contracts.catalog import FieldKind, Product
from contracts.topup import PlannedCharge
from services.gateway.errors import Problem
from services.gateway.idempotency import scoped_key
from services.gateway.people.way_back import page

CREDIT_CHOICES_MICROS = (10_000_000, 25_000_000, 50_000_000)
"""The amounts of credits that stand ready to choose: $10, $25 and $50."""

QUANTITY_MAX = 100
FIELD_PREFIX = "choices."
CUSTOM = "custom"
TYPED_CREDITS, REFUSED_CREDITS = "typed-credits", "refused-credits"
TYPED_TERMS = {"threshold": "typed-threshold-credits", "topup_amount": "typed-amount-credits"}
TYPED_LENGTH_MAX = 40
_TYPED_DOLLARS = re.compile(r"\$? ?([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+(?=\.))(\.[0-9]{1,2})?")
"""A comma groups thousands where a point follows it; alone it is a decimal comma to many."""


def new_key() -> str:
    """A key for a form that moves money, made when the form is shown: sent twice, it acts once."""
    return str(new_id())


def is_key(text: str) -> bool:
    """Whether a text is a key that :func:`new_key` made."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def read_id(text: str) -> UUID:
    """An id as our pages write it. Raises ValueError for anything else, and for the other
    spellings that Python's UUID takes."""
    identifier = UUID(text)
    if str(identifier) != text.lower():
        raise ValueError("an id is written with hyphens and without braces")
    return identifier


def command_key(user_id: UUID, purpose: str) -> str:
    """The idempotency key of the form that was sent, apart from other users' and other forms'.

    A form without a usable key gets a fresh one: it is then a request of its own.
    """
    key = request.form.get("key", "")
    return scoped_key(user_id, f"{purpose}:{key if is_key(key) else new_key()}")


def optional_money(text: str, label: str) -> int | None:
    """An amount as a person types it, in micro-dollars; None for an empty field.

    What could mean two amounts is refused, never guessed: ``12,50`` and ``1,250`` and ``1.250``.
    Raises :class:`InvalidAmount`, whose sentence begins with the field's label.
    """
    text = text.strip()
    if not text:
        return None
    typed = _TYPED_DOLLARS.fullmatch(text)
    if typed is None:
        raise InvalidAmount(
            f"{label}: write dollars with a point before the cents, such as 25 or 1250.50."
        )
    dollars, cents = typed.groups(default="")
    try:
        return parse_usd(dollars.replace(",", "") + cents)
    except InvalidAmount as error:
        raise InvalidAmount(f"{label}: {error}") from None


def whole_number_field(name: str, otherwise: int | None = None) -> int:
    """The whole number in a field of the form. Raises ValueError where it holds none, unless
    the field is missing and there is an ``otherwise``."""
    text = request.form.get(name)
    if text is None and otherwise is not None:
        return otherwise
    return whole_number(text or "")


def read_quantity(text: str) -> int:
    """How many are wanted."""
    try:
        quantity = whole_number(text)
    except ValueError:
        quantity = 0
    if 1 <= quantity <= QUANTITY_MAX:
        return quantity
    raise Problem(422, "bad_request", f"The quantity is a number from 1 to {QUANTITY_MAX}.")


def chosen_fields() -> dict[str, str]:
    """What the form says in the fields of a product, by their keys."""
    return _fields(request.form)


def selected_fields(product: Product) -> dict[str, str]:
    """Of these what was selected and not typed, in the form or in the address."""
    offered = {each.key: each.choices for each in product.fields if each.kind is FieldKind.CHOICE}
    said = _fields(request.values)
    return {key: text for key, text in said.items() if text in offered.get(key, ())}


def addressed(fields: Mapping[str, str]) -> dict[str, str]:
    """Fields of a product as they stand in an address."""
    return {f"{FIELD_PREFIX}{key}": text for key, text in fields.items()}


def _fields(said: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(FIELD_PREFIX): text
        for name, text in said.items()
        if name.startswith(FIELD_PREFIX)
    }


def said_field(name: str) -> int:
    """A figure that the person was told, as the form brings it back; nonsense told nothing."""
    try:
        return whole_number_field(name, otherwise=0)
    except ValueError:
        return 0


def charged_micros(charges: Iterable[PlannedCharge]) -> int:
    """What charges come to, in micro-dollars."""
    return sum(charge.amount_micros for charge in charges)


def are_more_than_said(charges: Sequence[PlannedCharge]) -> bool:
    """Whether these charges are more, or more money, than the form that was sent announced."""
    is_more_money = charged_micros(charges) > said_field("charge_said")
    return len(charges) > said_field("charges_said") or is_more_money


def optional_money_field(name: str, label: str) -> int | None:
    """The amount in a field of the form that was sent; None where it is empty."""
    return optional_money(request.form.get(name, ""), label)


def money_field(name: str, label: str) -> int:
    """The same, where the field must not be empty."""
    amount_micros = optional_money_field(name, label)
    if amount_micros is None:
        raise InvalidAmount(f"{label}: enter an amount of dollars, such as 25.")
    return amount_micros


def positive_money_field(name: str, label: str) -> int:
    """The same, where nothing is no amount either."""
    amount_micros = money_field(name, label)
    if amount_micros == 0:
        raise InvalidAmount(f"{label}: enter more than $0.")
    return amount_micros


def chosen_credits() -> int | None:
    """The amount of credits that was picked, in micro-dollars; None where none was offered."""
    choice = request.form.get("amount")
    if choice is None:
        return None
    name = "custom_amount" if choice == CUSTOM else "amount"
    return positive_money_field(name, "Custom amount")


@dataclass(frozen=True)
class RefusedCredits:
    """A custom amount as it was typed, and what is wrong with it."""

    typed: str
    error: str


def refuse_credits(sentence: str) -> None:
    """Have the next page show the form again, with what was typed and what is wrong with it."""
    if request.form.get("amount") == CUSTOM and not request.form.get("switch_on"):
        flash(request.form.get("custom_amount", "")[:TYPED_LENGTH_MAX], TYPED_CREDITS)
        flash(sentence, REFUSED_CREDITS)
    else:
        flash(sentence, "danger")


def refused_credits() -> RefusedCredits | None:
    """What :func:`refuse_credits` left for this page; a part of one takes no message away."""
    if "HX-Request" in request.headers:
        return None
    typed, error = (
        get_flashed_messages(category_filter=[kind]) for kind in (TYPED_CREDITS, REFUSED_CREDITS)
    )
    return RefusedCredits(str(typed[0]), str(error[0])) if typed and error else None


def keep_terms() -> None:
    """Have the next page show the terms of auto top-up as they were typed; what they lack, the
    message beside it says."""
    for name, kind in TYPED_TERMS.items():
        flash(request.form.get(name, "")[:TYPED_LENGTH_MAX], kind)


def typed_terms() -> dict[str, str]:
    """What :func:`keep_terms` left for this page; empty where that is nothing."""
    if "HX-Request" in request.headers:
        return {}
    kept = {
        name: get_flashed_messages(category_filter=[kind]) for name, kind in TYPED_TERMS.items()
    }
    return {name: str(typed[0]) for name, typed in kept.items() if typed}


def return_path(default: str) -> str:
    """Where to go after a form, if the form names a page of this site; else ``default``."""
    return page(request.values.get("next", "")) or default


def amounts_for(shortfall_micros: int, least_micros: int, most_micros: int) -> list[int]:
    """The amounts that stand ready to choose: what is lacking, to the cent, and those of the usual
    ones that cover it. ``least_micros`` and ``most_micros`` bound a payment; 0: not known."""
    usual = [amount for amount in CREDIT_CHOICES_MICROS if amount >= shortfall_micros]
    exact_micros = max(whole_cents(shortfall_micros), least_micros)
    if shortfall_micros and (exact_micros <= most_micros or not most_micros):
        usual.append(exact_micros)
    return sorted(set(usual))
