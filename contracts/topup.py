"""Top-ups: cards, credits bought by hand, auto top-up."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import Field, StringConstraints

from contracts.messages import (
    AmountMicros,
    Command,
    Cursor,
    Done,
    Moment,
    PageLimit,
    PriceMicros,
    Reply,
    Request,
    ShortText,
    SignedMicros,
    Storable,
    UserEvent,
    Value,
)

SERVICE = "topup"
CARD_PROCESSOR_S = 25.0
"""An answer that waits for the card processor, which may take its time."""

Email = Annotated[str, StringConstraints(min_length=3, max_length=254), Storable]
RETURN_PATH_LENGTH_MAX = 500
ReturnPath = Annotated[
    str,
    StringConstraints(max_length=RETURN_PATH_LENGTH_MAX, pattern=r"^/([^/\\].*)?$"),
    Storable,
]
PaymentMethodId = Annotated[str, StringConstraints(min_length=1, max_length=255), Storable]
QUESTIONS_MAX = 100
"""How many forecasts one call asks for at most."""


CARD_BRANDS = {
    "amex": "American Express",
    "cartes_bancaires": "Cartes Bancaires",
    "diners": "Diners Club",
    "discover": "Discover",
    "eftpos_au": "eftpos",
    "jcb": "JCB",
    "link": "Link",
    "mastercard": "Mastercard",
    "unionpay": "UnionPay",
    "visa": "Visa",
}
"""The card processor's words for brands, and the names that their owners know them by."""


def brand_name(brand: str) -> str:
    """What people call a brand of cards; ``Card`` for one that has no name here."""
    return CARD_BRANDS.get(brand, "Card")


class TopupKind(StrEnum):
    MANUAL = "manual"
    AUTO = "auto"


class TopupStatus(StrEnum):
    """The lifecycle of a top-up. ``unknown`` stays reserved until the processor was asked."""

    CREATED = "created"
    PROCESSING = "processing"
    ACTION_REQUIRED = "action_required"
    UNKNOWN = "unknown"
    PAID = "paid"
    CREDITED = "credited"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Trigger(StrEnum):
    """What started an automatic top-up."""

    PURCHASE = "purchase"
    RENEWAL = "renewal"
    LOW_BALANCE = "low_balance"
    SETTINGS_SAVED = "settings_saved"
    BY_HAND = "by_hand"


class RefusalCode(StrEnum):
    """Why an automatic top-up was not made."""

    DISABLED = "disabled"
    PAUSED = "paused"
    STOPPED_BY_OPERATOR = "stopped_by_operator"
    NO_CARD = "no_card"
    IN_FLIGHT = "in_flight"
    CARD_PAGE_OPEN = "card_page_open"
    COOL_DOWN = "cool_down"
    DAILY_LIMIT = "daily_limit"
    MONTHLY_LIMIT = "monthly_limit"
    SYSTEM_CAP = "system_cap"
    NOT_NEEDED = "not_needed"
    IDLE = "idle"
    WALLET_UNAVAILABLE = "wallet_unavailable"
    ACCOUNT_FROZEN = "account_frozen"
    AMOUNT_TOO_LARGE = "amount_too_large"


class Topup(Reply):
    """One top-up. ``failure_message`` is a sentence for a person; codes are the processor's.

    ``checkout_url`` is where its owner pays, or confirms it with the bank. ``purchase_id`` is the
    one purchase that a top-up by hand is for. ``is_saved_card``: it is by hand, by a saved card.
    """

    topup_id: UUID
    user_id: UUID
    kind: TopupKind
    status: TopupStatus
    amount_micros: AmountMicros
    checkout_url: str | None = None
    trigger: Trigger | None = None
    trigger_reference: str | None = None
    failure_code: str = ""
    failure_message: str = ""
    card_brand: str = ""
    card_last4: str = ""
    receipt_url: str | None = None
    created_at: Moment
    updated_at: Moment
    replayed: bool = False
    purchase_id: UUID | None = None
    is_saved_card: bool = False


