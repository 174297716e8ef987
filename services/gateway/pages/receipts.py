"""Receipts of purchases, of what was charged after them and of usage: the page, issuing, the
PDF."""

from base64 import b64decode
from datetime import datetime
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from pydantic import ValidationError
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response

from chassis.clock import utc_now
from chassis.papers.paper import percent
from contracts import topup
from contracts.billing import (
    GetReceipt,
    IssueReceipt,
    ListPaidMonths,
    Receipt,
    RenderedReceipt,
    RenderReceipt,
)
from contracts.errors import ServiceError
from contracts.papers import BillingDetails
from services.gateway.backend import call, database
from services.gateway.months import read_month
from services.gateway.people import billing_details
from services.gateway.people.identity import login_required, signed_in_user

blueprint = Blueprint("receipts", __name__)

_CHARGE = "/dashboard/deployments/<uuid:deployment_id>/charges/<uuid:transaction_id>"
_USAGE = "/dashboard/usage/<string(maxlength=7):month>"


@blueprint.get("/purchases/<uuid:purchase_id>/receipt")
@login_required
def purchase(purchase_id: UUID) -> str:
    return _page(purchase_id=purchase_id)


@blueprint.post("/purchases/<uuid:purchase_id>/receipt")
@login_required
def issue_for_purchase(purchase_id: UUID) -> Response | tuple[str, int]:
    return _issue(purchase_id=purchase_id)


@blueprint.get("/purchases/<uuid:purchase_id>/receipt.pdf")
@login_required
def purchase_document(purchase_id: UUID) -> Response:
    return _document(purchase_id=purchase_id)


@blueprint.get(f"{_CHARGE}/receipt")
@login_required
def charge(deployment_id: UUID, transaction_id: UUID) -> str:
    return _page(deployment_id=deployment_id, transaction_id=transaction_id)


@blueprint.post(f"{_CHARGE}/receipt")
@login_required
def issue_for_charge(deployment_id: UUID, transaction_id: UUID) -> Response | tuple[str, int]:
    return _issue(deployment_id=deployment_id, transaction_id=transaction_id)


@blueprint.get(f"{_CHARGE}/receipt.pdf")
@login_required
def charge_document(deployment_id: UUID, transaction_id: UUID) -> Response:
    return _document(deployment_id=deployment_id, transaction_id=transaction_id)


@blueprint.get("/dashboard/usage")
@login_required
def usage_months() -> str:
    """The months in which usage was paid for."""
    months = call(ListPaidMonths(user_id=signed_in_user().user_id)).months
    return render_template("usage_receipts.html", months=months, now=utc_now())


@blueprint.get(f"{_USAGE}/receipt")
@login_required
def usage(month: str) -> str:
    return _page(month=read_month(month))


@blueprint.post(f"{_USAGE}/receipt")
@login_required
def issue_for_usage(month: str) -> Response | tuple[str, int]:
    return _issue(month=read_month(month))


@blueprint.get(f"{_USAGE}/receipt.pdf")
@login_required
def usage_document(month: str) -> Response:
    return _document(month=read_month(month))


def pdf_response(rendered: RenderedReceipt | topup.RenderedReceipt) -> Response:
    """A rendered receipt as a file to be saved."""
    name = secure_filename(rendered.file_name) or "receipt.pdf"
    return Response(
        b64decode(rendered.pdf_base64),
        mimetype="application/pdf",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _page(**subject: UUID | str) -> str:
    user_id = signed_in_user().user_id
    receipt = call(GetReceipt.model_validate({"user_id": user_id, **subject}))
    with database().read() as session:
        details = billing_details.details_of(session, user_id)
    return _shown(receipt, details.model_dump())


def _issue(**subject: UUID | str) -> Response | tuple[str, int]:
    """Keep what was entered for the next one too, and make this one out to it."""
    user_id = signed_in_user().user_id
    typed = {name: request.form.get(name, "") for name in BillingDetails.model_fields}
    try:
        details = BillingDetails.model_validate(typed)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        receipt = call(GetReceipt.model_validate({"user_id": user_id, **subject}))
        return _shown(receipt, typed, refused=field), 422
    with database().begin() as session:
        billing_details.save(session, utc_now(), user_id, details)
    command = {"user_id": user_id, "buyer": details, **subject}
    try:
        call(IssueReceipt.model_validate(command))
    except ServiceError as error:
        flash(str(error), "danger")
    return redirect(request.path, 303)


def _document(**subject: UUID | str) -> Response:
    question = {"user_id": signed_in_user().user_id, **subject}
    rendered: RenderedReceipt = call(RenderReceipt.model_validate(question))
    return pdf_response(rendered)


def _shown(receipt: Receipt, typed: dict[str, str], refused: str = "") -> str:
    if receipt.month is not None:
        back = url_for("receipts.usage_months")
    elif receipt.deployment_id is None:
        back = url_for("purchases.follow", purchase_id=receipt.purchase_id)
    else:
        back = url_for("deployments.single", deployment_id=receipt.deployment_id)
    return render_template(
        "paid_receipt.html",
        receipt=receipt,
        typed=typed,
        refused=refused,
        back=back,
        tax_rate=percent(receipt.tax_bps),
        pdf_url=f"{request.path}.pdf",
        issuable_from=_issuable_from(receipt),
    )


def _issuable_from(receipt: Receipt) -> datetime | None:
    """When the receipt of a month that is not over can be issued."""
    if receipt.month is None or receipt.number is not None:
        return None
    months = call(ListPaidMonths(user_id=receipt.user_id)).months
    since = next((each.issuable_from for each in months if each.month == receipt.month), None)
    return since if since is not None and since > utc_now() else None
