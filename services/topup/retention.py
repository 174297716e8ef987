"""What the top-up service keeps for a time only.

Top-ups, reversals, refunds, customers, consents and differences stay for ever: they tell what
became of money, and who agreed to it.
"""

from chassis.retention import Kept, messages
from contracts.topup import RefusalCode, Trigger
from services.topup.settings import TopupSettings

_BY_HAND = f"trigger = '{Trigger.BY_HAND.value}'"
"""Its reference is a person's idempotency key: again, it must not charge again."""
_UNDECIDED = (
    f"due_at IS NOT NULL OR (refusal_code = '{RefusalCode.IDLE.value}' AND ended_at IS NULL)"
)
"""Also a look at the balance that waits for the next purchase, whenever that is."""


def kept(settings: TopupSettings) -> list[Kept]:
    """See ``docs/operations.md``, which tells why for how long."""
    triggers, cards = settings.triggers_kept_days, settings.removed_cards_kept_days
    return [
        *messages(settings),
        Kept("notices", "processed_at", settings.notices_kept_days),
        Kept("triggers", "raised_at", triggers, unless=f"{_BY_HAND} OR {_UNDECIDED}"),
        Kept("shortages", "heard_at", triggers),
        Kept("refusals", "refused_at", triggers, unless=_BY_HAND),
        Kept("commands", "created_at", settings.commands_kept_days),
        Kept("spent_keys", "begun_at", settings.commands_kept_days),
        Kept("cards", "detached_at", cards),
        Kept("card_setups", "done_at", cards),
    ]
