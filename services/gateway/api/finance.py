"""For roles, as :mod:`services.gateway.api.admin`: adjustments, promotional credit, the books."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from flask import Blueprint
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from chassis.clock import midnight, utc_now
from contracts.billing import PayoutStatus
from contracts.messages import Day
from contracts.topup import BookDifference, DisputeDetails, DisputeRecord, TopupKind, TopupStatus
from contracts.wallet import (
    AdjustmentStatus,
    GetJournal,
    HouseAccount,
    ListAdjustments,
    TransactionKind,
)
from services.gateway.access import Role
from services.gateway.api.admin import FindBody, WhyBody
from services.gateway.api.endpoint import endpoint
from services.gateway.api.sales import SalesSumReply
from services.gateway.api.shapes import (
    ApiBody,
    ApiReply,
    Limit,
    PeriodQuery,
    PlainText,
    PositiveUsd,
    QueryFlag,
    Usd,
)
from services.gateway.backend import call, database
from services.gateway.staff import acts, books, commands, grants, payment_evidence
from services.gateway.staff.acts import read_reason
from services.gateway.staff.guard import Staff, readers

blueprint = Blueprint("api_finance", __name__)

GIVEN_SHOWN = 20
JOURNAL_DAYS_MAX = 31
"""In one answer, as the wallet reads it."""
FINANCE = frozenset({Role.FINANCE})
GIVERS = frozenset({Role.SUPPORT, Role.FINANCE})


def _with_a_day_after(day: date) -> date:
    if day == date.max:
        raise ValueError("It is too late a day.")
    return day


LastDay = Annotated[Day, AfterValidator(_with_a_day_after)]


class Direction(StrEnum):
    CREDIT = "credit"
    DEBIT = "debit"


class ProposeBody(FindBody):
    """``credit`` goes into the wallet, ``debit`` out of it. The user reads the ``reason``."""

    direction: Direction
    amount_micros: PositiveUsd = Field(alias="amount")


class AdjustmentReply(ApiReply):
    """``amount_usd`` is negative where it goes out of the wallet; ``transaction_id`` is its
    posting, once a colleague has approved it."""

    adjustment_id: UUID
    user_id: UUID
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    reason: str
    status: AdjustmentStatus
    proposed_by: UUID
    proposed_at: AwareDatetime
    expires_at: AwareDatetime
    decided_by: UUID | None
    decided_at: AwareDatetime | None
    decision_reason: str | None
    transaction_id: UUID | None


class AdjustmentReplies(ApiReply):
    """The newest first."""

    adjustments: list[AdjustmentReply]


class AdjustmentsQuery(ApiBody):
    """``only_open``: what can still be decided."""

    only_open: QueryFlag = False
    limit: Limit = 50


class GiveBody(FindBody):
    """It ends with ``last_day`` (UTC)."""

    amount_micros: PositiveUsd = Field(alias="amount")
    last_day: LastDay


class PromotionGivenReply(ApiReply):
    promotion_id: UUID
    user_id: UUID
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    left_micros: Usd = Field(serialization_alias="left_usd")
    expires_at: AwareDatetime


class GivenReply(ApiReply):
    """``is_done`` is false where the wallet did not answer: whether it was given is not known."""

    user_id: UUID
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    expires_at: AwareDatetime
    reason: str
    given_by: UUID | None
    given_at: AwareDatetime
    is_done: bool


class GivenReplies(ApiReply):
    """The newest first."""

    promotions: list[GivenReply]


class HouseReply(ApiReply):
    account: HouseAccount
    balance_micros: Usd = Field(serialization_alias="balance_usd")


class NegativeReply(ApiReply):
    user_id: UUID
    balance_micros: Usd = Field(serialization_alias="balance_usd")
    held_micros: Usd = Field(serialization_alias="held_usd")
    status: str


class VerificationReply(ApiReply):
    """``ended_at`` and what it found are null until it has ended."""

    verification_id: UUID
    asked_by: UUID | None
    asked_at: AwareDatetime
    ended_at: AwareDatetime | None
    clean: bool | None
    first_difference: str | None
    transaction_count: int | None
    entry_count: int | None
    sealed_count: int | None


class TrialBalance(ApiReply):
    """``difference_usd`` is 0 where the house's accounts and all wallets come to zero.
    ``verification`` is the last of ``verifications``."""

    at: AwareDatetime
    house: list[HouseReply]
    wallet_count: int
    wallets_micros: Usd = Field(serialization_alias="wallets_usd")
    held_micros: Usd = Field(serialization_alias="held_usd")
    difference_micros: Usd = Field(serialization_alias="difference_usd")
    negative: list[NegativeReply]
    verification: VerificationReply | None
    verifications: list[VerificationReply]


class DifferenceReply(ApiReply):
    """``age_hours`` is null once it is gone."""

    code: str
    user_id: UUID | None
    topup_id: UUID | None
    payment_id: str
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    message: str
    occurred_at: AwareDatetime
    found_at: AwareDatetime
    seen_at: AwareDatetime
    age_hours: int | None
    gone_at: AwareDatetime | None
    accepted_by: str


class DifferencesOfDay(ApiReply):
    day: date
    differences: list[DifferenceReply]


class StuckReply(ApiReply):
    topup_id: UUID
    user_id: UUID
    kind: TopupKind
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    status: TopupStatus
    payment_id: str
    problem: str
    looks: int
    next_look_at: AwareDatetime | None
    sent_at: AwareDatetime | None
    changed_at: AwareDatetime


class DisputeReply(ApiReply):
    """``status`` is the processor's own word. ``due_at`` is until when it takes evidence, which was
    handed in ``submission_count`` times. From ``reason`` to ``closed_at`` nothing is known of one
    of which nothing was heard since it is kept; ``url`` is its page at the processor."""

    dispute_id: str
    topup_id: UUID
    user_id: UUID
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    status: str
    asked_at: AwareDatetime
    reason: str | None
    network_reason_code: str | None
    fee_micros: Usd | None = Field(serialization_alias="fee_usd")
    due_at: AwareDatetime | None
    is_past_due: bool
    has_evidence: bool
    submission_count: int
    was_submitted_late: bool
    opened_at: AwareDatetime | None
    closed_at: AwareDatetime | None
    taken_at: AwareDatetime | None
    restored_at: AwareDatetime | None
    url: str


class PaymentsReply(ApiReply):
    """``differences`` by the day of what differs, the newest first."""

    differences: list[DifferencesOfDay]
    stuck: list[StuckReply]
    disputes: list[DisputeReply]


class PayoutDue(ApiReply):
    payout_id: UUID
    user_id: UUID
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    owed_micros: Usd = Field(serialization_alias="owed_usd")
    status: PayoutStatus
    created_at: AwareDatetime


class EvidenceReply(ApiReply):
    """``csv`` is the file that is handed in at the processor."""

    topup_id: UUID
    csv: str


class SentBody(WhyBody):
    """``reference`` is where the seller finds the money."""

    reference: Annotated[PlainText, StringConstraints(min_length=1, max_length=200)]


class ClosedPayoutReply(PayoutDue):
    reference: str
    reason: str
    changed_at: AwareDatetime


class FinanceReply(ApiReply):
    """``books`` are null while the wallet is away, ``payments`` while topup is, ``payouts`` (those
    to make) while billing is. Of each list the first 100."""

    books: TrialBalance | None
    payments: PaymentsReply | None
    payouts: list[PayoutDue] | None


class JournalQuery(ApiBody):
    """Both days (UTC) and all between them, 31 at most."""

    since: Day
    until: LastDay

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 <= (self.until - self.since).days < JOURNAL_DAYS_MAX:
            raise ValueError("until must not be before since, nor 31 days after it.")
        return self


class SoldQuery(PeriodQuery):
    """Both days (UTC) and all between them."""

    since: Day
    until: Day


class SellerReply(SalesSumReply):
    provider_id: UUID


class SellersReply(ApiReply):
    """``total`` is of all of them, ``providers`` the 100 who sold most."""

    total: SalesSumReply
    providers: list[SellerReply]


class JournalLineReply(ApiReply):
    """What a house account got and gave on one day by one kind of transaction."""

    day: date
    account: HouseAccount
    kind: TransactionKind
    transaction_count: int
    received_micros: Usd = Field(serialization_alias="received_usd")
    given_micros: Usd = Field(serialization_alias="given_usd")
    net_micros: Usd = Field(serialization_alias="net_usd")


class JournalReply(ApiReply):
    lines: list[JournalLineReply]


@endpoint(
    blueprint,
    "GET",
    "/api/admin/adjustments",
    query=AdjustmentsQuery,
    reply=AdjustmentReplies,
    roles=readers(Role.FINANCE),
)
def list_adjustments(staff: Staff, query: AdjustmentsQuery) -> AdjustmentReplies:  # noqa: ARG001
    """List corrections of wallets: what was proposed, and what became of it."""
    told = call(ListAdjustments(only_open=query.only_open, limit=query.limit))
    return AdjustmentReplies.of(told)


@endpoint(
    blueprint,
    "POST",
    "/api/admin/adjustments",
    body=ProposeBody,
    reply=AdjustmentReply,
    status=201,
    command=True,
    roles=FINANCE,
)
def propose_adjustment(staff: Staff, body: ProposeBody, key: str) -> AdjustmentReply:
    """Propose to correct a wallet. Nothing moves before a colleague approves it, within seven days.
    404: nobody has this address. 409: it is your own wallet."""
    reason = read_reason(body.reason)
    amount_micros = body.amount_micros
    if body.direction is Direction.DEBIT:
        amount_micros = -amount_micros
    told = commands.propose(staff, _id_of(body.whom), amount_micros, key, reason)
    return AdjustmentReply.of(told)


@endpoint(
    blueprint,
    "POST",
    "/api/admin/adjustments/<uuid:adjustment_id>/approve",
    body=WhyBody,
    reply=AdjustmentReply,
    command=True,
    roles=FINANCE,
)
def approve_adjustment(
    staff: Staff, adjustment_id: UUID, body: WhyBody, key: str
) -> AdjustmentReply:
    """Approve what a colleague proposed, which posts it. 402: the wallet has not got it. 409: it is
    your own proposal or wallet, or decided, or expired."""
    return _decided(staff, adjustment_id, body, key, is_approved=True)


@endpoint(
    blueprint,
    "POST",
    "/api/admin/adjustments/<uuid:adjustment_id>/reject",
    body=WhyBody,
    reply=AdjustmentReply,
    command=True,
    roles=FINANCE,
)
def reject_adjustment(
    staff: Staff, adjustment_id: UUID, body: WhyBody, key: str
) -> AdjustmentReply:
    """Reject what a colleague proposed; nothing moves. 409: as for approving it."""
    return _decided(staff, adjustment_id, body, key, is_approved=False)


@endpoint(
    blueprint,
    "GET",
    "/api/admin/promotions",
    reply=GivenReplies,
    roles=readers(*GIVERS),
)
def list_promotions(staff: Staff) -> GivenReplies:  # noqa: ARG001
    """List the promotional credit that was given last, but for what the wallet refused."""
    with database().read() as session:
        given = acts.newest_not_refused(session, commands.PROMOTION, GIVEN_SHOWN)
    return GivenReplies(
        promotions=[
            GivenReply(
                user_id=UUID(act.subject),
                amount_micros=(act.before or {})["amount_micros"],
                expires_at=datetime.fromisoformat((act.before or {})["expires_at"]),
                reason=act.reason,
                given_by=act.actor_id,
                given_at=act.occurred_at,
                is_done=is_done,
            )
            for act, is_done in given
        ]
    )


@endpoint(
    blueprint,
    "POST",
    "/api/admin/promotions",
    body=GiveBody,
    reply=PromotionGivenReply,
    status=201,
    command=True,
    roles=GIVERS,
)
def give_promotion(staff: Staff, body: GiveBody, key: str) -> PromotionGivenReply:
    """Give promotional credit, up to and with a day within a year. The user is told. 409: it is
    your own wallet, or one below zero. 422: so much takes an adjustment."""
    reason, user_id = read_reason(body.reason), _id_of(body.whom)
    # All of that day: it ends with it.
    expires_at = midnight(body.last_day + timedelta(days=1))
    told = commands.give(staff, user_id, body.amount_micros, expires_at, key, reason)
    return PromotionGivenReply.of(told, user_id=user_id)


@endpoint(
    blueprint,
    "GET",
    "/api/admin/finance",
    reply=FinanceReply,
    roles=readers(Role.FINANCE),
)
def show_finance(staff: Staff) -> FinanceReply:  # noqa: ARG001
    """Show the books, and what does not agree in them."""
    told, payments, payouts = books.ask()
    return FinanceReply(
        books=TrialBalance.of(told, verification=next(iter(told.verifications), None))
        if told
        else None,
        payments=PaymentsReply.of(
            payments,
            differences=_by_day(payments.differences),
            disputes=[_dispute(each) for each in payments.disputes],
        )
        if payments
        else None,
        payouts=[PayoutDue.of(each) for each in payouts.payouts] if payouts else None,
    )


@endpoint(
    blueprint,
    "POST",
    "/api/admin/finance/verify",
    body=WhyBody,
    reply=VerificationReply,
    status=202,
    command=True,
    roles=FINANCE,
)
def ask_verification(staff: Staff, body: WhyBody, key: str) -> VerificationReply:
    """Have the ledger verified. What it found stands in the overview once it has ended."""
    return VerificationReply.of(commands.verify(staff, key, read_reason(body.reason)))


@endpoint(
    blueprint,
    "GET",
    "/api/admin/finance/sellers",
    query=SoldQuery,
    reply=SellersReply,
    roles=readers(Role.FINANCE),
)
def show_sellers(staff: Staff, query: SoldQuery) -> SellersReply:  # noqa: ARG001
    """Show what everybody who sells sold in these days, those first who sold most."""
    return SellersReply.of(call(books.sold(query.since, query.until)))


@endpoint(
    blueprint,
    "GET",
    "/api/admin/finance/journal",
    query=JournalQuery,
    reply=JournalReply,
    roles=readers(Role.FINANCE),
)
def show_journal(staff: Staff, query: JournalQuery) -> JournalReply:  # noqa: ARG001
    """Show the journal of the house's accounts."""
    told = call(GetJournal(since=query.since, until=query.until + timedelta(days=1)))
    return JournalReply(
        lines=[
            JournalLineReply.of(line, net_micros=line.received_micros - line.given_micros)
            for line in told.lines
        ]
    )


