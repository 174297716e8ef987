"""What a form says of a product for sale, as it was typed and as the catalog takes it."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError

from chassis.digits import whole_number
from chassis.money import InvalidAmount, parse_usd
from contracts.catalog import (
    QUANTITY_MAX,
    Category,
    FieldKind,
    Meter,
    MeterTier,
    Product,
    ProductField,
    SpecificationItem,
)
from services.gateway.pages.formats import plain_dollars
from services.gateway.pages.forms import money_field
from services.gateway.staff import products

MessageT = TypeVar("MessageT", bound=BaseModel)

LINES_MAX = 50
METERS_MAX = 20
TIERS_MAX = 20

SHEETS: dict[Category, dict[str, str]] = {
    Category.COMPUTE: {
        "vCPU": "2 dedicated",
        "Memory": "4 GB",
        "Disk": "80 GB NVMe",
        "Transfer": "2 TB a month",
        "Network": "IPv6 and IPv4",
    },
    Category.NODES: {
        "CPU": "8 cores",
        "Memory": "64 GB",
        "Disk": "2 × 1.9 TB NVMe",
        "Network": "10 Gbit/s",
        "Power": "120 W",
        "Warranty": "2 years",
    },
    Category.GATEWAYS: {
        "Transfer": "5 TB a month",
        "Address": "1 IPv4, 1 IPv6",
        "Certificates": "Automatic",
        "Names": "10",
        "Latency": "Below 20 ms in Europe",
    },
    Category.APPLICATIONS: {
        "Disk": "20 GB",
        "Memory": "2 GB",
        "People": "Up to 25",
        "Backups": "Every night",
    },
    Category.SERVICES: {
        "Duration": "2 hours",
        "Scope": "One system",
        "Hours": "Mon–Fri, 9–17 CET",
        "First answer": "Within a day",
    },
}
"""What a data sheet of each category says, with an example. The catalog filters by vCPU or CPU,
Memory and Disk."""

ASKED = {
    "host_name": ProductField(
        key="host_name",
        label="Host name",
        kind=FieldKind.TEXT,
        length_max=63,
        help="What the machine calls itself.",
    ),
    "ssh_key": ProductField(
        key="ssh_key",
        label="SSH public key",
        kind=FieldKind.SSH_KEY,
        help="The line in id_ed25519.pub or a file like it.",
    ),
    "domain": ProductField(
        key="domain",
        label="Domain",
        kind=FieldKind.TEXT,
        length_max=253,
        help="Where it is to be found. It needs to be yours.",
    ),
}
"""What buyers can be asked for."""

_TEXTS = ("name", "summary", "description", "location", "family")
_OF_METER = ("label", "unit", "price", "per_units", "included_units", "tiers", "key")
_METER_FIELD = re.compile(r"meter\.([0-9]{1,2})\.")
_AS_TYPED = (*_TEXTS, "category", "period", "price", "stock", "more", *ASKED)
_SPELLED = {
    "family": "Write small letters and digits, with hyphens between words, such as hill-vm.",
    "key": "Write small letters, digits and _, a letter first, such as traffic_out.",
}


class Wrong(Exception):
    """A field of the form, and what is wrong with it."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


def as_sent() -> dict[str, Any]:
    """What the form that was sent says; of meters what says anything."""
    typed: dict[str, Any] = {name: request.form.get(name, "") for name in _AS_TYPED}
    typed["meters"] = _typed_meters()
    typed["sheet"] = {
        name.removeprefix("sheet."): text
        for name, text in request.form.items()
        if name.startswith("sheet.")
    }
    if typed["category"] not in set(Category):
        typed["category"] = Category.COMPUTE.value
    return typed


def as_typed(product: Product) -> dict[str, Any]:
    """A product as its form shows it."""
    sheet = SHEETS[product.category]
    labels = [item.label for item in product.specification]
    fixed = {
        item.label: item.value
        for item in product.specification
        if item.label in sheet and labels.count(item.label) == 1
    }
    more = [f"{item.label}: {item.value}" for item in product.specification]
    return {
        **{name: getattr(product, name) or "" for name in _TEXTS},
        "sheet": fixed,
        "more": "\n".join(
            line
            for line, item in zip(more, product.specification, strict=True)
            if item.label not in fixed
        ),
        **{field.key: "yes" for field in product.fields if field.key in ASKED},
        "meters": [_meter_as_typed(meter) for meter in product.meters],
    }


def _typed_meters() -> list[dict[str, str]]:
    numbers = {int(found[1]) for name in request.form if (found := _METER_FIELD.match(name))}
    rows = [
        {name: request.form.get(f"meter.{number}.{name}", "") for name in (*_OF_METER, "remove")}
        for number in sorted(numbers)
    ]
    return [row for row in rows if any(row[name].strip() for name in _OF_METER)]


def _meter_as_typed(meter: Meter) -> dict[str, str]:
    return {
        "label": meter.label,
        "unit": meter.unit,
        "price": plain_dollars(meter.price_micros),
        "per_units": str(meter.per_units) if meter.per_units > 1 else "",
        "included_units": str(meter.included_units or ""),
        "tiers": "\n".join(
            f"{tier.above_units}: {plain_dollars(tier.price_micros)}" for tier in meter.tiers
        ),
        "key": meter.key,
    }