class StartTopup(
    Command[Topup], service=SERVICE, method="start_topup", answer_within_s=CARD_PROCESSOR_S
):
    """Buy credits: on the processor's hosted page, to which ``checkout_url`` leads, or with
    ``payment_method_id`` by a saved card, at once.

    The person is there and has pressed a button. The answer says what became of the charge:
    ``paid``, ``failed`` with the reason, ``unknown``, or ``action_required``, where the bank wants
    it confirmed at ``checkout_url`` within half an hour. One such charge of a user is under way at
    a time. ``paid_topups_seen`` is how many paid top-ups the person was shown: with another one
    since, nothing is charged (``Conflict``), so that neither a second tab nor a page from before a
    lost answer pays twice.

    ``return_path`` is where the person comes back to on our own site. ``purchase_id`` is what the
    credits are for, if they are for one purchase: then nothing else pays for it while the page is
    open, which is half an hour at most, another page for it closes this one, and so does the end
    of the purchase.
    Errors: ``BadRequest`` (not whole cents, below or above the bounds), ``Conflict`` (the purchase
    needs no money any more, or a payment for it is being confirmed), ``NotFound`` (the card),
    ``AccountFrozen`` (a frozen
    wallet takes no more than it owes), ``PaymentFailed``, ``Unavailable``, ``IdempotencyConflict``.
    """

    may_differ: ClassVar[set[str]] = {*Command.may_differ, "email", "paid_topups_seen"}

    user_id: UUID
    email: Email
    amount_micros: AmountMicros
    save_card: bool = False
    return_path: ReturnPath = "/dashboard/wallet"
    purchase_id: UUID | None = None
    payment_method_id: PaymentMethodId | None = None
    paid_topups_seen: Annotated[int, Field(strict=True, ge=0)] | None = None


class GetTopup(Request[Topup], service=SERVICE, method="get_topup"):
    user_id: UUID
    topup_id: UUID


class TopupPage(Reply):
    topups: list[Topup]
    next_cursor: Cursor | None = None


class ListTopups(Request[TopupPage], service=SERVICE, method="list_topups"):
    user_id: UUID
    cursor: Cursor | None = None
    limit: PageLimit = 25


class PaymentMethod(Value):
    payment_method_id: PaymentMethodId
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    is_default: bool
    is_auto_topup: bool
    is_backup: bool = False
    expires_soon: bool = False


class PaymentMethodList(Reply):
    payment_methods: list[PaymentMethod]
    next_cursor: Cursor | None = None


class ListPaymentMethods(
    Request[PaymentMethodList], service=SERVICE, method="list_payment_methods"
):
    """The saved cards: the default one first, then the newest."""

    user_id: UUID
    cursor: Cursor | None = None
    limit: PageLimit = 100


class CardSetup(Reply):
    checkout_url: str


class StartCardSetup(
    Command[CardSetup], service=SERVICE, method="start_card_setup", answer_within_s=CARD_PROCESSOR_S
):
    """Begin to save a card on the processor's hosted page."""

    may_differ: ClassVar[set[str]] = {*Command.may_differ, "email"}

    user_id: UUID
    email: Email
    return_path: ReturnPath = "/dashboard/wallet"


class RemovePaymentMethod(
    Request[PaymentMethodList],
    service=SERVICE,
    method="remove_payment_method",
    answer_within_s=CARD_PROCESSOR_S,
):
    """Forget a card; auto top-up that used it is paused and says so."""

    user_id: UUID
    payment_method_id: PaymentMethodId


class SetDefaultPaymentMethod(
    Request[PaymentMethodList],
    service=SERVICE,
    method="set_default_payment_method",
    answer_within_s=CARD_PROCESSOR_S,
):
    user_id: UUID
    payment_method_id: PaymentMethodId


class SpendingLimit(Value):
    """A limit, what of it is used (pending charges count), and when it starts anew (UTC)."""

    limit_micros: PriceMicros
    used_micros: PriceMicros
    resets_at: Moment


class Refusal(Value):
    """An automatic top-up that was due and not made, and why."""

    refusal_code: RefusalCode
    reason: str
    trigger: Trigger
    trigger_reference: str | None = None
    refused_at: Moment


