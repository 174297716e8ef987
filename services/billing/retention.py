"""What billing keeps for a time only."""

from chassis.retention import Kept, messages
from services.billing.settings import BillingSettings


def kept(settings: BillingSettings) -> list[Kept]:
    """What was charged stays; a record of usage is refused as too late long before it goes.

    A record goes after its corrections, which name it.
    """
    return [
        *messages(settings),
        Kept(
            "usage_records",
            "recorded_at",
            settings.usage_records_kept_days,
            unless="EXISTS (SELECT FROM usage_records AS later"
            " WHERE later.deployment_id = usage_records.deployment_id"
            " AND later.corrects = usage_records.record_id)",
        ),
    ]