def said(typed: Mapping[str, Any], category: Category) -> dict[str, Any]:
    """The texts and the data sheet of the form. Raises :class:`Wrong`."""
    chosen = {name: text for name in ("location", "family") if (text := typed[name].strip())}
    return {
        "name": " ".join(typed["name"].split()),
        "summary": " ".join(typed["summary"].split()),
        "description": typed["description"].replace("\r\n", "\n").strip(),
        **chosen,
        "specification": _specification(typed, category),
    }


def meters(typed: Mapping[str, Any]) -> list[Meter]:
    """What the form wants to be charged by use. Raises :class:`Wrong`."""
    rows = list(enumerate(typed["meters"]))
    if len(rows) > METERS_MAX:
        raise Wrong("meters", f"A product has {METERS_MAX} meters at most.")
    return [_meter(f"meter.{number}.", row) for number, row in rows if not row["remove"]]


def _meter(prefix: str, row: Mapping[str, str]) -> Meter:
    label = " ".join(row["label"].split())
    key = row["key"].strip() or products.words_of(label).replace("-", "_").lstrip("0123456789_")
    return checked(
        Meter,
        prefix=prefix,
        label=label,
        unit=row["unit"],
        price_micros=_unit_price(f"{prefix}price", row["price"]),
        per_units=_units(f"{prefix}per_units", row["per_units"] or "1", 1, 1_000_000_000),
        included_units=_units(
            f"{prefix}included_units", row["included_units"] or "0", 0, QUANTITY_MAX
        ),
        tiers=_tiers(f"{prefix}tiers", row["tiers"]),
        key=key[:40] or "meter",
    )


def _tiers(field: str, text: str) -> list[MeterTier]:
    lines = [line.partition(":") for line in text.splitlines() if line.strip()]
    if len(lines) > TIERS_MAX:
        raise Wrong(field, f"A meter has {TIERS_MAX} tiers at most.")
    if not all(colon for _, colon, _ in lines):
        raise Wrong(field, "Write each line as units, a colon and a price, such as 1000: 0.01.")
    return [
        MeterTier(
            above_units=_units(field, above, 1, QUANTITY_MAX),
            price_micros=_unit_price(field, price),
        )
        for above, _, price in lines
    ]


def _units(field: str, text: str, least: int, most: int) -> int:
    wrong = Wrong(field, f"Write a whole number from {least} to {most:,}, without commas.")
    return _whole_number(text, least, most, wrong)


def _whole_number(text: str, least: int, most: int, wrong: Wrong) -> int:
    try:
        number = whole_number(text.strip())
    except ValueError:
        raise wrong from None
    if not least <= number <= most:
        raise wrong
    return number


def _unit_price(field: str, text: str) -> int:
    """Of one unit there may be less than a cent."""
    try:
        return parse_usd(text.strip().removeprefix("$").strip())
    except InvalidAmount as error:
        raise Wrong(field, str(error)) from None


def _specification(typed: Mapping[str, Any], category: Category) -> list[SpecificationItem]:
    lines = [
        (label, value)
        for label in SHEETS[category]
        if (value := typed["sheet"].get(label, "").strip())
    ]
    for line in typed["more"].splitlines():
        if line.strip():
            label, colon, value = (part.strip() for part in line.partition(":"))
            if not (label and colon and value):
                raise Wrong("more", "Write each line as a label, a colon and a value.")
            lines.append((label, value))
    if len(lines) > LINES_MAX:
        raise Wrong("more", f"A data sheet has {LINES_MAX} lines at most.")
    return [
        checked(SpecificationItem, field="more", label=label, value=value) for label, value in lines
    ]


def price() -> int:
    try:
        return money_field("price", "Price")
    except InvalidAmount as error:
        raise Wrong("price", str(error)) from None


def stock(text: str) -> int | None:
    """How many there are; None for an empty field: no end to it."""
    if not text.strip():
        return None
    wrong = Wrong("stock", "The stock is a whole number from 0 to 1,000,000.")
    return _whole_number(text, 0, 1_000_000, wrong)


def checked(
    kind: type[MessageT], field: str | None = None, prefix: str = "", **values: Any
) -> MessageT:
    """The message, as its contract takes it. Raises :class:`Wrong` with a sentence, for the
    ``field`` or for the one with this ``prefix``."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    name = field or (f"{prefix}{first['loc'][0]}" if first["loc"] else "")
    limit = first.get("ctx", {}).get("max_length")
    if limit:
        raise Wrong(name, f"Write {limit} characters at most.")
    if first["type"] == "string_too_short":
        raise Wrong(name, f"Enter a {first['loc'][-1]}.")
    if first["type"] == "string_pattern_mismatch":
        raise Wrong(name, _SPELLED[str(first["loc"][-1])])
    if name == "price_micros":
        raise Wrong("price", "A price is at most $1,000,000,000.")
    sentence = first["msg"].removeprefix("Value error, ")
    raise Wrong(name, f"{sentence[:1].upper()}{sentence[1:]}.")
