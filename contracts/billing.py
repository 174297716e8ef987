"""Billing: purchases, deployments, the burn rate."""

from datetime import date
from enum import StrEnum
from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from contracts.catalog import QUANTITY_MAX, BillingPeriod, Category, FieldKey, Meter
from contracts.messages import (
    AmountMicros,
    Command,
    Cursor,
    Day,
    IdempotencyKey,
    Moment,
    PageLimit,
    PriceMicros,
    Reply,
    Request,
    ShortText,
    SignedMicros,
    Storable,
    TotalMicros,
    UserEvent,
    Value,
)
from contracts.papers import BillingDetails
from contracts.topup import AutoTopupState
from contracts.wallet import Wallet

SERVICE = "billing"


class PurchaseStatus(StrEnum):
    """The lifecycle of a purchase; the last four are its ends."""

    PENDING = "pending"
    AWAITING_FUNDS = "awaiting_funds"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"


class PurchaseWay(StrEnum):
    """How something was ordered: by Buy Now, or together with what was in a cart."""

    BUY_NOW = "buy_now"
    CART = "cart"


class DeploymentStatus(StrEnum):
    REQUESTED = "requested"
    ACTIVE = "active"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RefundCause(StrEnum):
    """Why something was paid back: it could not be provided, its owner cancelled it before it ran,
    its buyer gave it back, or support decided so."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    BUYER = "buyer"
    SUPPORT = "support"


class ChangeCause(StrEnum):
    """Why something changed about a deployment; the last four leave its status as it is."""

    PROVISIONER = "provisioner"
    OWNER = "owner"
    UNPAID = "unpaid"
    MONTH_ENDED = "month_ended"
    KEPT_LONG_ENOUGH = "kept_long_enough"
    REFUNDED = "refunded"
    RENAMED = "renamed"
    WILL_END = "will_end"
    WILL_GO_ON = "will_go_on"
    RESIZED = "resized"


class ChargeKind(StrEnum):
    """What a deployment is charged for beside its purchase; ``resize``: the rest of a month in a
    larger size."""

    MONTH = "month"
    ARREARS = "arrears"
    RESIZE = "resize"


class Actor(StrEnum):
    """Who changed a deployment."""

    OWNER = "owner"
    BILLING = "billing"
    PROVISIONER = "provisioner"
    SUPPORT = "support"


class CancelWhen(StrEnum):
    PERIOD_END = "period_end"
    NOW = "now"


CHOICE_LENGTH_MAX = 4_000
"""Enough for an SSH public key of every size that is in use."""

Choices = Annotated[
    dict[FieldKey, Annotated[str, StringConstraints(max_length=CHOICE_LENGTH_MAX), Storable]],
    Field(max_length=20),
]
"""What a buyer said in the product's ``fields``, by their keys."""


LINE_NAME_LENGTH_MAX = 90
LineName = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=LINE_NAME_LENGTH_MAX), Storable
]
"""With the number of a unit after it, it is still a name of a deployment."""


class PurchaseLine(Value):
    """What to buy. ``expected_unit_price_micros`` is the catalog's price that the person saw, if
    known, ``expected_unit_discount_micros`` what they saw is taken off each, and
    ``expected_meters`` what is charged by use beside it.

    ``choices`` are for each unit of the line alike. Deployments are named ``name``, numbered where
    there are several; where it is empty, after the product.
    """

    product_id: UUID
    quantity: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    expected_unit_price_micros: PriceMicros | None = None
    choices: Choices = Field(default_factory=dict)
    name: LineName = ""
    expected_meters: Annotated[list[Meter], Field(max_length=20)] | None = None
    expected_unit_discount_micros: PriceMicros | None = None


class PurchasedLine(Value):
    """``unit_price_micros`` is charged for each: the catalog's price less
    ``unit_discount_micros``, which a staking discount takes off what the purchase itself charges.
    ``meters`` are charged by use, at these prices for good."""

    product_id: UUID
    product_name: str
    category: Category
    billing_period: BillingPeriod
    quantity: int
    unit_price_micros: PriceMicros
    amount_micros: PriceMicros
    choices: Choices = Field(default_factory=dict)
    name: str = ""
    meters: list[Meter] = Field(default_factory=list)
    unit_discount_micros: PriceMicros = 0


class Purchase(Reply):
    """One purchase. ``shortfall_micros`` is what was lacking at the last try, 0 when paid.

    ``status_reason`` is a sentence for the buyer; ``status_code`` the same for a program
    (for example ``card_declined``, ``out_of_stock``), both empty when all is well.
    ``is_stock_limited``: others may buy the last of it. While the purchase waits, stock is set
    aside for it until ``stock_held_until``; None: it is not, and may be gone when the money comes.
    ``refunded_micros`` went back of it. Its buyer may give it back until ``returnable_until``.
    ``way`` is None where that was not told, or not recorded yet.
    """

    purchase_id: UUID
    user_id: UUID
    status: PurchaseStatus
    status_code: str = ""
    status_reason: str = ""
    total_micros: PriceMicros
    shortfall_micros: PriceMicros
    lines: list[PurchasedLine]
    deployment_ids: list[UUID]
    transaction_id: UUID | None = None
    created_at: Moment
    updated_at: Moment
    expires_at: Moment | None = None
    is_stock_limited: bool = False
    stock_held_until: Moment | None = None
    refunded_micros: PriceMicros = 0
    returnable_until: Moment | None = None
    replayed: bool = False
    way: PurchaseWay | None = None

    @property
    def discount_micros(self) -> int:
        """What was taken off all of its lines."""
        return sum(line.unit_discount_micros * line.quantity for line in self.lines)