class PlannedCharge(Value):
    """A charge that auto top-up will make by itself, at ``at`` or within seconds of it.

    ``trigger`` says what for: a purchase that lacks credits, or a balance below the threshold.
    """

    amount_micros: AmountMicros
    trigger: Trigger
    at: Moment
    card_brand: str = ""
    card_last4: str = ""


class AutoTopupStatus(Reply):
    """The settings and what they would do now.

    ``state`` is one of ``off``, ``active``, ``paused``; ``state_reason`` a sentence.
    ``confirm_url`` leads to where the person confirms a payment their bank asked about.
    ``backup_payment_method`` is charged when the bank declines the first card.
    ``last_refusal`` is there as long as no top-up succeeded after it. ``consent_text`` of
    ``consent_version`` is what the person agrees to when they save. ``is_stopped_by_operator``:
    no automatic charge is made for anybody at present. ``charges`` are there in a dry
    run alone: what saving would set off, and ``charge_now_micros`` what of it at once.
    """

    enabled: bool
    state: str
    state_code: str = ""
    state_reason: str = ""
    threshold_micros: PriceMicros | None = None
    topup_amount_micros: PriceMicros | None = None
    payment_method: PaymentMethod | None = None
    daily_limit: SpendingLimit | None = None
    monthly_limit: SpendingLimit | None = None
    cool_down_until: Moment | None = None
    in_flight_topup_id: UUID | None = None
    confirm_url: str | None = None
    consent_version: str = ""
    consent_text: str = ""
    last_topup: Topup | None = None
    backup_payment_method: PaymentMethod | None = None
    last_refusal: Refusal | None = None
    is_stopped_by_operator: bool = False
    cool_down_s: int = 0
    topup_amount_min_micros: PriceMicros = 0
    topup_amount_max_micros: PriceMicros = 0
    charge_now_micros: PriceMicros = 0
    charges: list[PlannedCharge] = Field(default_factory=list)


class GetAutoTopup(Request[AutoTopupStatus], service=SERVICE, method="get_auto_topup"):
    user_id: UUID


class TopupOverview(Reply):
    """How paying stands: auto top-up, the first page of cards, the newest top-ups, and how many
    were ever paid."""

    auto_topup: AutoTopupStatus
    payment_methods: PaymentMethodList
    topups: TopupPage
    paid_topups: int = 0


class GetTopupOverview(Request[TopupOverview], service=SERVICE, method="get_topup_overview"):
    """What a page about credits shows, in one question instead of three."""

    user_id: UUID
    topups: PageLimit = 10


class AutoTopupState(Reply):
    """Of the status what is shown everywhere: ``state`` and the others as they stand there."""

    enabled: bool
    state: str
    threshold_micros: PriceMicros | None = None


class GetAutoTopupState(Request[AutoTopupState], service=SERVICE, method="get_auto_topup_state"):
    """One look at the database, where the whole status takes three or more."""

    user_id: UUID


class AutoTopupStates(Reply):
    """One for each user, in their order."""

    states: list[AutoTopupState]


class GetAutoTopupStates(Request[AutoTopupStates], service=SERVICE, method="get_auto_topup_states"):
    """The same of several users, for whoever asks about many at once."""

    user_ids: Annotated[list[UUID], Field(min_length=1, max_length=QUESTIONS_MAX)]


class ConfigureAutoTopup(
    Command[AutoTopupStatus],
    service=SERVICE,
    method="configure_auto_topup",
    answer_within_s=CARD_PROCESSOR_S,
):
    """Save the settings. What is left out stays as it is; a limit of None is no limit.

    Enabling, another card, amount or threshold, and a limit that is raised or dropped need
    ``consent`` to the text of ``consent_version``. The amounts must be given the first time.

    Enabling while the balance is already below the threshold, or while a purchase waits, charges
    now. With ``dry_run`` it is carried out and then undone, which tells what it would charge.
    Switching off always works and leaves the other settings as they were.
    Errors: ``BadRequest`` (bounds, whole cents, no consent), ``NotFound`` (the card).
    """

    may_differ: ClassVar[set[str]] = {*Command.may_differ, "client_address", "dry_run"}

    user_id: UUID
    enabled: bool
    threshold_micros: PriceMicros | None = None
    topup_amount_micros: AmountMicros | None = None
    payment_method_id: PaymentMethodId | None = None
    backup_payment_method_id: PaymentMethodId | None = None
    daily_limit_micros: AmountMicros | None = None
    monthly_limit_micros: AmountMicros | None = None
    consent: bool = False
    consent_version: Annotated[str, StringConstraints(max_length=40), Storable] = ""
    client_address: Annotated[str, StringConstraints(max_length=64), Storable] = ""
    dry_run: bool = False

    def arguments(self) -> dict[str, Any]:
        """What was given, and nothing else: left out is not the same as None here."""
        return self.model_dump(mode="json", exclude_unset=True)

    def repeated(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=self.may_differ, exclude_unset=True)


