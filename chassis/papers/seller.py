"""Who sells, as it stands on every receipt."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SellerSettings(BaseSettings):
    """The seller's own words. What is empty is not printed."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    seller_name: Annotated[str, Field(min_length=1, max_length=200)] = "Mycelium"
    seller_address: Annotated[str, Field(max_length=500)] = ""
    """Its lines are separated by semicolons."""

    seller_tax_id: Annotated[str, Field(max_length=100)] = ""

    @property
    def seller_lines(self) -> tuple[str, ...]:
        address = (part.strip() for part in self.seller_address.split(";"))
        tax_id = f"Tax ID {self.seller_tax_id}" if self.seller_tax_id else ""
        return tuple(line for line in (self.seller_name, *address, tax_id) if line)