@endpoint(
    blueprint,
    "POST",
    "/api/admin/finance/disputes/<string(maxlength=255):dispute_id>/payment",
    body=WhyBody,
    reply=EvidenceReply,
    roles=FINANCE,
)
def read_payment_evidence(staff: Staff, dispute_id: str, body: WhyBody) -> EvidenceReply:
    """Read what is known of a disputed payment: the receipt, the card, the consent, and what the
    credits were spent on. 404: there is no such dispute of credits that were sold."""
    dispute = payment_evidence.find(dispute_id)
    content = payment_evidence.read(staff.actor(), dispute, read_reason(body.reason))
    return EvidenceReply(topup_id=dispute.topup_id, csv=content)


@endpoint(
    blueprint,
    "POST",
    "/api/admin/payouts/<uuid:payout_id>/paid",
    body=SentBody,
    reply=ClosedPayoutReply,
    command=True,
    roles=FINANCE,
)
def mark_payout_paid(staff: Staff, payout_id: UUID, body: SentBody, key: str) -> ClosedPayoutReply:
    """Say that a payout was sent; its seller is told. 409: it is your own, or not held."""
    reason = read_reason(body.reason)
    payout = commands.payout_of_another(staff, payout_id)
    return ClosedPayoutReply.of(commands.pay(staff, payout, body.reference, key, reason))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/payouts/<uuid:payout_id>/refused",
    body=WhyBody,
    reply=ClosedPayoutReply,
    command=True,
    roles=FINANCE,
)
def refuse_payout(staff: Staff, payout_id: UUID, body: WhyBody, key: str) -> ClosedPayoutReply:
    """Send no payout: it is free again, and its seller is told the reason. 409: as for sending."""
    reason = read_reason(body.reason)
    payout = commands.payout_of_another(staff, payout_id)
    return ClosedPayoutReply.of(commands.refuse(staff, payout, key, reason))