class AutoTopupOutcome(Reply):
    """What a trigger did: a top-up in progress, or the reason why none was made."""

    topup: Topup | None = None
    refusal_code: RefusalCode | None = None
    refusal_reason: str = ""


class TriggerAutoTopup(
    Command[AutoTopupOutcome],
    service=SERVICE,
    method="trigger_auto_topup",
    answer_within_s=CARD_PROCESSOR_S,
):
    """Ask for an automatic top-up now, by hand, within the same settings and limits."""

    user_id: UUID


class AutoTopupPreview(Reply):
    """What auto top-up would do about a shortfall: the amount it would charge, or why not.

    ``confirm_url``: where the person confirms the payment that keeps it paused. ``retry_at`` is
    there for a refusal that passes by itself, and says when it has; ``amount_micros`` is charged
    then, if that much is still lacking, and 0 where a payment that is under way may cover it or
    the last one was declined. For a purchase: ``is_being_confirmed`` says that a payment is under
    way which may cover it, so that no card page is opened for it, and ``card_page_url`` leads to
    the page that is open.
    """

    would_topup: bool
    amount_micros: PriceMicros
    refusal_code: RefusalCode | None = None
    reason: str = ""
    card_brand: str = ""
    card_last4: str = ""
    confirm_url: str | None = None
    retry_at: Moment | None = None
    is_being_confirmed: bool = False
    card_page_url: str | None = None


class PreviewAutoTopup(Request[AutoTopupPreview], service=SERVICE, method="preview_auto_topup"):
    user_id: UUID
    shortfall_micros: AmountMicros
    purchase_id: UUID | None = None


class ChargeForecast(Reply):
    """What will be charged by itself, in this order, as the rule and the limits are now.

    ``is_covered``: credits and these charges pay for the spending; where they do not,
    ``refusal_code`` and ``reason`` say why no charge is made for it. ``retry_at``: when that
    reason has passed by itself. ``balance_after_micros`` is what is left when all went through.
    ``more_follow``: there are more charges than these. ``threshold_micros`` is None while auto
    top-up is off. ``in_flight_topup_id``: a charge that is under way already, of
    ``in_flight_micros``; it is not among ``charges``.
    """

    charges: list[PlannedCharge]
    more_follow: bool = False
    is_covered: bool = True
    balance_after_micros: SignedMicros = 0
    refusal_code: RefusalCode | None = None
    reason: str = ""
    retry_at: Moment | None = None
    threshold_micros: PriceMicros | None = None
    in_flight_topup_id: UUID | None = None
    in_flight_micros: PriceMicros = 0


class ForecastCharges(Request[ChargeForecast], service=SERVICE, method="forecast_charges"):
    """What will be charged by itself if ``spend_micros`` are spent now: a dry run of the rule.

    ``purchase_id``: the spending is this purchase's, which may wait already. ``is_spent``: it has
    left the wallet before this question, and what follows it is asked. ``is_by_hand``: auto
    top-up is asked for by hand. Errors: ``Unavailable``, ``DeadlineExceeded`` of the wallet.
    """

    user_id: UUID
    spend_micros: PriceMicros = 0
    purchase_id: UUID | None = None
    is_spent: bool = False
    is_by_hand: bool = False


class ChargeForecasts(Reply):
    """One for each question, in their order. None for whom something is due or under way: the
    answer to :class:`ForecastCharges` tells what comes of that."""

    forecasts: list[ChargeForecast | None]


