"""The wallet: accounts, double entry, statements."""

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Generic
from uuid import UUID, uuid4

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from contracts.messages import (
    MAX_AMOUNT_MICROS,
    AmountMicros,
    Command,
    Cursor,
    Day,
    IdempotencyKey,
    Metadata,
    Moment,
    PageLimit,
    PriceMicros,
    Reply,
    ReplyT,
    Request,
    ShortText,
    SignedMicros,
    Storable,
    TotalMicros,
    UserEvent,
    Value,
)

SERVICE = "wallet"
REPORT_S = 60.0
"""An answer that a thousand postings, or a year of them, are read or written for."""


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
    PAYOUT = "payout"
    EXCHANGE = "exchange"
    PROMOTION = "promotion"


class HouseAccount(StrEnum):
    """The product's own accounts: the other side of what users pay and get."""

    CARD_RECEIPTS = "card_receipts"
    MARKETPLACE_REVENUE = "marketplace_revenue"
    FEES = "fees"
    PROMOTIONS = "promotions"
    MIGRATION = "migration"
    ADJUSTMENTS = "adjustments"
    ADVANCES = "advances"
    PAYOUTS = "payouts"
    POOLS = "pools"


class AccountStatus(StrEnum):
    OPEN = "open"
    FROZEN = "frozen"


class LowBalanceLevel(StrEnum):
    """The named levels below which a wallet says ``balance_low``, once per dip."""

    AUTO_TOPUP = "auto_topup"
    ALERT = "alert"


EARLIEST_DATE = datetime(2000, 1, 1, tzinfo=UTC)


def _in_our_time(moment: datetime) -> datetime:
    if moment < EARLIEST_DATE:
        raise ValueError(f"it is before {EARLIEST_DATE:%Y}")
    return moment


EffectiveDate = Annotated[Moment, AfterValidator(_in_our_time)]
"""When something took effect: not before 2000, and not in the future."""


class Wallet(Reply):
    """One user's wallet. ``available_micros`` = ``balance_micros`` − ``held_micros``."""

    user_id: UUID
    account_id: int
    balance_micros: SignedMicros
    held_micros: TotalMicros
    available_micros: SignedMicros
    status: AccountStatus
    opened_at: Moment


class Transaction(Reply):
    """One transaction as its account's owner sees it.

    ``amount_micros`` is signed: positive is money in. ``balance_after_micros`` is the
    account's balance right after it. ``corrects_transaction_id`` is the earlier transaction
    that this one refunds or reverses. ``caller`` is who had it made: a login at the broker, or the
    exchange of an event; ``get_transaction`` has it where it is known. ``replayed`` says that this
    answer was given before, ``dry_run`` that nothing was written and the id stands for nothing.
    """

    transaction_id: UUID
    kind: TransactionKind
    amount_micros: SignedMicros
    balance_after_micros: SignedMicros
    description: str
    metadata: dict[str, str]
    effective_at: Moment
    recorded_at: Moment
    corrects_transaction_id: UUID | None = None
    caller: str | None = None
    replayed: bool = False
    dry_run: bool = False


class Noted(StrEnum):
    """Names in a transaction's metadata that others than their writer read.

    Billing notes the purchase or the deployment, the wallet what the top-up service told it of a
    top-up, what the house gave in a refund for who could not, the two sides of a transfer, and who
    proposed an adjustment that somebody else approved.
    """

    PURCHASE_ID = "purchase_id"
    DEPLOYMENT_ID = "deployment_id"
    TOPUP_ID = "topup_id"
    REVERSAL_ID = "reversal_id"
    PAYMENT_ID = "payment_id"
    TRIGGER = "trigger"
    TRIGGER_REFERENCE = "trigger_reference"
    THRESHOLD_MICROS = "threshold_micros"
    CARD_BRAND = "card_brand"
    CARD_LAST4 = "card_last4"
    ADVANCED_MICROS = "advanced_micros"
    ADVANCED_FOR = "advanced_for"
    FROM_USER_ID = "from_user_id"
    TO_USER_ID = "to_user_id"
    ADJUSTMENT_ID = "adjustment_id"
    PROPOSED_BY = "proposed_by"
    PROMOTION_ID = "promotion_id"