def _id_of(whom: str) -> UUID:
    with database().read() as session:
        return grants.find(session, whom).user_id


def _decided(
    staff: Staff, adjustment_id: UUID, body: WhyBody, key: str, *, is_approved: bool
) -> AdjustmentReply:
    reason = read_reason(body.reason)
    told = commands.decide(staff, adjustment_id, is_approved=is_approved, key=key, reason=reason)
    return AdjustmentReply.of(told)


def _by_day(differences: Sequence[BookDifference]) -> list[DifferencesOfDay]:
    now = utc_now()

    def shown(each: BookDifference) -> DifferenceReply:
        hours = (now - each.occurred_at) // timedelta(hours=1)
        return DifferenceReply.of(each, age_hours=None if each.gone_at else hours)

    return [
        DifferencesOfDay(day=day, differences=[shown(each) for each in found])
        for day, found in books.by_day(differences)
    ]


def _dispute(told: DisputeRecord) -> DisputeReply:
    if told.details is None:
        nothing = dict.fromkeys(DisputeDetails.model_fields)
        no_evidence = dict.fromkeys(("is_past_due", "has_evidence", "was_submitted_late"), False)
        return DisputeReply.of(told, **{**nothing, **no_evidence, "submission_count": 0})
    return DisputeReply.of(told, **told.details.model_dump())