class StartPurchase(Command[Purchase], service=SERVICE, method="start_purchase"):
    """Buy, at the catalog's price. Short of funds it waits, and completes by itself.

    Errors: ``PriceChanged``, ``OutOfStock``, ``NotFound``, ``AccountFrozen``,
    ``IdempotencyConflict``, ``LimitExceeded`` (too many purchases wait already, or too many
    deployments that cost nothing), ``BadRequest`` for choices that a product's fields do not take:
    ``details[0]`` is ``choices.`` and the field's key.
    """

    may_differ: ClassVar[set[str]] = {"idempotency_key", "way"}

    user_id: UUID
    lines: Annotated[list[PurchaseLine], Field(min_length=1, max_length=50)]
    way: PurchaseWay | None = None
    """It is counted, and changes nothing else."""


DiscountBps = Annotated[int, Field(strict=True, ge=0, le=5_000)]
"""What is taken off a price, in basis points: 500 are 5 %. Nothing comes to cost nothing."""


class Discounts(Reply):
    """``discounts_bps`` is what a purchase takes off for this user now, for each provider asked
    for, in their order: that part of a price, rounded down to the micro-dollar."""

    discounts_bps: list[DiscountBps]


class GetDiscounts(Request[Discounts], service=SERVICE, method="get_discounts"):
    """What a user's staking takes off what each of these sells; None: the marketplace itself."""

    user_id: UUID
    provider_ids: Annotated[list[UUID | None], Field(max_length=100)]


class GetPurchase(Request[Purchase], service=SERVICE, method="get_purchase"):
    user_id: UUID
    purchase_id: UUID


class FindPurchase(Request[Purchase], service=SERVICE, method="find_purchase"):
    """What became of a :class:`StartPurchase` whose answer was lost, without buying anything.

    ``NotFound``: nothing was bought under this key. It may be yet, as long as the command is under
    way.
    """

    user_id: UUID
    idempotency_key: IdempotencyKey


class CancelPurchase(Request[Purchase], service=SERVICE, method="cancel_purchase"):
    """Give up a purchase that waits for funds. One that is paid raises ``Conflict``."""

    user_id: UUID
    purchase_id: UUID


class ReturnPurchase(Command[Purchase], service=SERVICE, method="return_purchase"):
    """Give a purchase back, by its buyer: possible for a time, while nothing of it has run.

    What runs of it ends. The money comes back by itself where it does not at once. ``Conflict``
    where it is too late, or something was used.
    """

    user_id: UUID
    purchase_id: UUID


class RefundPurchase(Command[Purchase], service=SERVICE, method="refund_purchase"):
    """Give back what was paid for a purchase, or for its ``line``, counted from 0, by support.

    What runs of it ends, and what it owes is owed. Units that were refunded before are left out;
    ``Conflict`` where all of them were, and for what was not paid. Months that were renewed are no
    part of the purchase. The money comes back by itself where it does not at once.
    """

    purchase_id: UUID
    line: Annotated[int, Field(strict=True, ge=0, lt=50)] | None = None
    reason: ShortText
    actor: ShortText


class PurchasePage(Reply):
    purchases: list[Purchase]
    next_cursor: Cursor | None = None


class ListPurchases(Request[PurchasePage], service=SERVICE, method="list_purchases"):
    user_id: UUID
    statuses: Annotated[list[PurchaseStatus], Field(max_length=10)] = Field(default_factory=list)
    cursor: Cursor | None = None
    limit: PageLimit = 25


class DeploymentChange(Value):
    """One line of a deployment's history: what happened, and the status after it."""

    changed_at: Moment
    status: DeploymentStatus
    cause: ChangeCause
    actor: Actor


def reachable(url: str) -> str:
    """An address for a browser, which holds no password. Raises ValueError for anything else."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("it must begin with https:// or http:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must hold no user name and no password")
    return url


class Access(Value):
    """How a deployment is reached. It is shown and kept as it is: nothing in it is secret."""

    address: Annotated[str, StringConstraints(strip_whitespace=True, max_length=255), Storable] = ""
    user_name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=64), Storable] = (
        ""
    )
    url: Annotated[
        str,
        StringConstraints(strip_whitespace=True, max_length=500),
        Storable,
        AfterValidator(reachable),
        Field(json_schema_extra={"format": "uri"}),
    ] = ""
    notes: Annotated[str, StringConstraints(strip_whitespace=True, max_length=1_000), Storable] = ""


class DeploymentCharge(Value):
    """Something that was paid for a deployment beside its purchase. ``transaction_id`` names it."""

    transaction_id: UUID
    kind: ChargeKind
    starts_at: Moment
    ends_at: Moment
    amount_micros: AmountMicros
    is_refunded: bool


class Rung(Value):
    """What a deployment becomes unless somebody acts, and when."""

    status: DeploymentStatus
    at: Moment


class Deployment(Reply):
    """A thing that runs. ``monthly_cost_micros`` is 0 for what was paid once.

    ``next_renewal_at`` is when ``next_renewal_micros`` are due for another month; None where there
    is none. ``owed_micros`` is due and not paid: for time that ran, or is to run now, and
    ``owed_usage_micros`` of it for what was used, also what is charged with the next hour.
    ``start_micros`` is what a :class:`StartDeployment` takes now; None where there is none.
    ``start_usage_micros`` of it is charged for use, of others too where one charge holds it, and
    has to be paid before: it is, by itself, as soon as the wallet covers it. Unless somebody acts,
    the status becomes ``next_status`` at ``next_status_at``, and then what ``ladder``, which begins
    with it, says. The first month that begins at ``new_price_from`` or later costs
    ``new_price_micros``. ``access`` is what its provisioner told. ``choices``, ``history`` and
    ``charges``, both newest first and the latest ones, are of a single deployment only; so is
    ``kept_until``, when the data of one that runs would be deleted if it were stopped now.
    """

    deployment_id: UUID
    purchase_id: UUID
    product_id: UUID
    name: str
    category: Category
    status: DeploymentStatus
    status_reason: str = ""
    monthly_cost_micros: PriceMicros
    created_at: Moment
    active_at: Moment | None = None
    ended_at: Moment | None = None
    paid_until: Moment | None = None
    next_renewal_at: Moment | None = None
    next_renewal_micros: PriceMicros = 0
    owed_micros: PriceMicros = 0
    owed_usage_micros: PriceMicros = 0
    start_micros: PriceMicros | None = None
    start_usage_micros: PriceMicros = 0
    next_status: DeploymentStatus | None = None
    next_status_at: Moment | None = None
    ladder: list[Rung] = Field(default_factory=list)
    new_price_micros: PriceMicros | None = None
    new_price_from: Moment | None = None
    access: Access | None = None
    choices: Choices = Field(default_factory=dict)
    history: list[DeploymentChange] = Field(default_factory=list)
    charges: list[DeploymentCharge] = Field(default_factory=list)
    kept_until: Moment | None = None


class DeploymentList(Reply):
    """Newest first."""

    deployments: list[Deployment]
    next_cursor: Cursor | None = None


class ListDeployments(Request[DeploymentList], service=SERVICE, method="list_deployments"):
    """``statuses``: those in one of them; none: all."""

    user_id: UUID
    statuses: Annotated[list[DeploymentStatus], Field(max_length=10)] = Field(default_factory=list)
    cursor: Cursor | None = None
    limit: PageLimit = 200


class GetDeployment(Request[Deployment], service=SERVICE, method="get_deployment"):
    """One deployment with its history. ``NotFound`` for somebody else's."""

    user_id: UUID
    deployment_id: UUID


