"""Receipts of purchases, of what was charged after them and of usage, and whom they are made out
to."""

from uuid import UUID

from flask import Blueprint, url_for
from pydantic import AwareDatetime, Field

from chassis.clock import utc_now
from contracts.billing import GetReceipt, IssueReceipt, ListPaidMonths, Receipt
from contracts.papers import BillingDetails
from contracts.wallet import Noted, Statement, Transaction, TransactionKind
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, CursorText, Limit, Usd
from services.gateway.backend import call, database
from services.gateway.months import read_month
from services.gateway.people import billing_details
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_receipts", __name__)


class BillingDetailsBody(BillingDetails, ApiBody):
    """``address`` has up to 6 lines. What is left out is empty."""


class BillingDetailsReply(ApiReply):
    name: str
    address: str
    country: str
    tax_id: str


class ReceiptLineReply(ApiReply):
    label: str
    detail: str
    amount_micros: Usd = Field(serialization_alias="amount_usd")


class ReceiptReply(ApiReply):
    """Issued, it has a ``number`` and stays as it is, but for ``refunds`` that come later and what
    remains (``net_usd``); until then it is a draft. ``total_usd`` contains ``tax_usd``, at
    ``tax_percent``. ``pdf_url`` is null for a draft. One for usage names a calendar ``month``
    (UTC), and neither a transaction nor a purchase."""

    transaction_id: UUID | None
    purchase_id: UUID | None
    deployment_id: UUID | None
    month: str | None
    number: str | None
    issued_at: AwareDatetime | None
    paid_at: AwareDatetime
    seller: list[str]
    buyer: BillingDetailsReply
    lines: list[ReceiptLineReply]
    tax_percent: float
    tax_micros: Usd = Field(serialization_alias="tax_usd")
    total_micros: Usd = Field(serialization_alias="total_usd")
    refunds: list[ReceiptLineReply]
    net_micros: Usd = Field(serialization_alias="net_usd")
    pdf_url: str | None


class PaidMonthReply(ApiReply):
    """What was paid for usage in a calendar month (UTC): ``2026-03``. ``number`` is null until its
    receipt is issued, which is possible from ``issuable_from`` on."""

    month: str
    total_micros: Usd = Field(serialization_alias="total_usd")
    issuable_from: AwareDatetime
    number: str | None


class PaidMonthReplies(ApiReply):
    """The newest first, five years at most."""

    months: list[PaidMonthReply]


class ReceiptQuery(ApiBody):
    cursor: CursorText | None = None
    limit: Limit = 25


class PaidReply(ApiReply):
    """A payment that has a receipt of its own. ``receipt_url`` is its page, where that of a
    purchase or a renewal is issued; with ``.pdf`` after it, it is the document."""

    transaction_id: UUID
    kind: TransactionKind
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    description: str
    effective_at: AwareDatetime = Field(serialization_alias="paid_at")
    receipt_url: str


