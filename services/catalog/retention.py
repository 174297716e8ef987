"""What the catalog keeps for a time only."""

from chassis.retention import Kept, messages
from services.catalog.settings import CatalogSettings


def kept(settings: CatalogSettings) -> list[Kept]:
    """A reservation is made again, or released, while its purchase is not paid: for a day."""
    return [
        *messages(settings),
        Kept("reservations", "created_at", settings.reservations_kept_days),
    ]