class RenameDeployment(Command[Deployment], service=SERVICE, method="rename_deployment"):
    """Errors of each command of an owner: ``NotFound``, ``IdempotencyConflict``."""

    user_id: UUID
    deployment_id: UUID
    name: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), Storable
    ]


class StopDeployment(Command[Deployment], service=SERVICE, method="stop_deployment"):
    """Switch it off. Its paid month runs on, and is not renewed. ``Conflict`` unless active."""

    user_id: UUID
    deployment_id: UUID


class StartDeployment(Command[Deployment], service=SERVICE, method="start_deployment"):
    """Let it run again, and be renewed.

    Within the month that is paid it costs nothing. After that what it owes is charged, and then a
    month that begins now: ``InsufficientFunds`` or ``AccountFrozen`` where the wallet does not pay
    it, and ``InsufficientFunds`` before that while what it used is charged and not paid.
    ``DeadlineExceeded`` where it is not known yet whether it did. ``Conflict`` for one that has
    ended, is being set up, or is being started under another key.

    ``expected_amount_micros`` is what its owner saw that it takes now
    (:attr:`Deployment.start_micros`): ``PriceChanged`` where it comes to something else, and
    nothing is done. What was paid by itself meanwhile of what it owed makes no difference.
    """

    user_id: UUID
    deployment_id: UUID
    expected_amount_micros: PriceMicros | None = None


class CancelDeployment(Command[Deployment], service=SERVICE, method="cancel_deployment"):
    """End it: with the month that is paid, or now and for good, without money back.

    One that does not run, or owes its month, ends now whatever ``when`` says. One that is being set
    up ends now, and its price comes back. ``Conflict`` for one that has ended.
    """

    user_id: UUID
    deployment_id: UUID
    when: CancelWhen = CancelWhen.PERIOD_END


class ResizeDeployment(Command[Deployment], service=SERVICE, method="resize_deployment"):
    """Make it another size: a product of the same family, of the same provider.

    The rest of the month that is paid costs its share at each price, and the difference is charged
    before it is done, or given back. ``expected_amount_micros`` is the difference that its owner
    saw, negative where money comes back, and ``quoted_at`` as of when; it is then just that, for
    ten minutes. ``InsufficientFunds`` or ``AccountFrozen`` where the wallet does not pay it,
    ``PriceChanged`` where it comes to something else, ``DeadlineExceeded`` where it is not known
    yet. ``Conflict`` for what cannot be resized now.
    """

    user_id: UUID
    deployment_id: UUID
    product_id: UUID
    expected_amount_micros: SignedMicros | None = None
    quoted_at: Moment | None = None


class ResizeOption(Value):
    """Another size. ``amount_micros`` is charged today, or given back where it is negative;
    ``price_micros`` every month from the next one on."""

    product_id: UUID
    name: str
    summary: str
    price_micros: PriceMicros
    amount_micros: SignedMicros


class ResizeOptions(Reply):
    """The cheapest first; none where it cannot be resized."""

    quoted_at: Moment
    options: list[ResizeOption]


class ListResizes(Request[ResizeOptions], service=SERVICE, method="list_resizes"):
    user_id: UUID
    deployment_id: UUID


class ReportDeployment(Request[Deployment], service=SERVICE, method="report_deployment"):
    """A provisioner's answer to ``deployment_requested``; the same answer twice changes nothing.

    ``active`` once more with another ``access`` replaces what its owner is shown.
    """

    deployment_id: UUID
    status: DeploymentStatus
    reason: Annotated[str, StringConstraints(max_length=500), Storable] = ""
    access: Access | None = None


RecordId = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), Storable
]


