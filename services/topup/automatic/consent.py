"""What a person agrees to before a card is charged while they are away.

Card networks ask that it says who starts the charges, how often, and how the amount is found.
A change of the text needs a new version: what was agreed to is stored with every save.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from contracts.errors import BadRequest
from services.topup.models import AutoTopupSettings, Consent

VERSION = "2026-11"
TEXT = (
    "I allow Mycelium to charge the card I choose here, or one that I add to replace it, while I "
    "am not present. Mycelium starts a charge when my balance falls below the threshold, or when "
    "a purchase or a renewal of mine lacks funds. Each charge is the top-up amount I set, or the "
    "whole amount that is lacking where that is more, rounded up to a cent. There is never more "
    "than one charge at a time, and never more in a UTC day or month than the limits I set. I "
    "am told of every charge. I can change or end this at any time on this page."
)


@dataclass(frozen=True)
class Terms:
    """What may be charged: the parts of the settings that a person agrees to."""

    threshold_micros: int
    topup_amount_micros: int
    payment_method_id: str | None
    backup_payment_method_id: str | None
    daily_limit_micros: int | None
    monthly_limit_micros: int | None

    def asks_anew(self, agreed: "Terms") -> bool:
        """Whether these are no longer what was agreed to: another card, amount or threshold, or
        a limit that is raised or gone. A lower limit and a backup card less need no word."""
        return (
            self.threshold_micros != agreed.threshold_micros
            or self.topup_amount_micros != agreed.topup_amount_micros
            or self.payment_method_id != agreed.payment_method_id
            or self.backup_payment_method_id not in (None, agreed.backup_payment_method_id)
            or _is_wider(self.daily_limit_micros, agreed.daily_limit_micros)
            or _is_wider(self.monthly_limit_micros, agreed.monthly_limit_micros)
        )


def _is_wider(limit_micros: int | None, agreed_micros: int | None) -> bool:
    return agreed_micros is not None and (limit_micros is None or limit_micros > agreed_micros)


def terms_of(settings: AutoTopupSettings) -> Terms:
    """What the saved settings allow to charge."""
    return Terms(
        threshold_micros=settings.threshold_micros,
        topup_amount_micros=settings.amount_micros,
        payment_method_id=settings.payment_method_id,
        backup_payment_method_id=settings.backup_payment_method_id,
        daily_limit_micros=settings.daily_limit_micros,
        monthly_limit_micros=settings.monthly_limit_micros,
    )


def is_needed(session: Session, settings: AutoTopupSettings, wanted: Terms) -> bool:
    """Whether saving these terms takes the person's consent, beside what they agreed to."""
    agreed = session.get(Consent, settings.consent_id) if settings.consent_id else None
    is_valid = settings.is_enabled and agreed is not None and agreed.version == VERSION
    return not is_valid or wanted.asks_anew(terms_of(settings))


def require(is_given: bool, version: str, *, is_needed: bool) -> None:
    """Raises ``BadRequest`` unless the person agreed, and to the text that is valid now."""
    if is_needed and not is_given:
        raise BadRequest(
            "Auto top-up needs your consent to charge the card under these settings: tick the box.",
            "consent",
        )
    if is_given and version and version != VERSION:
        raise BadRequest(
            "The terms of auto top-up have changed. Read them again and agree anew.",
            "consent_version",
        )


def record(
    session: Session, user_id: UUID, client_address: str, terms: Terms, now: datetime
) -> UUID:
    """Store what was agreed to; the id of the record."""
    consent = Consent(
        consent_id=new_id(),
        user_id=user_id,
        version=VERSION,
        text=TEXT,
        client_address=client_address,
        terms=asdict(terms),
        agreed_at=now,
    )
    session.add(consent)
    return consent.consent_id