class PaidReplies(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end."""

    receipts: list[PaidReply]
    next_cursor: str | None


_WITH_RECEIPTS = [
    TransactionKind.PURCHASE,
    TransactionKind.RENEWAL,
    TransactionKind.TOPUP,
    TransactionKind.AUTO_TOPUP,
]
_OF_MONTH = "/api/usage-receipts/<string(maxlength=100):month>"


@endpoint(blueprint, "GET", "/api/receipts", query=ReceiptQuery, reply=PaidReplies)
def list_receipts(user: CurrentUser, query: ReceiptQuery) -> PaidReplies:
    """What was paid for and has a receipt: purchases, renewals, credits that were bought. Usage has
    one for each month: ``/api/usage-receipts``. A page may be shorter than asked for."""
    page = call(
        Statement(
            user_id=user.user_id, kinds=_WITH_RECEIPTS, cursor=query.cursor, limit=query.limit
        )
    )
    receipts = [
        PaidReply.of(paid, receipt_url=url)
        for paid in page.transactions
        if (url := _receipt_url(paid)) is not None
    ]
    return PaidReplies(receipts=receipts, next_cursor=page.next_cursor)


@endpoint(blueprint, "GET", "/api/purchases/<uuid:purchase_id>/receipt", reply=ReceiptReply)
def get_purchase_receipt(user: CurrentUser, purchase_id: UUID) -> ReceiptReply:
    """The receipt of a purchase, or a draft of it. 409: nothing was paid."""
    return _shown(call(GetReceipt(user_id=user.user_id, purchase_id=purchase_id)))


@endpoint(blueprint, "POST", "/api/purchases/<uuid:purchase_id>/receipt", reply=ReceiptReply)
def issue_purchase_receipt(user: CurrentUser, purchase_id: UUID) -> ReceiptReply:
    """Issue it, made out to the billing details of now. Once it is issued, this answers with it."""
    buyer = _details(user)
    return _shown(call(IssueReceipt(user_id=user.user_id, purchase_id=purchase_id, buyer=buyer)))


@endpoint(
    blueprint,
    "GET",
    "/api/deployments/<uuid:deployment_id>/charges/<uuid:transaction_id>/receipt",
    reply=ReceiptReply,
)
def get_charge_receipt(
    user: CurrentUser, deployment_id: UUID, transaction_id: UUID
) -> ReceiptReply:
    """The same for one of the ``charges`` of a deployment."""
    question = GetReceipt(
        user_id=user.user_id, deployment_id=deployment_id, transaction_id=transaction_id
    )
    return _shown(call(question))


@endpoint(
    blueprint,
    "POST",
    "/api/deployments/<uuid:deployment_id>/charges/<uuid:transaction_id>/receipt",
    reply=ReceiptReply,
)
def issue_charge_receipt(
    user: CurrentUser, deployment_id: UUID, transaction_id: UUID
) -> ReceiptReply:
    """The same for one of the ``charges`` of a deployment."""
    command = IssueReceipt(
        user_id=user.user_id,
        deployment_id=deployment_id,
        transaction_id=transaction_id,
        buyer=_details(user),
    )
    return _shown(call(command))


@endpoint(blueprint, "GET", "/api/usage-receipts", reply=PaidMonthReplies)
def list_usage_receipts(user: CurrentUser) -> PaidMonthReplies:
    """The calendar months in which usage was paid for, each of which has a receipt."""
    return PaidMonthReplies.of(call(ListPaidMonths(user_id=user.user_id)))


@endpoint(blueprint, "GET", _OF_MONTH, reply=ReceiptReply)
def get_usage_receipt(user: CurrentUser, month: str) -> ReceiptReply:
    """The receipt of a month's usage, or a draft of it: a line for each meter of a deployment."""
    return _shown(call(GetReceipt(user_id=user.user_id, month=read_month(month))))


@endpoint(blueprint, "POST", _OF_MONTH, reply=ReceiptReply)
def issue_usage_receipt(user: CurrentUser, month: str) -> ReceiptReply:
    """Issue it, as that of a purchase. 409: the month is not over."""
    command = {"user_id": user.user_id, "month": read_month(month), "buyer": _details(user)}
    return _shown(call(IssueReceipt.model_validate(command)))


@endpoint(blueprint, "GET", "/api/billing-details", reply=BillingDetailsReply)
def get_billing_details(user: CurrentUser) -> BillingDetailsReply:
    """Whom receipts are made out to."""
    return BillingDetailsReply.of(_details(user))


@endpoint(
    blueprint, "PUT", "/api/billing-details", body=BillingDetailsBody, reply=BillingDetailsReply
)
def put_billing_details(user: CurrentUser, body: BillingDetailsBody) -> BillingDetailsReply:
    """Another name, address, country or tax id for the receipts that are issued from now on."""
    with database().begin() as session:
        billing_details.save(session, utc_now(), user.user_id, body)
    return BillingDetailsReply.of(body)


def _details(user: CurrentUser) -> BillingDetails:
    with database().read() as session:
        return billing_details.details_of(session, user.user_id)


def _shown(receipt: Receipt) -> ReceiptReply:
    return ReceiptReply.of(receipt, tax_percent=receipt.tax_bps / 100, pdf_url=_pdf_url(receipt))


def _receipt_url(paid: Transaction) -> str | None:
    """None for a transaction that names nothing of which there is a receipt."""
    noted = paid.metadata
    if deployment_id := noted.get(Noted.DEPLOYMENT_ID):
        return url_for(
            "receipts.charge", deployment_id=deployment_id, transaction_id=paid.transaction_id
        )
    if purchase_id := noted.get(Noted.PURCHASE_ID):
        return url_for("receipts.purchase", purchase_id=purchase_id)
    if topup_id := noted.get(Noted.TOPUP_ID):
        return url_for("topups.receipt", topup_id=topup_id)
    return None


def _pdf_url(receipt: Receipt) -> str | None:
    if receipt.number is None:
        return None
    if receipt.month is not None:
        return url_for("receipts.usage_document", month=receipt.month)
    if receipt.deployment_id is None:
        return url_for("receipts.purchase_document", purchase_id=receipt.purchase_id)
    return url_for(
        "receipts.charge_document",
        deployment_id=receipt.deployment_id,
        transaction_id=receipt.transaction_id,
    )