class UsageRecord(Value):
    """So much of a meter was used by a deployment, in whole units of the meter, at ``used_at``.

    ``record_id`` is the caller's choice, once for each deployment: what it is repeated with counts
    once. A negative quantity takes back some of the record that ``corrects`` names, at its time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    record_id: RecordId
    deployment_id: UUID
    meter: FieldKey
    quantity: Annotated[int, Field(strict=True, ge=-QUANTITY_MAX, le=QUANTITY_MAX)]
    used_at: Moment
    corrects: RecordId | None = None

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.corrects is None and self.quantity <= 0:
            raise ValueError("a quantity is at least 1, and less only in what corrects a record")
        if self.corrects is not None and self.quantity >= 0:
            raise ValueError("what corrects a record takes some of it back: -1 or less")
        return self


class UsageAnswer(StrEnum):
    """What became of a record; ``repeated``: it had been taken before."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    REFUSED = "refused"


class UsageRefusal(StrEnum):
    """Why a record was not taken."""

    NOT_FOUND = "not_found"
    UNKNOWN_METER = "unknown_meter"
    RECORD_CONFLICT = "record_conflict"
    NOT_RUNNING = "not_running"
    TOO_LATE = "too_late"
    IN_THE_FUTURE = "in_the_future"
    NOTHING_TO_CORRECT = "nothing_to_correct"
    LIMIT_EXCEEDED = "limit_exceeded"


class UsageResult(Value):
    """The answer to one record; ``code`` and ``message`` say why it was refused."""

    record_id: str
    answer: UsageAnswer
    code: UsageRefusal | None = None
    message: str = ""


class UsageResults(Reply):
    """One result for each record, in their order."""

    results: list[UsageResult]


class RecordUsage(Request[UsageResults], service=SERVICE, method="record_usage"):
    """A provisioner's account of what was used, up to 1,000 records, each by itself.

    Sent again, what was taken is ``repeated``. ``BadRequest`` for a record that is none refuses
    the whole call; nothing is taken then.
    """

    records: Annotated[list[UsageRecord], Field(min_length=1, max_length=1_000)]


class MeteredDay(Value):
    """What was used of a meter on one day (UTC), and what that comes to.

    The day costs what the month costs with it, less what it cost before: the days of a month come
    to its price.
    """

    day: date
    meter: FieldKey
    label: str
    unit: str
    quantity: int
    amount_micros: SignedMicros


class Usage(Reply):
    """The newest day first. ``due_micros`` was used and is not paid yet, on whatever day."""

    days: list[MeteredDay]
    due_micros: TotalMicros


class GetUsage(Request[Usage], service=SERVICE, method="get_usage"):
    """What was used of a deployment on the last ``days`` days. ``NotFound`` for another's."""

    user_id: UUID
    deployment_id: UUID
    days: Annotated[int, Field(strict=True, ge=1, le=366)] = 30


