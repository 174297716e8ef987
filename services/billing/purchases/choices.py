"""What a buyer says in the fields that a product declares: an image, a host name, an SSH key."""

from collections.abc import Mapping, Sequence

from contracts.billing import PurchaseLine
from contracts.catalog import FieldKind, Product, ProductField, Quote
from contracts.errors import BadRequest
from services.billing.purchases.ssh_keys import NotAPublicKey, check_public_key


def given(line: PurchaseLine) -> dict[str, str]:
    """What was said: without the space around it, and without fields that were left empty."""
    said = {key: text.strip() for key, text in line.choices.items()}
    return {key: text for key, text in said.items() if text}


def check(lines: Sequence[PurchaseLine], quote: Quote) -> None:
    """Raise ``BadRequest`` where something is missing, or is nothing that a field takes.

    The sentence never repeats what was said: it may be a secret that somebody pasted.
    """
    for line, quoted in zip(lines, quote.lines, strict=True):
        _check(quoted.product, given(line))


def _check(product: Product, said: Mapping[str, str]) -> None:
    fields = {field.key: field for field in product.fields}
    for key in said:
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise _refusal(key, f"{product.name} has no field {key}. Its fields: {known}.")
    for field in fields.values():
        if field.key in said:
            _check_field(field, said[field.key])
        elif field.is_required:
            raise _refusal(field.key, f"{field.label}: {product.name} needs it.")


def _check_field(field: ProductField, text: str) -> None:
    if field.kind is FieldKind.CHOICE and text not in field.choices:
        one_of = ", ".join(field.choices)
        raise _refusal(field.key, f"{field.label}: choose one of {one_of}.")
    if field.kind is FieldKind.TEXT and len(text) > field.length_max:
        limit = f"{field.label}: write at most {field.length_max} characters."
        raise _refusal(field.key, limit)
    if field.kind is FieldKind.TEXT and not text.isprintable():
        raise _refusal(field.key, f"{field.label}: write one line of plain text.")
    if field.kind is FieldKind.SSH_KEY:
        try:
            check_public_key(text)
        except NotAPublicKey as reason:
            raise _refusal(field.key, f"{field.label}: {reason}") from None


def _refusal(key: str, sentence: str) -> BadRequest:
    return BadRequest(sentence, f"choices.{key}")