class ForecastChargesOfMany(
    Request[ChargeForecasts], service=SERVICE, method="forecast_charges_of_many"
):
    """The same of many at one moment, most of whom set off no charge. Errors: ``Unavailable``,
    ``DeadlineExceeded`` of the wallet."""

    questions: Annotated[list[ForecastCharges], Field(min_length=1, max_length=QUESTIONS_MAX)]


class Spending(Value):
    """What is to be paid at a moment, and waits for its money until ``waits_until`` (None: for
    ever). Unpaid by then, nothing more of this ``reference`` is due, but ``owed_micros`` of it are
    asked for at once. ``is_waiting``: the wallet has refused it before, so that it is no news. What
    waits until ``at`` itself waits for no money, as credit that lapses: of it what there is then is
    taken."""

    reference: UUID
    amount_micros: AmountMicros
    at: Moment
    waits_until: Moment | None = None
    is_waiting: bool = False
    owed_micros: PriceMicros = 0


class ScheduleForecast(Reply):
    """What will be charged by itself, in this order. ``refusal_code`` and ``reason`` say why a
    charge is not made that would be needed; the first time, if there are several."""

    charges: list[PlannedCharge]
    refusal_code: RefusalCode | None = None
    reason: str = ""


class ForecastSchedule(Request[ScheduleForecast], service=SERVICE, method="forecast_schedule"):
    """What will be charged by itself while these are paid, the earliest first: the rule played
    forward over weeks. Errors: ``Unavailable``, ``DeadlineExceeded`` of the wallet."""

    user_id: UUID
    spendings: Annotated[list[Spending], Field(max_length=10_000)]
    until: Moment


class ReceiveWebhook(Request[Done], service=SERVICE, method="receive_webhook"):
    """One of the processor's notices, as its raw body and signature header.

    Returns once it is stored. Errors: ``BadRequest`` for a wrong signature.
    """

    payload: Annotated[str, StringConstraints(max_length=1_000_000), Storable]
    signature: Annotated[str, StringConstraints(max_length=2_000), Storable]


class ReceiptLine(Value):
    label: str
    amount_micros: SignedMicros


class Receipt(Reply):
    """What a receipt shows, for its page and its PDF; ``number`` is unique and never changes.

    ``lines`` are the charge and whatever went back to the card later; ``net_micros`` their sum.
    """

    number: str
    topup_id: UUID
    user_id: UUID
    kind: TopupKind
    paid_at: Moment
    card_brand: str
    card_last4: str
    payment_id: str
    description: str
    lines: list[ReceiptLine]
    net_micros: SignedMicros
    is_credited: bool


class GetReceipt(Request[Receipt], service=SERVICE, method="get_receipt"):
    """The receipt of a paid top-up. Errors: ``NotFound``, ``Conflict`` (not paid)."""

    user_id: UUID
    topup_id: UUID


class RenderedReceipt(Reply):
    """A receipt as a PDF document, in base64."""

    file_name: str
    pdf_base64: str


class RenderReceipt(Request[RenderedReceipt], service=SERVICE, method="render_receipt"):
    """The receipt of a paid top-up as a PDF. Errors: ``NotFound``, ``Conflict`` (not paid)."""

    user_id: UUID
    topup_id: UUID


class CardRefundStatus(StrEnum):
    """The lifecycle of credit that goes back to the card that paid for it.

    ``requested``, ``held`` (it is set aside in the wallet) and ``sent`` (the processor is asked)
    last seconds, unless somebody does not answer. ``pending``: the bank takes its time; the credit
    has left the wallet, as with ``succeeded``. ``failed``: the bank sent it back, and the credit is
    there again. ``declined`` by the wallet, or ``refused`` by the processor: nothing moved.
    """

    REQUESTED = "requested"
    HELD = "held"
    SENT = "sent"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DECLINED = "declined"
    REFUSED = "refused"