class WalletCommand(Command[ReplyT], Generic[ReplyT]):
    """A command of the wallet. With ``dry_run`` it is carried out and then undone.

    ``metadata`` and the date on which it takes effect (None: now) are kept with the transaction
    that it makes, or with its key where it makes none. A refusal (short of funds, frozen,
    unknown) leaves no trace: the same key may be tried again. Only an effect, or a closure of the
    key, is final.
    """

    may_differ: ClassVar[set[str]] = {*Command.may_differ, "dry_run"}

    metadata: Metadata = Field(default_factory=dict)
    effective_at: EffectiveDate | None = None
    dry_run: bool = False


class OpenAccount(WalletCommand[Wallet], service=SERVICE, method="open_account"):
    """Open a user's wallet, empty. Opening one that is open returns it."""

    user_id: UUID


class Share(Value):
    """A part of what is taken, and who gets it: a user, into the wallet, or a house account."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    destination: UUID | HouseAccount
    amount_micros: AmountMicros


Shares = Annotated[list[Share], Field(max_length=100)]
"""Enough for a purchase of many lines, each of somebody else, and for the house."""


class Debit(WalletCommand[Transaction], service=SERVICE, method="debit"):
    """Take money out of a wallet, into a house account.

    Or into several: ``shares`` say who gets what of the amount, come to all of it, and take the
    place of ``destination``. To a user a share is an ``earning``; it opens the wallet of who has
    none yet, and may be the payer's own.

    Errors: :class:`~contracts.errors.InsufficientFunds`, ``AccountFrozen``, ``KeyClosed``,
    ``IdempotencyConflict``, ``NotFound``, ``Overloaded``, and ``BadRequest`` for shares that do
    not come to the amount.
    """

    user_id: UUID
    amount_micros: AmountMicros
    kind: TransactionKind = TransactionKind.PURCHASE
    destination: HouseAccount = HouseAccount.MARKETPLACE_REVENUE
    shares: Shares = Field(default_factory=list)
    description: ShortText


class Credit(WalletCommand[Transaction], service=SERVICE, method="credit"):
    """Put money into a wallet, out of a house account. Opens the wallet if it has none yet."""

    user_id: UUID
    amount_micros: AmountMicros
    kind: TransactionKind = TransactionKind.TOPUP
    origin: HouseAccount = HouseAccount.CARD_RECEIPTS
    description: ShortText


class Transfer(WalletCommand[Transaction], service=SERVICE, method="transfer"):
    """Move money from one user to another. The reply is the sender's side of it.

    Promotional credit is not sent.
    Errors: as for :class:`Debit`; ``NotFound`` too when the receiver has no wallet, and
    ``BadRequest`` when both are the same.
    """

    from_user_id: UUID
    to_user_id: UUID
    amount_micros: AmountMicros
    description: ShortText


class HoldStatus(StrEnum):
    """The lifecycle of a hold: ``held``, then one of three ends."""

    HELD = "held"
    CAPTURED = "captured"
    VOIDED = "voided"
    EXPIRED = "expired"


class Hold(Reply):
    """Money set aside: it is still in the balance, and no longer available.

    ``captured_micros`` was taken at the capture; what it left was released.
    """

    hold_id: UUID
    user_id: UUID
    amount_micros: AmountMicros
    captured_micros: PriceMicros
    status: HoldStatus
    description: str
    metadata: dict[str, str]
    placed_at: Moment
    expires_at: Moment
    closed_at: Moment | None = None
    transaction_id: UUID | None = None
    replayed: bool = False
    dry_run: bool = False


HOLD_SECONDS_MAX = 366 * 86_400
HoldSeconds = Annotated[int, Field(strict=True, ge=1, le=HOLD_SECONDS_MAX)]


class PlaceHold(WalletCommand[Hold], service=SERVICE, method="hold"):
    """Set money aside until it is captured, voided, or ``expires_in_s`` have passed.

    ``is_paid_alone``: none of it may be promotional, for it is to leave the house. A retry need not
    say so again. Errors: as for :class:`Debit`.
    """

    may_differ: ClassVar[set[str]] = {*WalletCommand.may_differ, "is_paid_alone"}

    user_id: UUID
    amount_micros: AmountMicros
    expires_in_s: HoldSeconds = 7 * 86_400
    description: ShortText
    is_paid_alone: bool = False


class Capture(WalletCommand[Transaction], service=SERVICE, method="capture"):
    """Take held money: all of it, or ``amount_micros`` of it and release the rest.

    ``shares``: as for :class:`Debit`; they come to what is taken.
    Errors: ``NotFound``, ``Conflict`` (already captured, voided or expired), ``BadRequest``
    (more than was held, or the shares come to something else), ``AccountFrozen``.
    """

    user_id: UUID
    hold_id: UUID
    amount_micros: AmountMicros | None = None
    kind: TransactionKind = TransactionKind.PURCHASE
    destination: HouseAccount = HouseAccount.MARKETPLACE_REVENUE
    shares: Shares = Field(default_factory=list)
    description: ShortText | None = None


class VoidHold(WalletCommand[Hold], service=SERVICE, method="void"):
    """Release held money. Errors: ``NotFound``, ``Conflict`` (already ended)."""

    user_id: UUID
    hold_id: UUID


class Refund(WalletCommand[Transaction], service=SERVICE, method="refund"):
    """Give back all that is left of an earlier transaction, or ``amount_micros`` of it.

    The money goes back the way it came, from everybody who got some of it, in proportion to what
    is left of each part. Micro-dollars that the division leaves over are taken where its
    remainders are largest, of equal ones from the account with the lower id. All refunds of a
    transaction together never exceed it, nor any part of it. The reply is the side of ``user_id``,
    who was a party to the transaction; ``amount_micros`` is of the whole.

    ``shares`` say who gives back how much, in place of the proportion: those who got as much by the
    transaction and have it left. They come to the amount. With ``is_advanced`` the house account
    ``advances`` gives what a user has not got any more, who spent it or is frozen; how much, and
    who, stands in the transaction's metadata as ``advanced_micros`` and ``advanced_for``.

    Errors: ``NotFound``, ``Conflict`` (nothing is left, or not so much), ``BadRequest`` (so small a
    part that nothing of it is the side of ``user_id``, shares that do not come to the amount, or an
    advance for more than one user), and those of :class:`Debit` where the money came from a
    wallet.
    """

    user_id: UUID
    transaction_id: UUID
    amount_micros: AmountMicros | None = None
    shares: Shares = Field(default_factory=list)
    is_advanced: bool = False
    description: ShortText


class Reverse(WalletCommand[Transaction], service=SERVICE, method="reverse"):
    """Undo a whole transaction that was a mistake, with an adjustment that mirrors each entry.

    Errors: ``NotFound``, ``Conflict`` (refunded or reversed before), ``InsufficientFunds``
    where a wallet no longer has the money.
    """

    user_id: UUID
    transaction_id: UUID
    reason: ShortText
    actor: ShortText


class Adjust(WalletCommand[Transaction], service=SERVICE, method="adjust"):
    """Correct a wallet by hand, up (positive) or down, with the reason and who did it.

    It works on a frozen wallet too, and never takes more than is available.
    """

    user_id: UUID
    amount_micros: Annotated[int, Field(strict=True, ge=-MAX_AMOUNT_MICROS, le=MAX_AMOUNT_MICROS)]
    reason: ShortText
    actor: ShortText


class AdjustmentStatus(StrEnum):
    """``proposed``, until it is decided or its time is over."""

    PROPOSED = "proposed"
    POSTED = "posted"
    REJECTED = "rejected"
    EXPIRED = "expired"


class Adjustment(Reply):
    """A correction of a wallet that somebody proposed, up (positive) or down, and what became of
    it. ``transaction_id`` is its posting, once somebody else has approved it."""

    adjustment_id: UUID
    user_id: UUID
    amount_micros: SignedMicros
    reason: str
    proposed_by: UUID
    proposed_at: Moment
    expires_at: Moment
    status: AdjustmentStatus
    decided_by: UUID | None = None
    decided_at: Moment | None = None
    decision_reason: str | None = None
    transaction_id: UUID | None = None
    replayed: bool = False


class ProposeAdjustment(Command[Adjustment], service=SERVICE, method="propose_adjustment"):
    """Propose to correct a wallet by hand; it moves nothing.

    Errors: ``NotFound`` (no wallet), ``BadRequest`` (zero), ``Conflict`` (one's own wallet).
    """

    user_id: UUID
    amount_micros: Annotated[int, Field(strict=True, ge=-MAX_AMOUNT_MICROS, le=MAX_AMOUNT_MICROS)]
    reason: ShortText
    proposed_by: UUID


class DecideAdjustment(Command[Adjustment], service=SERVICE, method="decide_adjustment"):
    """Approve what somebody else proposed, which posts it at once, or reject it.

    It works on a frozen wallet too, and never takes more than is available. Errors: ``NotFound``,
    ``Conflict`` (decided before, expired, one's own proposal or wallet), and
    ``InsufficientFunds``, after which it is still proposed.
    """

    adjustment_id: UUID
    decided_by: UUID
    is_approved: Annotated[bool, Field(strict=True)]
    reason: ShortText


class AdjustmentList(Reply):
    """The newest first."""

    adjustments: list[Adjustment]


class ListAdjustments(Request[AdjustmentList], service=SERVICE, method="list_adjustments"):
    """What was proposed, of all wallets; with ``only_open`` what can still be decided."""

    only_open: bool = False
    limit: PageLimit = 100


class Promotion(Reply):
    """Promotional credit, and what is left of it."""

    promotion_id: UUID
    amount_micros: AmountMicros
    left_micros: PriceMicros
    reason: str
    given_by: UUID
    given_at: Moment
    expires_at: Moment
    replayed: bool = False


class GivePromotion(Command[Promotion], service=SERVICE, method="give_promotion"):
    """Give promotional credit, out of the house account ``promotions``.

    It pays for what is bought, before paid credit does, and goes nowhere else: not to others, not
    to a card, not into a pool, not out as a payout. What is left of it at ``expires_at`` goes back
    within seconds; what a hold ties up then, once that ends; what comes back of a payment later,
    too.
    Errors: ``NotFound`` (no wallet), ``BadRequest`` (more than one may give, or longer),
    ``Conflict`` (one's own wallet, one below zero, or too many).
    """

    user_id: UUID
    amount_micros: AmountMicros
    reason: ShortText
    expires_at: Moment
    given_by: UUID


class Promotions(Reply):
    """Those of which something is left, the one that is spent first first."""

    promotions: list[Promotion]


class GetPromotions(Request[Promotions], service=SERVICE, method="get_promotions"):
    """What of a wallet is promotional. Errors: ``NotFound``."""

    user_id: UUID


class StatusChange(Reply):
    """A wallet was frozen or opened again: by whom, why and when."""

    user_id: UUID
    status: AccountStatus
    reason: str
    actor: str
    changed_at: Moment
    replayed: bool = False
    dry_run: bool = False


class Freeze(WalletCommand[StatusChange], service=SERVICE, method="freeze"):
    """Let nothing out of a wallet any more; credits still come in."""

    user_id: UUID
    reason: ShortText
    actor: ShortText


class Unfreeze(WalletCommand[StatusChange], service=SERVICE, method="unfreeze"):
    """Let money out again. Errors: ``Conflict`` while the wallet is below zero."""

    user_id: UUID
    reason: ShortText
    actor: ShortText


class Level(Reply):
    """A named low-balance level; None means that there is none."""

    user_id: UUID
    level: LowBalanceLevel
    threshold_micros: PriceMicros | None
    dry_run: bool = False


class GetLevel(Request[Level], service=SERVICE, method="get_level"):
    """The wallet's ``alert`` level. Errors: ``NotFound``."""

    user_id: UUID


def _key_of_one_call() -> str:
    return f"level:{uuid4()}"


class SetLevel(WalletCommand[Level], service=SERVICE, method="set_level"):
    """Set the wallet's ``alert`` level, or drop it with None.

    Repeated under its key it changes nothing, and answers with the level as it is by then. A
    call without a key is one of its own. The ``auto_topup`` level belongs to the auto top-up
    settings. Errors: ``NotFound``.
    """

    idempotency_key: IdempotencyKey = Field(default_factory=_key_of_one_call)
    user_id: UUID
    threshold_micros: PriceMicros | None


class BatchCommand(Value):
    """One command of a batch: its method and its arguments, and nothing beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    method: Annotated[str, StringConstraints(min_length=1, max_length=40), Storable]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, command: Command[Any]) -> "BatchCommand":
        """The batch's form of a typed command."""
        return cls(method=command.method, arguments=command.arguments())


class BatchError(Value):
    """Why one command of a batch was refused: the code and sentence of its error."""

    code: str
    message: str
    details: list[str] = Field(default_factory=list)


class BatchResult(Value):
    """The reply of one command as it would have been alone, or why it was refused."""

    reply: dict[str, Any] | None = None
    error: BatchError | None = None


class BatchOutcome(Reply):
    """One result for each command, in their order.

    ``applied`` is False when the batch was a dry run, and when it was atomic and a command of
    it was refused: then none was carried out, and the refused one's result says why.
    """

    results: list[BatchResult]
    applied: bool


COMMANDS_MAX = 1_000
"""So many in one batch."""


class PostBatch(
    Request[BatchOutcome], service=SERVICE, method="post_batch", answer_within_s=REPORT_S
):
    """Up to 1,000 commands in one call, each with its own idempotency key.

    ``atomic``: all or none. Otherwise each stands by itself, in the order given; one that
    ``gives_way`` is carried out, or rehearsed, by turns with what others ask for, a few at a time
    while they do: slower then, and nobody waits for all of it. ``Unavailable``
    when it is not known whether an atomic batch was carried out; where each stands by itself,
    the results say so.
    """

    commands: Annotated[list[BatchCommand], Field(min_length=1, max_length=COMMANDS_MAX)]
    atomic: bool = False
    dry_run: bool = False
    gives_way: bool = False


class DebitResult(Value):
    """The transaction of one debit as it would have been alone, or why it was refused."""

    transaction: Transaction | None = None
    error: BatchError | None = None


class DebitOutcomes(Reply):
    """One result for each debit, in their order."""

    results: list[DebitResult]


class DebitAll(Request[DebitOutcomes], service=SERVICE, method="debit_all"):
    """Up to 1,000 debits in one call, each by itself, for a caller that may do nothing else.

    ``BadRequest`` for a dry run among them; nothing is done then.
    """

    debits: Annotated[list[Debit], Field(min_length=1, max_length=1_000)]


class ClosedKey(Reply):
    """What closing a key found. ``transaction`` is the one made under it before, if any."""

    idempotency_key: IdempotencyKey
    closed: bool
    transaction: Transaction | None = None
    dry_run: bool = False


class KeyState(StrEnum):
    """What is known of an idempotency key. ``unused`` may still change, until it is closed."""

    UNUSED = "unused"
    DONE = "done"
    CLOSED = "closed"


class KeyOutcome(Reply):
    """What became of the command under a key, with the reply that its caller got or missed.

    ``metadata`` and ``effective_at`` are those of the command that was carried out, or that
    closed the key.
    """

    idempotency_key: IdempotencyKey
    state: KeyState
    method: str | None = None
    recorded_at: Moment | None = None
    effective_at: Moment | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    reply: dict[str, Any] | None = None


class GetByKey(Request[KeyOutcome], service=SERVICE, method="get_by_key"):
    """What became of a command whose answer was lost."""

    idempotency_key: IdempotencyKey


class CloseKey(WalletCommand[ClosedKey], service=SERVICE, method="close_key"):
    """Close a key, so that a late command under it does nothing.

    ``closed`` is False when a command has already been carried out under it. ``get_by_key``
    says what it made, where that was no transaction. Closing a closed key changes nothing.
    """


class GetWallet(Request[Wallet], service=SERVICE, method="get_wallet"):
    user_id: UUID


class Expiring(Value):
    """So much of a user's promotional credit is left, and goes back at ``expires_at``."""

    user_id: UUID
    left_micros: AmountMicros
    expires_at: Moment


class Wallets(Reply):
    """In no order; who has no wallet is missing. ``expiring``, where it was asked for, is what of
    these wallets is promotional."""

    wallets: list[Wallet]
    expiring: list[Expiring] = Field(default_factory=list)


class GetWallets(Request[Wallets], service=SERVICE, method="get_wallets"):
    """The wallets of several users, for whoever asks for many at once; ``with_expiring`` also says
    what of them is promotional, and when it ends."""

    user_ids: Annotated[list[UUID], Field(min_length=1, max_length=100)]
    with_expiring: bool = False


class Affordability(Reply):
    """Whether the amount can be paid; ``shortfall_micros`` is what the wallet lacks for it.

    A frozen wallet can pay nothing, whatever it holds.
    """

    can_afford: bool
    status: AccountStatus = AccountStatus.OPEN
    available_micros: SignedMicros
    shortfall_micros: TotalMicros


class CheckAffordability(Request[Affordability], service=SERVICE, method="check_affordability"):
    user_id: UUID
    amount_micros: AmountMicros


class UnusedTopup(Value):
    """What is left of a top-up; 0 for one that this wallet was never credited."""

    topup_id: UUID
    unused_micros: PriceMicros


class UnusedTopups(Reply):
    """One for each that was asked about, in that order. ``available_micros`` is what the wallet
    can spend of all that it has, which may be less than what is left of a top-up: it is held."""

    topups: list[UnusedTopup]
    available_micros: SignedMicros
    status: AccountStatus


class GetUnusedTopups(Request[UnusedTopups], service=SERVICE, method="get_unused_topups"):
    """How much of each of these top-ups is not spent. The oldest credit is spent first.

    So what was in the wallet before a top-up is used before it, and what came after it, a gift
    say, afterwards. What was given back for a purchase was never spent; what went back to a card
    was never there. Errors: ``NotFound`` (no wallet).
    """

    user_id: UUID
    topup_ids: Annotated[list[UUID], Field(min_length=1, max_length=100)]


class StatementPage(Reply):
    """Newest first. ``next_cursor`` asks for the older ones; None at the end.

    A page is shorter than asked for where long metadata would make it too large for a message.
    ``promotions`` is there where it was asked for, as :class:`GetPromotions` tells it.
    """

    transactions: list[Transaction]
    next_cursor: Cursor | None = None
    promotions: list[Promotion] | None = None


class Statement(Request[StatementPage], service=SERVICE, method="statement"):
    """A page of the user's transactions, newest first, stable while new ones are written.

    ``with_promotions``: and what of the wallet is promotional, which saves a question.
    """

    user_id: UUID
    kinds: Annotated[list[TransactionKind], Field(max_length=20)] = Field(default_factory=list)
    since: Moment | None = None
    until: Moment | None = None
    cursor: Cursor | None = None
    limit: PageLimit = 25
    with_promotions: bool = False


class GetTransaction(Request[Transaction], service=SERVICE, method="get_transaction"):
    user_id: UUID
    transaction_id: UUID


class DateAxis(StrEnum):
    """Which date counts: when a transaction took effect, or when it was written down."""

    RECORDED = "recorded"
    EFFECTIVE = "effective"


class PastBalance(Reply):
    user_id: UUID
    at: Moment
    axis: DateAxis
    balance_micros: SignedMicros


class BalanceAt(Request[PastBalance], service=SERVICE, method="balance_at"):
    """The balance right after everything up to and including the moment ``at``."""

    user_id: UUID
    at: Moment
    axis: DateAxis = DateAxis.RECORDED


class ExportedEntry(Value):
    """One line of an export: one account's side of one transaction."""

    account_id: int
    entry_number: int
    user_id: UUID | None
    house_account: HouseAccount | None
    transaction_id: UUID
    kind: TransactionKind
    amount_micros: SignedMicros
    balance_after_micros: SignedMicros | None
    description: str
    metadata: dict[str, str]
    effective_at: Moment
    recorded_at: Moment
    corrects_transaction_id: UUID | None = None
    caller: str | None = None


class ExportPage(Reply):
    entries: list[ExportedEntry]
    next_cursor: Cursor | None = None


class Export(Request[ExportPage], service=SERVICE, method="export", answer_within_s=REPORT_S):
    """The entries of one user's account, or of all accounts, oldest first within an account.

    Ask again with ``next_cursor`` until it is None. Pages are asked for one after the other:
    those of the house's accounts may lack entries that were being written meanwhile. The
    operator's command takes one snapshot of everything.
    """

    user_id: UUID | None = None
    cursor: Cursor | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 500


class MadeCredit(Value):
    """Money that came out of a house account into a wallet, or a correction by hand.

    ``caller`` is who had it made, as in :class:`Transaction`; None where that is not known.
    ``is_approved``: the wallet has on record who proposed it and who else approved it, or who gave
    it as promotional credit.
    """

    transaction_id: UUID
    user_id: UUID
    kind: TransactionKind
    amount_micros: SignedMicros
    caller: str | None
    description: str
    metadata: dict[str, str]
    recorded_at: Moment
    is_approved: bool = False


LedgerPosition = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]


class CreditPage(Reply):
    """In the order of the ledger. ``next_position`` is where the next question goes on.

    ``is_last``: there was no more when this was asked.
    """

    credits: list[MadeCredit]
    next_position: LedgerPosition
    is_last: bool


class ListCredits(
    Request[CreditPage], service=SERVICE, method="list_credits", answer_within_s=REPORT_S
):
    """For an audit: the credits, and the corrections by hand, after a position of the ledger.

    Refunds are left out: they never exceed what was paid. A transaction is told once it is
    sealed, some seconds after it was made. A position beyond the last one stands for that.
    """

    after_position: LedgerPosition = 0


class DayTotal(Value):
    """What one kind of transaction came to on one day (UTC, by its recorded date).

    ``credited_micros`` went into users' wallets, ``debited_micros`` out of them.
    """

    day: date
    kind: TransactionKind
    transaction_count: int
    credited_micros: SignedMicros
    debited_micros: SignedMicros


class TotalsReport(Reply):
    days: list[DayTotal]


class Totals(Request[TotalsReport], service=SERVICE, method="totals", answer_within_s=REPORT_S):
    """Totals by kind and day, from ``since`` up to ``until`` (exclusive), at most 400 days."""

    since: Moment
    until: Moment


class Verdict(Reply):
    """What verification found: ``first_difference`` names what is wrong, None when nothing is."""

    clean: bool
    first_difference: str | None = None
    account_count: int
    transaction_count: int
    entry_count: int
    sealed_count: int


class Verification(Reply):
    """A verification that was asked for, by somebody or by a night, and what it found;
    ``ended_at`` is None until it has ended."""

    verification_id: UUID
    asked_by: UUID | None
    asked_at: Moment
    ended_at: Moment | None
    clean: bool | None
    first_difference: str | None
    account_count: int | None
    transaction_count: int | None
    entry_count: int | None
    sealed_count: int | None


class Verify(Request[Verdict], service=SERVICE, method="verify", answer_within_s=600):
    """Derive everything again from the entries and compare. Minutes for a large ledger.

    Raises ``Conflict`` while another verification is running.
    """


class AskVerification(Command[Verification], service=SERVICE, method="ask_verification"):
    """Have the ledger verified soon. One that is under way, or waits, is that one."""

    asked_by: UUID


class HouseBalance(Value):
    """What a house account has given (negative) or got, in all."""

    account: HouseAccount
    balance_micros: SignedMicros


class Books(Reply):
    """The trial balance at one moment: the house's accounts and all wallets come to zero, which
    ``difference_micros`` says. ``negative`` are the wallets below zero, the deepest first, 100 at
    most; ``verifications`` the newest first."""

    at: Moment
    house: list[HouseBalance]
    wallet_count: int
    wallets_micros: SignedMicros
    held_micros: TotalMicros
    difference_micros: SignedMicros
    negative: list[Wallet]
    verifications: list[Verification]


class GetBooks(Request[Books], service=SERVICE, method="get_books", answer_within_s=REPORT_S):
    """The trial balance, wallets below zero, and what the last verifications found."""


class JournalLine(Value):
    """What a house account got and gave on one day (UTC, by the recorded date) by one kind."""

    day: date
    account: HouseAccount
    kind: TransactionKind
    transaction_count: int
    received_micros: TotalMicros
    given_micros: TotalMicros


class Journal(Reply):
    lines: list[JournalLine]


class GetJournal(Request[Journal], service=SERVICE, method="get_journal", answer_within_s=REPORT_S):
    """The journal of the house's accounts from a day up to another (exclusive), 31 days at most."""

    since: Day
    until: Day


class WalletCredited(UserEvent, source=SERVICE, type="wallet_credited"):
    """Money came into a wallet; ``available_micros`` is what it can spend now.

    Earnings that came at once are told together: ``amount_micros`` is all of them, and
    ``transaction_id`` the last. ``from_user_id`` is who sent a transfer. ``entry_number`` counts
    the wallet's entries: it is larger than what a refusal tells that came before. Earlier versions
    did not say it.
    """

    inside: ClassVar[frozenset[str]] = frozenset({"entry_number"})

    transaction_id: UUID
    kind: TransactionKind
    amount_micros: AmountMicros
    balance_micros: SignedMicros
    available_micros: SignedMicros
    topup_id: UUID | None = None
    from_user_id: UUID | None = None
    entry_number: int | None = None


class BalanceLow(UserEvent, source=SERVICE, type="balance_low"):
    """A debit took a wallet below one of its levels; once per dip, re-armed above it."""

    level: Annotated[str, StringConstraints(min_length=1, max_length=40), Storable]
    threshold_micros: PriceMicros
    available_micros: SignedMicros


class BalanceRestored(UserEvent, source=SERVICE, type="balance_restored"):
    """A wallet has reached its ``alert`` level again: once after each dip, and after a level that
    was set while the wallet was below it."""

    threshold_micros: PriceMicros
    available_micros: SignedMicros


class AccountFroze(UserEvent, source=SERVICE, type="account_froze", needs_listener=False):
    """An account may no longer be debited, for example after a disputed payment."""

    reason: ShortText
    balance_micros: SignedMicros