CalendarMonth = Annotated[str, StringConstraints(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$")]
"""A calendar month in UTC: ``2026-03``."""


class ReceiptLine(Value):
    """``detail`` says for which time, or how many at which price."""

    label: str
    detail: str = ""
    amount_micros: SignedMicros


class Receipt(Reply):
    """What a receipt says, for its page and its PDF.

    Issued, it has a ``number``, one after the other in each year, and nothing of it changes; until
    then it is a draft, as it would be issued now. ``total_micros`` was paid, and contains
    ``tax_micros`` at ``tax_bps`` basis points. ``refunds`` came back later, and
    ``net_micros`` is what remains. That of a calendar ``month`` is for all charges of its usage,
    and names no transaction; ``paid_at`` is the last of them.
    """

    transaction_id: UUID | None = None
    user_id: UUID
    purchase_id: UUID | None = None
    deployment_id: UUID | None = None
    month: str | None = None
    number: str | None = None
    issued_at: Moment | None = None
    paid_at: Moment
    seller: list[str]
    buyer: BillingDetails
    lines: list[ReceiptLine]
    tax_bps: int
    tax_micros: PriceMicros
    total_micros: PriceMicros
    refunds: list[ReceiptLine] = Field(default_factory=list)
    net_micros: SignedMicros


class PaidFor(Value):
    """What a receipt is for: a purchase by its ``purchase_id``, one charge of a deployment by its
    ``deployment_id`` and ``transaction_id``, or what was paid for usage in a calendar ``month``
    (UTC). ``BadRequest`` for anything else."""

    user_id: UUID
    purchase_id: UUID | None = None
    deployment_id: UUID | None = None
    transaction_id: UUID | None = None
    month: CalendarMonth | None = None


class GetReceipt(PaidFor, Request[Receipt], service=SERVICE, method="get_receipt"):
    """The receipt as it was issued, or a draft. Errors of each of these: ``NotFound``,
    ``Conflict`` (nothing was paid)."""


class IssueReceipt(PaidFor, Request[Receipt], service=SERVICE, method="issue_receipt"):
    """Give it a number, and keep it as it is now, for this buyer.

    What was issued before is answered as it was: another ``buyer`` changes nothing. ``Conflict``
    also for a month that is not over.
    """

    buyer: BillingDetails


class RenderedReceipt(Reply):
    """A receipt as a PDF document, in base64."""

    file_name: str
    pdf_base64: str


class RenderReceipt(PaidFor, Request[RenderedReceipt], service=SERVICE, method="render_receipt"):
    """The issued receipt as a PDF. ``Conflict`` also where it was not issued."""


class PaidMonth(Value):
    """What was paid for usage in a calendar month (UTC), all charges together, and the number of
    its receipt, once it is issued; that is possible from ``issuable_from`` on."""

    month: str
    total_micros: PriceMicros
    issuable_from: Moment
    number: str | None = None


class PaidMonths(Reply):
    """The newest first, five years at most."""

    months: list[PaidMonth]


class ListPaidMonths(Request[PaidMonths], service=SERVICE, method="list_paid_months"):
    """The months in which something was paid for a user's usage."""

    user_id: UUID


FeeBps = Annotated[int, Field(strict=True, ge=0, le=10_000)]
"""A fee in basis points: 1,000 are 10 %."""


class ProviderFee(Reply):
    """What the marketplace keeps of what this provider sells from now on."""

    provider_id: UUID
    fee_bps: FeeBps


class SetProviderFee(Command[ProviderFee], service=SERVICE, method="set_provider_fee"):
    """Agree on another fee with a provider; None: the default holds again.

    What was sold before, and its months to come, keep the fee of then.
    """

    provider_id: UUID
    fee_bps: FeeBps | None
    reason: ShortText
    actor: ShortText


class ProductSales(Value):
    """What was sold of one product on one day (UTC).

    ``units`` were bought, ``renewals`` are months of earlier ones. ``gross_micros`` is what was
    paid for both, for time that ran unpaid, and for usage. ``refunded_micros`` went back to buyers
    on that day, for ``units_refunded`` bought on any. ``fee_micros`` is what the marketplace kept,
    less what of it went back; ``net_micros`` = gross − refunded − fee is what the wallet got.
    """

    day: date
    product_id: UUID
    product_name: str
    units: int
    renewals: int
    units_refunded: int
    gross_micros: TotalMicros
    refunded_micros: TotalMicros
    fee_micros: SignedMicros
    net_micros: SignedMicros


class SalesPage(Reply):
    """The newest day first."""

    sales: list[ProductSales]
    next_cursor: Cursor | None = None


class ListSales(Request[SalesPage], service=SERVICE, method="list_sales"):
    """What this user sold, from the day ``since`` up to and including ``until``."""

    user_id: UUID
    since: Day | None = None
    until: Day | None = None
    cursor: Cursor | None = None
    limit: PageLimit = 100


class SalesSum(Value):
    """What was sold: ``gross_micros`` was paid, ``refunded_micros`` went back to buyers,
    ``fee_micros`` the marketplace kept, and ``net_micros`` = gross − refunded − fee was earned."""

    gross_micros: TotalMicros
    refunded_micros: TotalMicros
    fee_micros: SignedMicros
    net_micros: SignedMicros


class ProviderSales(SalesSum):
    provider_id: UUID


class SalesSums(Reply):
    """``total`` is of all, ``providers`` are those for whose products most was paid, as many as
    were asked for."""

    total: SalesSum
    providers: list[ProviderSales]


SALES_DAYS_MAX = 366
"""So many days are summed at once."""


class GetSalesSums(Request[SalesSums], service=SERVICE, method="get_sales_sums"):
    """What was sold from the day ``since`` up to and including ``until``, by this user or by
    everybody who sells. ``BadRequest`` for days that end before they begin, and for more than 366
    of them."""

    user_id: UUID | None = None
    since: Day
    until: Day
    limit: PageLimit = 100


class ProductUse(Value):
    """``units`` were bought of a product so far, ``rented`` are paid by the month now: to their
    owners a new price is announced."""

    product_id: UUID
    units: int
    rented: int


class ProductUses(Reply):
    """In the order in which they were asked for."""

    products: list[ProductUse]


class GetProductUses(Request[ProductUses], service=SERVICE, method="get_product_uses"):
    """What this user sold of products; of somebody else's product, nothing."""

    user_id: UUID
    product_ids: Annotated[list[UUID], Field(min_length=1, max_length=200)]


class PayoutStatus(StrEnum):
    """The lifecycle of a payout: the last three are its ends."""

    REQUESTED = "requested"
    HELD = "held"
    PAYING = "paying"
    REFUSING = "refusing"
    PAID = "paid"
    REFUSED = "refused"
    DECLINED = "declined"


class Payout(Reply):
    """What a provider asked to be paid. It is set aside (``held``) until an operator has sent it,
    with a ``reference``, or refuses it, with a ``reason``; ``declined`` where the wallet had not
    got it. ``owed_micros`` is what the provider owes for refunds by now: an operator looks at it
    before anything is sent."""

    payout_id: UUID
    user_id: UUID
    amount_micros: AmountMicros
    status: PayoutStatus
    owed_micros: TotalMicros = 0
    reference: str
    reason: str
    created_at: Moment
    changed_at: Moment


class RequestPayout(Command[Payout], service=SERVICE, method="request_payout"):
    """Ask to be paid what was earned: never more than that, less what was paid out before.

    It is set aside at once, and by itself where the wallet does not answer. Errors: ``BadRequest``
    (a part of a cent, or less than the smallest payout), ``Conflict`` (something is owed for
    refunds), ``InsufficientFunds`` (so much was not earned, or the wallet has not got it),
    ``AccountFrozen``, ``IdempotencyConflict``.
    """

    user_id: UUID
    amount_micros: AmountMicros


class MarkPayoutPaid(Command[Payout], service=SERVICE, method="mark_payout_paid"):
    """An operator has sent the money: it is taken, by itself where the wallet does not answer.

    ``Conflict`` for a payout that is not held.
    """

    payout_id: UUID
    reference: ShortText
    actor: ShortText


class RefusePayout(Command[Payout], service=SERVICE, method="refuse_payout"):
    """An operator does not send the money: it is free again. ``Conflict`` as above."""

    payout_id: UUID
    reason: ShortText
    actor: ShortText


class PayoutPage(Reply):
    """Newest first. Of one user it says what can be asked for, as far as the wallet has it, and
    what is owed for refunds, which has to be paid before."""

    payouts: list[Payout]
    payable_micros: TotalMicros = 0
    owed_micros: TotalMicros = 0
    next_cursor: Cursor | None = None


class ListPayouts(Request[PayoutPage], service=SERVICE, method="list_payouts"):
    """One user's payouts, or everybody's for an operator; or one alone."""

    user_id: UUID | None = None
    payout_id: UUID | None = None
    statuses: Annotated[list[PayoutStatus], Field(max_length=10)] = Field(default_factory=list)
    cursor: Cursor | None = None
    limit: PageLimit = 25


class DeploymentBurnRate(Value):
    """One deployment's part: its monthly price and what 30 days of its usage cost, which is
    ``monthly_usage_micros``. ``share_percent`` is of the whole monthly burn, rounded half-even."""

    deployment_id: UUID
    deployment_name: str
    category: Category
    status: DeploymentStatus
    monthly_cost_micros: PriceMicros
    daily_cost_micros: PriceMicros
    share_percent: int
    monthly_usage_micros: PriceMicros = 0


class BurnRate(Reply):
    """What a user's deployments cost, as a rate: as if they were paid for evenly, all the time.

    When money really leaves the wallet, the :class:`Forecast` says. ``monthly_burn_micros`` is the
    sum of the monthly prices of the active deployments, and of what 30 days of their usage cost at
    its measured rate, which is ``monthly_usage_micros``; daily = monthly ÷ 30 and hourly = monthly
    ÷ 720, each rounded half-even once. ``projected_balance_30_days_micros`` = balance − monthly
    burn. ``days_until_empty`` = floor(balance ÷ daily burn) by the exact daily burn, and
    ``empty_at`` that moment; None when nothing burns.
    ``deployments`` holds those that burn, active ones with a monthly price or usage, dearest first
    and at most ``limit``; ``deployments_total`` says how many they are in all, and the other
    figures are of them all. :class:`ListDeployments` has every one.
    """

    balance_micros: SignedMicros
    monthly_burn_micros: PriceMicros
    daily_burn_micros: PriceMicros
    hourly_burn_micros: PriceMicros
    deployments: list[DeploymentBurnRate]
    deployments_total: int = 0
    projected_balance_30_days_micros: SignedMicros
    days_until_empty: int | None
    empty_at: Moment | None
    monthly_usage_micros: PriceMicros = 0


class GetBurnRate(Request[BurnRate], service=SERVICE, method="get_burn_rate"):
    user_id: UUID
    limit: PageLimit = 100


EVENTS_NAMED = 10
"""How many events of a day a forecast names, unless it is asked for more."""

EVENTS_MAX = 100


class ForecastKind(StrEnum):
    """What changes the balance."""

    RENEWAL = "renewal"
    USAGE = "usage"
    AUTO_TOPUP = "auto_topup"
    PROMOTION_END = "promotion_end"


class ForecastEvent(Value):
    """Something that is foretold. The amount is positive: ``auto_topup`` adds it to the balance, a
    charge takes it, and so does a ``promotion_end``: what is left of promotional credit when it
    expires. ``deployment_id`` and ``name`` are a charge's. The ``usage`` of a deployment is
    charged every hour, and is one event for each day, at the last of them."""

    kind: ForecastKind
    at: Moment
    amount_micros: AmountMicros
    deployment_id: UUID | None = None
    name: str = ""


class ForecastDay(Value):
    """A day (UTC), and the balance at its end. ``events`` are the first in order of time, as many
    as were asked for, and after them what is no charge: each auto top-up, and where they are asked
    for each end of promotional credit. ``events_total`` says how many there are in all."""

    date: date
    balance_micros: SignedMicros
    events: list[ForecastEvent]
    events_total: int


class DueCharge(Value):
    """What becomes due, whether or not the balance covers it. Usage is due every day: of each
    deployment's the first one alone is listed, with what it comes to by the end of that day."""

    at: Moment
    amount_micros: AmountMicros
    deployment_id: UUID
    name: str
    kind: ForecastKind = ForecastKind.RENEWAL


class Forecast(Reply):
    """The available balance day by day: today and the ``days`` days after it.

    It changes in steps, when months are due, and with what is used: each deployment goes on at its
    measured rate. What it does not cover is not taken from it, so that no charge takes it below
    zero. On ``short_on``, the first day (UTC) at whose end a month or usage that is due is not paid
    (or on which something is suspended for that), ``short_by_micros`` are lacking, since
    ``short_at``; ``days_until_empty`` is how many days after today that is. None: not within these
    days.

    Auto top-ups are played by their rule, with the limits and the card as they are now, and
    assumed to go through. ``is_auto_topup_known`` is False where that could not be asked, and the
    forecast is one without. ``auto_topup_refusal`` says why a charge is not made that is needed.
    Purchases that wait for credits are not foretold; ``waiting`` are the newest of them, where it
    was asked for some. ``due_next`` are the next 20 charges. ``wallet`` and ``auto_topup`` are what
    it was made of; None: there is no wallet yet, that could not be asked, or an earlier version
    answers, which does not tell.
    """

    available_micros: SignedMicros
    days: list[ForecastDay]
    due_next: list[DueCharge]
    short_on: date | None = None
    short_at: Moment | None = None
    short_by_micros: PriceMicros = 0
    days_until_empty: int | None = None
    is_auto_topup_known: bool = True
    auto_topup_refusal: str = ""
    burn_rate: BurnRate | None = None
    waiting: list[Purchase] = Field(default_factory=list)
    wallet: Wallet | None = None
    auto_topup: AutoTopupState | None = None


class GetForecast(Request[Forecast], service=SERVICE, method="get_forecast"):
    """``without``: as if this deployment of the user's were not there. ``dearest``: with the burn
    rate beside it, which names so many; ``waiting``: with so many of the purchases that wait for
    credits or are under way; ``events_max``: the first so many events of each day are named, the
    others counted (somebody with 1,000 deployments has 12,000 in a year). ``with_promotion_ends``:
    each ``promotion_end`` is named too, which who does not ask for it may not know; it is in the
    balance and counted in any case. Errors: ``NotFound`` (of ``without``), ``Unavailable`` and
    ``DeadlineExceeded`` of the wallet."""

    user_id: UUID
    days: Annotated[int, Field(strict=True, ge=1, le=366)] = 30
    without: UUID | None = None
    dearest: PageLimit | None = None
    waiting: PageLimit | None = None
    events_max: Annotated[int, Field(strict=True, ge=0, le=EVENTS_MAX)] = EVENTS_NAMED
    with_promotion_ends: bool = False


class RunwayLow(UserEvent, source=SERVICE, type="runway_low"):
    """By the forecast credits do not cover what is due on ``short_on`` (UTC), ``days`` days from
    now; they do not from ``short_at`` on, whose day is another one elsewhere.

    Told at 7, 3 and 1 days, once each until it is covered again. ``auto_topup_refusal`` says why
    no automatic top-up covers it.
    """

    days: int
    short_on: date
    shortfall_micros: AmountMicros
    auto_topup_refusal: str = ""
    short_at: Moment | None = None


class RunwayRestored(UserEvent, source=SERVICE, type="runway_restored"):
    """What :class:`RunwayLow` warned of is over: what is due in the next 7 days is covered."""


class PurchaseShortOfFunds(UserEvent, source=SERVICE, type="purchase_short_of_funds"):
    """A purchase waits for money. ``shortfall_micros`` closes the gap of this purchase alone;

    ``total_shortfall_micros`` that of everything this user waits for.
    """

    inside: ClassVar[frozenset[str]] = frozenset({"begun_at", "way"})

    purchase_id: UUID
    total_micros: AmountMicros
    shortfall_micros: AmountMicros
    total_shortfall_micros: AmountMicros
    available_micros: SignedMicros
    begun_at: Moment | None = None
    way: PurchaseWay | None = None


class RenewalAnnounced(UserEvent, source=SERVICE, type="renewal_announced"):
    """A month ends soon, and another one will be charged."""

    deployment_id: UUID
    name: str
    amount_micros: AmountMicros
    renews_at: Moment


class DeploymentRenewed(UserEvent, source=SERVICE, type="deployment_renewed"):
    """A month was paid. ``fee_micros`` of it is the marketplace's, of what somebody else sells."""

    inside: ClassVar[frozenset[str]] = frozenset({"fee_micros"})

    deployment_id: UUID
    name: str
    amount_micros: AmountMicros
    starts_at: Moment
    ends_at: Moment
    transaction_id: UUID
    fee_micros: PriceMicros = 0


class PriceAnnounced(UserEvent, source=SERVICE, type="price_announced"):
    """The months of a deployment are to cost something else: the first that begins at
    ``applies_from`` or later."""

    deployment_id: UUID
    name: str
    old_price_micros: PriceMicros
    new_price_micros: PriceMicros
    applies_from: Moment


class RenewalShortOfFunds(UserEvent, source=SERVICE, type="renewal_short_of_funds"):
    """Months, or what was used, are due that the wallet does not pay: once for a user, with all
    that is due now, and again where more becomes due, or money came that does not cover it.

    ``shortfall_micros`` closes the whole gap: months, what is owed for time that ran, and usage;
    what was said before is a part of it. ``deployment_id`` has waited longest, ``deployments``
    says how many wait, and ``suspended_at`` when the first of them is suspended. ``is_usage``: no
    month of theirs waits, but what they used. ``occurred_at`` is when the wallet was asked, and
    ``counted_at`` when the gap was counted, later each time that anything is told of one user's:
    of this and :class:`ShortageLessened` the last counts. ``entry_count`` is how many entries the
    wallet had when it refused: a credit that came after has a larger number. Earlier versions did
    not say either.
    """

    inside: ClassVar[frozenset[str]] = frozenset({"counted_at", "entry_count"})

    deployment_id: UUID
    shortfall_micros: AmountMicros
    available_micros: SignedMicros
    name: str = ""
    deployments: int = 1
    suspended_at: Moment | None = None
    is_frozen: bool = False
    is_usage: bool = False
    counted_at: Moment | None = None
    entry_count: int | None = None


class OwedShortOfFunds(UserEvent, source=SERVICE, type="owed_short_of_funds"):
    """The wallet does not pay what is owed, and nothing that is unpaid runs any more: once for
    each debt, and again where money came that does not cover it. It is paid by itself when the
    wallet covers it.

    ``owed_micros`` is all of it, for time that ran and for what was used, of ``deployments``, of
    which ``deployment_id`` is the first.
    """

    deployment_id: UUID
    name: str
    deployments: int
    owed_micros: AmountMicros
    shortfall_micros: AmountMicros
    available_micros: SignedMicros
    is_frozen: bool = False


class ShortageLessened(UserEvent, source=SERVICE, type="shortage_lessened"):
    """Something that waited for money is paid, or does not run any more, as where its owner stopped
    it: no card is to be charged for it.

    ``needed_micros`` is what everything comes to that is still due; 0 where nothing waits that
    runs. ``counted_at`` as in :class:`RenewalShortOfFunds`.
    """

    inside: ClassVar[frozenset[str]] = frozenset({"counted_at"})

    needed_micros: PriceMicros
    counted_at: Moment | None = None


class SoldLine(Value):
    """So much of a product was bought, for so much."""

    product_id: UUID
    quantity: int
    amount_micros: PriceMicros


class PurchaseCompleted(UserEvent, source=SERVICE, type="purchase_completed"):
    """``fee_micros`` of it is the marketplace's, of what others sell. ``begun_at`` is when it was
    ordered. ``transaction_id`` is the wallet's, None for what costs nothing, and until
    ``returnable_until`` its buyer may give it back. Earlier versions did not say these three."""

    inside: ClassVar[frozenset[str]] = frozenset(
        {"begun_at", "fee_micros", "lines", "way", "transaction_id", "returnable_until"}
    )

    purchase_id: UUID
    total_micros: PriceMicros
    description: ShortText
    deployment_ids: list[UUID]
    begun_at: Moment | None = None
    fee_micros: PriceMicros = 0
    lines: list[SoldLine] = Field(default_factory=list)
    way: PurchaseWay | None = None
    transaction_id: UUID | None = None
    returnable_until: Moment | None = None


class PurchaseEnded(UserEvent, source=SERVICE, type="purchase_ended"):
    """A purchase ended without a payment: cancelled, expired or failed; nothing was charged."""

    inside: ClassVar[frozenset[str]] = frozenset({"begun_at", "way"})

    purchase_id: UUID
    status: PurchaseStatus
    status_code: str
    reason: str
    begun_at: Moment | None = None
    way: PurchaseWay | None = None


class RefundRecord(Value):
    """Money of a purchase that came back to its buyer, all of this refund."""

    refund_id: UUID
    done_at: Moment
    amount_micros: PriceMicros


class PurchaseRecord(Value):
    """What the events of a purchase said, as recorded; ``ended_at`` is None while it waits, and
    ``short_at`` where it was never short, or was so before that was recorded."""

    purchase_id: UUID
    user_id: UUID
    begun_at: Moment
    status: PurchaseStatus
    status_code: str
    ended_at: Moment | None
    total_micros: PriceMicros
    fee_micros: PriceMicros
    lines: list[SoldLine]
    refunds: list[RefundRecord]
    short_at: Moment | None = None
    way: PurchaseWay | None = None


class PurchaseRecords(Reply):
    records: list[PurchaseRecord]
    next_cursor: Cursor | None = None


class ExportPurchases(Request[PurchaseRecords], service=SERVICE, method="export_purchases"):
    """Everybody's purchases, the oldest first, for whoever counts: without those that were begun
    this moment, and without what came from the old system. Ask again with ``next_cursor`` until it
    is None."""

    cursor: Cursor | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=500)] = 500