class CardRefund(Reply):
    """One refund to a card. ``reason`` says why it was declined or refused, or failed."""

    refund_id: UUID
    user_id: UUID
    topup_id: UUID
    amount_micros: AmountMicros
    status: CardRefundStatus
    reason: str = ""
    card_brand: str = ""
    card_last4: str = ""
    created_at: Moment
    updated_at: Moment
    replayed: bool = False


class RefundTopup(
    Command[CardRefund], service=SERVICE, method="refund_topup", answer_within_s=CARD_PROCESSOR_S
):
    """Give back to the card what is unused of a top-up, or ``amount_micros`` of it.

    It is set aside in the wallet first, and leaves it when the processor has taken the refund.
    Auto top-up is switched off with it, which would else buy the credits again. One refund of a
    user's is made at a time.
    Errors: ``NotFound`` (the top-up), ``BadRequest`` (a part of a cent), ``Conflict`` (too late,
    not credited, disputed, another refund is being made, or not so much is unused: the detail is
    how much), ``AccountFrozen``, ``InsufficientFunds``, ``PaymentFailed`` (the processor refused
    it; the credit is in the wallet), ``Unavailable``, ``IdempotencyConflict``.
    """

    user_id: UUID
    topup_id: UUID
    amount_micros: AmountMicros | None = None


class RefundableTopup(Value):
    """A top-up of which something can be paid back to its card until ``refundable_until``."""

    topup_id: UUID
    kind: TopupKind
    amount_micros: AmountMicros
    refundable_micros: PriceMicros
    paid_at: Moment
    refundable_until: Moment
    card_brand: str = ""
    card_last4: str = ""


class RefundableTopups(Reply):
    """The newest first. ``blocked_reason`` is a sentence where nothing can be paid back now.
    ``switches_off_auto_topup``: it is on, and a refund switches it off."""

    topups: list[RefundableTopup]
    blocked_reason: str = ""
    switches_off_auto_topup: bool = False


class ListRefundable(Request[RefundableTopups], service=SERVICE, method="list_refundable"):
    """What a user can have paid back to a card. Errors: ``Unavailable`` (the wallet)."""

    user_id: UUID


class CardRefundPage(Reply):
    refunds: list[CardRefund]
    next_cursor: Cursor | None = None


class ListCardRefunds(Request[CardRefundPage], service=SERVICE, method="list_card_refunds"):
    """The user's refunds to cards, newest first."""

    user_id: UUID
    cursor: Cursor | None = None
    limit: PageLimit = 25


class GetCardRefund(Request[CardRefund], service=SERVICE, method="get_card_refund"):
    """Errors: ``NotFound``."""

    user_id: UUID
    refund_id: UUID


class OperatorSwitch(Reply):
    """Whether all automatic charges are stopped, since when, by whom and why."""

    is_stopped: bool
    reason: str = ""
    changed_by: str = ""
    changed_at: Moment | None = None


class GetOperatorSwitch(Request[OperatorSwitch], service=SERVICE, method="get_operator_switch"):
    pass


class SetOperatorSwitch(Request[OperatorSwitch], service=SERVICE, method="set_operator_switch"):
    """Stop all automatic charges at once, or let them go on. Top-ups by hand are not touched."""

    is_stopped: bool
    reason: ShortText
    changed_by: ShortText


class Problem(Value):
    """Something about a payment that an operator should look at; ``code`` is for a program."""

    code: str
    topup_id: UUID | None = None
    user_id: UUID | None = None
    payment_id: str = ""
    amount_micros: SignedMicros = 0
    message: str
    since: Moment


class ProblemList(Reply):
    problems: list[Problem]


class ListProblems(Request[ProblemList], service=SERVICE, method="list_problems"):
    """For operators: stuck and failed top-ups, open disputes, differences between the books."""

    limit: PageLimit = 100


class DisputeDetails(Value):
    """What the processor told of a dispute at the ``asked_at`` of its record.

    ``fee_micros`` is None where it moved no money so far. Evidence is taken up to ``due_at``, and
    on the instant; None: none is taken, or no last one is named. ``is_past_due``: it is still
    awaited, and too late. ``has_evidence`` is true of a draft as well: ``submission_count`` says
    how often it was handed in, ``was_submitted_late`` whether the last time was too late.
    ``closed_at`` is when it was first seen closed.
    """

    reason: str
    network_reason_code: str
    fee_micros: SignedMicros | None
    due_at: Moment | None
    is_past_due: bool
    has_evidence: bool
    submission_count: int
    was_submitted_late: bool
    opened_at: Moment
    closed_at: Moment | None


