"""The levels below which a wallet says ``balance_low``: one of its owner, one of auto top-up."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from contracts.wallet import LowBalanceLevel, SetLevel
from services.wallet.book import accounts, levels
from services.wallet.book.book import Book
from services.wallet.book.postings import Effect


def set_alert(book: Book, command: SetLevel) -> Effect:
    """Set or drop the user's ``alert`` level. Raises ``NotFound``."""
    account = book.account(command.user_id)
    book.set_level(account, LowBalanceLevel.ALERT, command.threshold_micros)
    reply = levels.alert(command.user_id, command.threshold_micros)
    return Effect(reply, account.account_id)


def arm_auto_topup(
    session: Session,
    now: datetime,
    user_id: UUID,
    threshold_micros: int | None,
    settings_version: int,
) -> None:
    """Set the ``auto_topup`` level, or drop it; opens the wallet if there is none yet.

    A wallet that is below the level already is not armed: whoever saves the settings looks
    at the balance, and the level speaks at the next dip. Settings that come late are ignored.
    """
    accounts.open_missing(session, now, user_id)
    account = accounts.lock(session, user_id)
    levels.arm_auto_topup(
        session, account.account_id, account.available_micros, threshold_micros, settings_version
    )