class ChangeRecord(Value):
    """A deployment came into this state; or, with ``monthly_cost_micros``, has another size."""

    change_id: UUID
    changed_at: Moment
    status: DeploymentStatus
    monthly_cost_micros: PriceMicros | None


class MonthRecord(Value):
    """A month after the first one was paid."""

    transaction_id: UUID
    paid_at: Moment
    amount_micros: PriceMicros
    fee_micros: PriceMicros


class DeploymentRecord(Value):
    """What the events of a deployment said, as recorded; what it cost a month is of its first."""

    deployment_id: UUID
    activated_at: Moment
    monthly_cost_micros: PriceMicros
    changes: list[ChangeRecord]
    months: list[MonthRecord]


class DeploymentRecords(Reply):
    records: list[DeploymentRecord]
    next_cursor: Cursor | None = None


class ExportDeployments(Request[DeploymentRecords], service=SERVICE, method="export_deployments"):
    """Everybody's deployments that have run, the oldest first, for whoever counts. As
    :class:`ExportPurchases`."""

    cursor: Cursor | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=500)] = 500


class PurchaseRefunded(UserEvent, source=SERVICE, type="purchase_refunded"):
    """Money of a purchase came back to its buyer: ``amount_micros`` by this refund."""

    purchase_id: UUID
    refund_id: UUID
    cause: RefundCause
    reason: str
    amount_micros: PriceMicros
    description: str