class DisputeRecord(Value):
    """A payment that somebody disputed with their bank, or that the bank inquires about.

    ``status`` is the processor's own word, of ``asked_at``. ``taken_at`` is None where nothing was
    taken out of the wallet: of an inquiry, and of a payment that was never credited. ``details`` is
    None of one of which nothing was heard since they are kept. ``url`` is its page in the
    processor's dashboard; empty where there is none, as of the sandbox.
    """

    dispute_id: str
    topup_id: UUID
    user_id: UUID
    amount_micros: AmountMicros
    status: str
    taken_at: Moment | None
    asked_at: Moment
    restored_at: Moment | None
    details: DisputeDetails | None = None
    url: str = ""


class StuckTopup(Value):
    """A top-up that has not come to its end, and when the janitor asks about it next (None: nobody
    does any more); ``looks`` is how often it asked since the processor was last sent for."""

    topup_id: UUID
    user_id: UUID
    kind: TopupKind
    amount_micros: AmountMicros
    status: TopupStatus
    payment_id: str
    problem: str
    looks: int
    next_look_at: Moment | None
    sent_at: Moment | None
    changed_at: Moment


class BookDifference(Value):
    """Something on which the processor, our top-ups and the ledger did not agree; ``gone_at`` once
    they do, or ``accepted_by`` somebody."""

    key: str
    code: str
    topup_id: UUID | None
    user_id: UUID | None
    payment_id: str
    amount_micros: SignedMicros
    message: str
    occurred_at: Moment
    found_at: Moment
    seen_at: Moment
    gone_at: Moment | None
    accepted_by: str


class ComparedDays(Value):
    """A comparison of the books of whole days, from ``since`` up to ``until`` (exclusive)."""

    compared_at: Moment
    since: Moment
    until: Moment


class PaymentBooks(Reply):
    """Each of these with its newest or most urgent first: disputes by the next deadline for
    evidence, then those that are open, then the others; differences that stand before those that
    are gone."""

    disputes: list[DisputeRecord]
    stuck: list[StuckTopup]
    differences: list[BookDifference]
    comparisons: list[ComparedDays]


class GetPaymentBooks(Request[PaymentBooks], service=SERVICE, method="get_payment_books"):
    """For finance: disputes, top-ups that are stuck, and what the daily comparisons found."""

    limit: PageLimit = 100


class Consent(Value):
    """The words that a user agreed to before a card was charged while they were away, when, from
    which address, and what they let it be charged then. A limit of None: none was set."""

    version: str
    text: str
    agreed_at: Moment
    client_address: str
    threshold_micros: PriceMicros
    topup_amount_micros: PriceMicros
    daily_limit_micros: PriceMicros | None
    monthly_limit_micros: PriceMicros | None


class ConsentBehind(Reply):
    """None for what was bought by hand."""

    consent: Consent | None


class GetConsent(Request[ConsentBehind], service=SERVICE, method="get_consent"):
    """What this user had agreed to when an automatic top-up of theirs was begun. Errors:
    ``NotFound``, for another's too."""

    user_id: UUID
    topup_id: UUID


class ReversalRecord(Value):
    """Money that went back to the card, and came back again at ``restored_at``, or not."""

    reversal_id: str
    amount_micros: AmountMicros
    taken_at: Moment
    restored_at: Moment | None


class TopupRecord(Value):
    """What the events of a top-up said, as it is recorded: when it was paid, or failed last."""

    topup_id: UUID
    user_id: UUID
    kind: TopupKind
    amount_micros: AmountMicros
    paid_at: Moment | None
    failed_at: Moment | None
    failure_code: str
    reversals: list[ReversalRecord]


class TopupRecords(Reply):
    records: list[TopupRecord]
    next_cursor: Cursor | None = None


