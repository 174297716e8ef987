"""What stands on papers: who bought, as buyers enter it themselves."""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from contracts.messages import Storable, Value

ADDRESS_LINES_MAX = 6


def printable(text: str) -> str:
    """The text in composed letters, its white space as one blank each. Raises ValueError for
    characters that stand for nothing on paper."""
    composed = " ".join(unicodedata.normalize("NFC", text).split())
    if any(unicodedata.category(letter) == "Cc" for letter in composed):
        raise ValueError("it holds a control character, which cannot be printed")
    return composed


def printable_lines(text: str) -> str:
    """The same for several lines, of which empty ones go."""
    lines = [line for line in map(printable, re.split(r"\r\n|\r|\n", text)) if line]
    if len(lines) > ADDRESS_LINES_MAX:
        raise ValueError(f"it has more than {ADDRESS_LINES_MAX} lines")
    return "\n".join(lines)


class BillingDetails(Value):
    """A person's or a company's own words; what they left out is empty.

    ``name`` may be of either, ``address`` has up to 6 lines.
    """

    name: Annotated[str, StringConstraints(max_length=200), Storable, AfterValidator(printable)] = (
        ""
    )
    address: Annotated[
        str, StringConstraints(max_length=500), Storable, AfterValidator(printable_lines)
    ] = ""
    country: Annotated[
        str, StringConstraints(max_length=100), Storable, AfterValidator(printable)
    ] = ""
    tax_id: Annotated[
        str, StringConstraints(max_length=50), Storable, AfterValidator(printable)
    ] = ""

    @property
    def printed(self) -> tuple[str, ...]:
        """Its lines on paper."""
        tax_id = f"Tax ID {self.tax_id}" if self.tax_id else ""
        lines = (self.name, *self.address.split("\n"), self.country, tax_id)
        return tuple(line for line in lines if line)