class SaleRefunded(UserEvent, source=SERVICE, type="sale_refunded"):
    """What a provider sold was refunded: ``net_micros`` of what was earned went back.

    ``owed_micros`` of that was not in the wallet any more. It was advanced, and is taken as soon as
    the wallet covers it.
    """

    refund_id: UUID
    product_names: list[str]
    units: int
    net_micros: PriceMicros
    owed_micros: PriceMicros


class PayoutPaid(UserEvent, source=SERVICE, type="payout_paid"):
    """What was earned has been sent; ``reference`` is where it is found."""

    payout_id: UUID
    amount_micros: AmountMicros
    reference: str


class PayoutRefused(UserEvent, source=SERVICE, type="payout_refused"):
    """A payout was not made; the money is free again."""

    payout_id: UUID
    amount_micros: AmountMicros
    reason: str


class DeploymentRequested(UserEvent, source=SERVICE, type="deployment_requested"):
    """Something to provision; whoever does it answers with ``billing.report_deployment``.

    It is published where billing does not provision by itself, and kept until somebody hears it.
    """

    deployment_id: UUID
    product_id: UUID
    name: str
    choices: Choices = Field(default_factory=dict)


class DeploymentActivated(
    UserEvent, source=SERVICE, type="deployment_activated", needs_listener=False
):
    deployment_id: UUID
    name: str
    monthly_cost_micros: PriceMicros


class DeploymentChanged(UserEvent, source=SERVICE, type="deployment_changed"):
    """Its status changed after it first ran, or was to run. Whoever runs it does as it says.

    With the cause ``resized`` its status is as it was, and it is another size, ``product_id``,
    whose months cost ``monthly_cost_micros``. Unless somebody acts, the status
    becomes ``next_status`` at ``next_status_at``.
    """

    inside: ClassVar[frozenset[str]] = frozenset({"monthly_cost_micros"})

    deployment_id: UUID
    name: str
    status: DeploymentStatus
    cause: ChangeCause
    next_status: DeploymentStatus | None = None
    next_status_at: Moment | None = None
    product_id: UUID | None = None
    monthly_cost_micros: PriceMicros | None = None


class DeletionAnnounced(UserEvent, source=SERVICE, type="deletion_announced"):
    """A deployment that does not run is deleted soon."""

    deployment_id: UUID
    name: str
    deleted_at: Moment


class DeploymentFailed(UserEvent, source=SERVICE, type="deployment_failed", needs_listener=False):
    """What was paid for could not be provisioned."""

    deployment_id: UUID
    purchase_id: UUID
    name: str
    reason: str