class ExportTopups(Request[TopupRecords], service=SERVICE, method="export_topups"):
    """Everybody's top-ups that were paid or failed, the oldest first. For whoever counts; ask again
    with ``next_cursor`` until it is None."""

    cursor: Cursor | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=500)] = 500


class AutoTopupRecord(Value):
    """Whether somebody has auto top-up switched on, by the version of the settings that holds."""

    user_id: UUID
    settings_version: int
    is_on: bool
    changed_at: Moment


class AutoTopupRecords(Reply):
    records: list[AutoTopupRecord]
    next_cursor: Cursor | None = None


class ExportAutoTopup(Request[AutoTopupRecords], service=SERVICE, method="export_auto_topup"):
    """Everybody's settings, in no order that means anything. As :class:`ExportTopups`."""

    cursor: Cursor | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=500)] = 500


class TopupPaid(UserEvent, source=SERVICE, type="topup_paid"):
    """The processor has the money; the wallet credits it, once per ``topup_id``."""

    topup_id: UUID
    kind: TopupKind
    amount_micros: AmountMicros
    payment_id: str
    card_brand: str = ""
    card_last4: str = ""
    trigger: Trigger | None = None
    trigger_reference: str | None = None
    threshold_micros: PriceMicros | None = None


class TopupFailed(UserEvent, source=SERVICE, type="topup_failed"):
    """A charge was declined or given up; no money moved. ``message`` is for the person."""

    topup_id: UUID
    kind: TopupKind
    amount_micros: AmountMicros
    failure_code: str
    message: str
    trigger: Trigger | None = None
    trigger_reference: str | None = None


class AutoTopupRefused(UserEvent, source=SERVICE, type="auto_topup_refused"):
    """An automatic top-up was due and not made, and why."""

    refusal_code: RefusalCode
    reason: ShortText
    trigger: Trigger
    trigger_reference: str | None = None


class AutoTopupPaused(UserEvent, source=SERVICE, type="auto_topup_paused"):
    """Auto top-up stopped by itself until the person acts."""

    code: str
    reason: ShortText
    confirm_url: str | None = None


class TopupReversed(UserEvent, source=SERVICE, type="topup_reversed"):
    """Money went back to the card (a refund or a dispute): the wallet takes the credit back.

    ``reversal_id`` is the refund's or the dispute's id, with a number after it where a dispute
    that was won is lost after all: the effect happens once for each. A refund that the person asked
    for on the site has its ``refund_id``, and the hold that is to be captured for it.
    """

    topup_id: UUID
    reversal_id: str
    amount_micros: AmountMicros
    is_dispute: bool
    description: ShortText
    refund_id: UUID | None = None
    hold_id: UUID | None = None


class TopupRestored(UserEvent, source=SERVICE, type="topup_restored"):
    """A reversal was undone (a dispute won, a refund that failed): the wallet gives it back.

    At most once per ``reversal_id``, and only after its :class:`TopupReversed`.
    """

    topup_id: UUID
    reversal_id: str
    amount_micros: AmountMicros
    is_dispute: bool
    description: ShortText
    refund_id: UUID | None = None


class CardRefundRefused(UserEvent, source=SERVICE, type="card_refund_refused"):
    """Credit does not go back to its card, and why: the wallet releases what was set aside."""

    refund_id: UUID
    topup_id: UUID
    amount_micros: AmountMicros
    reason: ShortText
    hold_id: UUID | None = None


class CardExpiring(UserEvent, source=SERVICE, type="card_expiring", needs_listener=False):
    """A saved card expires soon; said once per card and expiry date."""

    payment_method_id: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    is_auto_topup: bool


class AutoTopupResumed(UserEvent, source=SERVICE, type="auto_topup_resumed", needs_listener=False):
    """Auto top-up that was paused goes on, because the person added a card or saved again."""

    reason: ShortText


class AutoTopupSettingsChanged(UserEvent, source=SERVICE, type="auto_topup_settings_changed"):
    """The wallet arms its ``auto_topup`` level at the threshold, or drops it when None.

    ``settings_version`` grows with every save, so that an older one arriving late is ignored.
    """

    settings_version: int
    threshold_micros: PriceMicros | None
