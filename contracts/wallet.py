"""The wallet: accounts, double entry, statements."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field, StringConstraints

from contracts.messages import (
    AmountMicros,
    Command,
    Cursor,
    Event,
    IdempotencyKey,
    Metadata,
    PageLimit,
    PriceMicros,
    Reply,
    Request,
    ShortText,
    SignedMicros,
)

SERVICE = "wallet"


class TransactionKind(StrEnum):
    """Why money moved. The statement can be filtered by it."""

    PURCHASE = "purchase"
    TOPUP = "topup"
    AUTO_TOPUP = "auto_topup"
    TRANSFER = "transfer"
    EARNING = "earning"
    REFUND = "refund"
    RENEWAL = "renewal"
    USAGE = "usage"
    ADJUSTMENT = "adjustment"
    MIGRATION = "migration"
    CHARGEBACK = "chargeback"


class HouseAccount(StrEnum):
    """The product's own accounts: the other side of what users pay and get."""

    CARD_RECEIPTS = "card_receipts"
    MARKETPLACE_REVENUE = "marketplace_revenue"
    FEES = "fees"
    PROMOTIONS = "promotions"
    MIGRATION = "migration"
    ADJUSTMENTS = "adjustments"


class AccountStatus(StrEnum):
    OPEN = "open"
    FROZEN = "frozen"


class LowBalanceLevel(StrEnum):
    """The named levels below which a wallet says ``balance_low``, once per dip."""

    AUTO_TOPUP = "auto_topup"
    ALERT = "alert"


class Wallet(Reply):
    """One user's wallet. ``available_micros`` = ``balance_micros`` − ``held_micros``."""

    user_id: UUID
    account_id: int
    balance_micros: SignedMicros
    held_micros: PriceMicros
    available_micros: SignedMicros
    status: AccountStatus
    opened_at: AwareDatetime


class Transaction(Reply):
    """One transaction as its account's owner sees it.

    ``amount_micros`` is signed: positive is money in. ``balance_after_micros`` is the
    account's balance right after it. ``replayed`` says that this answer was given before.
    """

    transaction_id: UUID
    kind: TransactionKind
    amount_micros: SignedMicros
    balance_after_micros: SignedMicros
    description: str
    metadata: Metadata
    effective_at: AwareDatetime
    recorded_at: AwareDatetime
    replayed: bool = False


class OpenAccount(Command[Wallet], service=SERVICE, method="open_account"):
    """Open a user's wallet, empty. Opening one that is open returns it."""

    user_id: UUID


class Debit(Command[Transaction], service=SERVICE, method="debit"):
    """Take money out of a wallet, into a house account.

    Errors: :class:`~contracts.errors.InsufficientFunds`, ``AccountFrozen``, ``KeyClosed``,
    ``IdempotencyConflict``, ``NotFound``, ``Overloaded``.
    """

    user_id: UUID
    amount_micros: AmountMicros
    kind: TransactionKind = TransactionKind.PURCHASE
    destination: HouseAccount = HouseAccount.MARKETPLACE_REVENUE
    description: ShortText
    metadata: Metadata = Field(default_factory=dict)
    effective_at: AwareDatetime | None = None


class Credit(Command[Transaction], service=SERVICE, method="credit"):
    """Put money into a wallet, out of a house account. Opens the wallet if it has none yet."""

    user_id: UUID
    amount_micros: AmountMicros
    kind: TransactionKind = TransactionKind.TOPUP
    origin: HouseAccount = HouseAccount.CARD_RECEIPTS
    description: ShortText
    metadata: Metadata = Field(default_factory=dict)
    effective_at: AwareDatetime | None = None


class ClosedKey(Reply):
    """What closing a key found. ``transaction`` is the one made under it before, if any."""

    idempotency_key: IdempotencyKey
    closed: bool
    transaction: Transaction | None = None


class CloseKey(Request[ClosedKey], service=SERVICE, method="close_key"):
    """Close a key, so that a late command under it does nothing.

    ``closed`` is False when a command has already been carried out under it.
    """

    idempotency_key: IdempotencyKey


class GetWallet(Request[Wallet], service=SERVICE, method="get_wallet"):
    user_id: UUID


class Affordability(Reply):
    """Whether the wallet covers an amount; ``shortfall_micros`` is what it lacks."""

    can_afford: bool
    available_micros: SignedMicros
    shortfall_micros: PriceMicros


class CheckAffordability(Request[Affordability], service=SERVICE, method="check_affordability"):
    user_id: UUID
    amount_micros: AmountMicros


class StatementPage(Reply):
    """Newest first. ``next_cursor`` asks for the older ones; None at the end."""

    transactions: list[Transaction]
    next_cursor: Cursor | None = None


class Statement(Request[StatementPage], service=SERVICE, method="statement"):
    """A page of the user's transactions, newest first, stable while new ones are written."""

    user_id: UUID
    kinds: Annotated[list[TransactionKind], Field(max_length=20)] = Field(default_factory=list)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    cursor: Cursor | None = None
    limit: PageLimit = 25


class GetTransaction(Request[Transaction], service=SERVICE, method="get_transaction"):
    user_id: UUID
    transaction_id: UUID


class WalletCredited(Event, source=SERVICE, type="wallet_credited"):
    """Money came into a wallet; ``available_micros`` is what it can spend now."""

    user_id: UUID
    transaction_id: UUID
    kind: TransactionKind
    amount_micros: AmountMicros
    balance_micros: SignedMicros
    available_micros: SignedMicros
    topup_id: UUID | None = None


class BalanceLow(Event, source=SERVICE, type="balance_low"):
    """A debit took a wallet below one of its levels; once per dip, re-armed above it."""

    user_id: UUID
    level: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    threshold_micros: PriceMicros
    available_micros: SignedMicros


class AccountFroze(Event, source=SERVICE, type="account_froze", needs_listener=False):
    """An account may no longer be debited, for example after a disputed payment."""

    user_id: UUID
    reason: ShortText
    balance_micros: SignedMicros
