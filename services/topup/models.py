"""The tables of the top-up service. Amounts are micro-dollars, times are aware UTC."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class Customer(Base):
    """A user at the card processor. ``customer_id`` is None until the processor answered;
    ``created_at`` is when we began to ask for it."""

    __tablename__ = "customers"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    customer_id: Mapped[str | None]
    created_at: Mapped[datetime]


class Card(Base):
    """A saved card, as the processor last described it. ``detached_at``: it knows that we
    forgot the card; ``detach_at``: when it is told so again."""

    __tablename__ = "cards"

    payment_method_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    brand: Mapped[str]
    last4: Mapped[str]
    exp_month: Mapped[int] = mapped_column(Integer)
    exp_year: Mapped[int] = mapped_column(Integer)
    fingerprint: Mapped[str]
    is_default: Mapped[bool] = mapped_column(default=False)
    added_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
    detach_at: Mapped[datetime | None]
    detached_at: Mapped[datetime | None]
    expiry_warned_at: Mapped[datetime | None]


class Topup(Base):
    """One purchase of credits. Its id is the idempotency key at the processor."""

    __tablename__ = "topups"

    topup_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    kind: Mapped[str]
    status: Mapped[str]
    amount_micros: Mapped[int]
    idempotency_key: Mapped[str]
    request_hash: Mapped[str]
    customer_id: Mapped[str | None]
    is_card_saved: Mapped[bool] = mapped_column(default=False)
    return_path: Mapped[str] = mapped_column(default="/dashboard/wallet")
    purchase_id: Mapped[UUID | None]
    """The one purchase that a top-up by hand is to pay for, if it is for one."""
    session_id: Mapped[str | None]
    checkout_url: Mapped[str | None]
    closing_reason: Mapped[str] = mapped_column(default="")
    """Why its page is to be closed unpaid; empty while it may be used."""
    payment_id: Mapped[str | None]
    payment_method_id: Mapped[str | None]
    card_brand: Mapped[str] = mapped_column(default="")
    card_last4: Mapped[str] = mapped_column(default="")
    trigger: Mapped[str | None]
    trigger_reference: Mapped[str | None]
    threshold_micros: Mapped[int | None]
    settings_version: Mapped[int | None] = mapped_column(Integer)
    """Of the settings under which an automatic one was reserved."""
    failure_code: Mapped[str] = mapped_column(default="")
    failure_message: Mapped[str] = mapped_column(default="")
    receipt_url: Mapped[str | None]
    seller: Mapped[list[str] | None] = mapped_column(JSONB)
    """Who sold it, as its receipt says for good; None for what was paid before this was kept."""
    problem: Mapped[str] = mapped_column(default="")
    """What an operator should look at; empty when all is well."""
    looks: Mapped[int] = mapped_column(Integer, default=0)
    """How often the janitor asked the processor about it since it was last sent."""
    next_look_at: Mapped[datetime | None]
    asked_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    """When the processor was last asked for the money."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    paid_at: Mapped[datetime | None]
    credited_at: Mapped[datetime | None]


class AutoTopupSettings(Base):
    """One user's settings. The row is locked while an attempt is reserved against the limits."""

    __tablename__ = "auto_topup_settings"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    is_enabled: Mapped[bool]
    threshold_micros: Mapped[int]
    amount_micros: Mapped[int]
    payment_method_id: Mapped[str | None]
    backup_payment_method_id: Mapped[str | None]
    daily_limit_micros: Mapped[int | None]
    monthly_limit_micros: Mapped[int | None]
    settings_version: Mapped[int] = mapped_column(Integer)
    consent_id: Mapped[UUID | None]
    paused_code: Mapped[str] = mapped_column(default="")
    paused_reason: Mapped[str] = mapped_column(default="")
    paused_at: Mapped[datetime | None]
    confirm_url: Mapped[str | None]
    declines: Mapped[int] = mapped_column(Integer, default=0)
    """Declines in a row since the last success, new card or resumption."""
    declined_payment_method_id: Mapped[str | None]
    """The card of the last decline; the next attempt takes the backup card instead."""
    cool_down_until: Mapped[datetime | None]
    updated_at: Mapped[datetime]


class Consent(Base):
    """What a person agreed to, when, from where, and the terms at that moment."""

    __tablename__ = "consents"

    consent_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    version: Mapped[str]
    text: Mapped[str]
    client_address: Mapped[str]
    terms: Mapped[dict[str, Any]]
    agreed_at: Mapped[datetime]


class CardSetup(Base):
    """A hosted page on which somebody saves a card; ``done_at`` once it was, or expired."""

    __tablename__ = "card_setups"

    session_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    created_at: Mapped[datetime]
    asked_at: Mapped[datetime | None]
    done_at: Mapped[datetime | None]


class Command(Base):
    """A command that was carried out under an idempotency key, and its outcome."""

    __tablename__ = "commands"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    method: Mapped[str] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    outcome: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class SpentKey(Base):
    """An idempotency key at the processor that it keeps a 500 under. ``attempt`` is how many keys
    were begun, the first of them ``key`` itself, and ``begun_at`` when the last one was."""

    __tablename__ = "spent_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer)
    begun_at: Mapped[datetime]


class TriggerRecord(Base):
    """Something that asks for an automatic top-up. It is due until ``due_at`` is None.

    A purchase's row lives until the purchase ends (``ended_at``), so that what waits for money
    is known when one charge is to close the whole gap.
    """

    __tablename__ = "triggers"

    trigger_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    trigger: Mapped[str]
    reference: Mapped[str]
    needed_micros: Mapped[int]
    shortfall_micros: Mapped[int]
    """What was lacking when it was raised: of everything that waits, for a purchase."""
    available_micros: Mapped[int | None]
    raised_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(Integer, default=0)
    topup_id: Mapped[UUID | None]
    refusal_code: Mapped[str] = mapped_column(default="")
    ended_at: Mapped[datetime | None]


class ShortageRecord(Base):
    """What billing told last of what a user's months lack: see
    :mod:`services.topup.automatic.shortages`.

    ``told_at`` and ``lessened_at`` are when billing had counted it, and ``heard_at`` when we heard.
    ``entry_count`` is how many entries the wallet had when it refused what was told last, and
    ``credited_entry`` the number of the last that brought it money.
    """

    __tablename__ = "shortages"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    told_at: Mapped[datetime | None]
    lessened_at: Mapped[datetime | None]
    lessened_micros: Mapped[int]
    entry_count: Mapped[int | None]
    credited_entry: Mapped[int | None]
    heard_at: Mapped[datetime]


class RefusalRecord(Base):
    """An automatic top-up that was due and not made; one row per trigger and reason."""

    __tablename__ = "refusals"

    refusal_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    code: Mapped[str]
    reason: Mapped[str]
    trigger: Mapped[str]
    reference: Mapped[str]
    refused_at: Mapped[datetime]


class Notice(Base):
    """One of the processor's webhooks. ``body`` is kept for the record, never believed."""

    __tablename__ = "notices"

    event_id: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    object_id: Mapped[str]
    subject: Mapped[str] = mapped_column(default="")
    """What is looked at because of it, such as ``refunds:pi_1``; empty: it does not concern us."""
    user_id: Mapped[UUID | None]
    """Whose turn it takes; None when it names nobody of ours."""
    body: Mapped[dict[str, Any]]
    received_at: Mapped[datetime]
    tries: Mapped[int] = mapped_column(Integer, default=0)
    next_try_at: Mapped[datetime | None]
    processed_at: Mapped[datetime | None]
    given_up_at: Mapped[datetime | None]
    """Since when only an operator may try it again."""
    last_error: Mapped[str] = mapped_column(default="")


class Reversal(Base):
    """A refund or a dispute: money that went back to a card, and came back again or not."""

    __tablename__ = "reversals"

    reversal_id: Mapped[str] = mapped_column(primary_key=True)
    """The processor's id; with a number after it where the same one takes the money again."""
    source_id: Mapped[str]
    """The processor's id of the refund or the dispute."""
    topup_id: Mapped[UUID]
    user_id: Mapped[UUID]
    amount_micros: Mapped[int]
    is_dispute: Mapped[bool]
    status: Mapped[str]
    """The processor's own word, as of the last time it was asked."""
    asked_at: Mapped[datetime]
    taken_at: Mapped[datetime]
    restored_at: Mapped[datetime | None]


class Dispute(Base):
    """What the processor told of a dispute or an inquiry when it was asked last.

    Its money is a :class:`Reversal`. An inquiry has none, nor has a payment that was never
    credited.
    """

    __tablename__ = "disputes"

    dispute_id: Mapped[str] = mapped_column(primary_key=True)
    topup_id: Mapped[UUID]
    user_id: Mapped[UUID]
    amount_micros: Mapped[int]
    fee_micros: Mapped[int | None]
    """What the processor took for it and did not give back; None where it moved no money."""
    status: Mapped[str]
    reason: Mapped[str]
    network_reason_code: Mapped[str]
    due_at: Mapped[datetime | None]
    """The last instant for evidence; None where none is taken, or no last one is named."""
    has_evidence: Mapped[bool]
    """Also evidence that was only drafted; handed in was what ``submission_count`` counts."""
    submission_count: Mapped[int] = mapped_column(Integer)
    was_submitted_late: Mapped[bool]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    """When it was first seen with the status that closed it: the processor keeps no such time."""
    asked_at: Mapped[datetime]


class CardRefundRow(Base):
    """Unused credit that goes back to the card that paid for it, as its owner asked."""

    __tablename__ = "card_refunds"

    refund_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    topup_id: Mapped[UUID]
    payment_id: Mapped[str]
    amount_micros: Mapped[int]
    status: Mapped[str]
    code: Mapped[str] = mapped_column(default="")
    """Of the error that its owner gets who asks again; empty unless it was declined or refused."""
    reason: Mapped[str] = mapped_column(default="")
    hold_id: Mapped[UUID | None]
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    """How many idempotency keys the processor was asked under: a second one only after it knew of
    no refund under the first."""
    sent_at: Mapped[datetime | None]
    """When the processor was last asked for it."""
    due_at: Mapped[datetime | None]
    idempotency_key: Mapped[str]
    request_hash: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Switch(Base):
    """The operator's switch: one row."""

    __tablename__ = "operator_switch"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    is_stopped: Mapped[bool]
    reason: Mapped[str]
    changed_by: Mapped[str]
    changed_at: Mapped[datetime]


class Comparison(Base):
    """A daily comparison of the books that was made, of [since, until)."""

    __tablename__ = "comparisons"

    compared_at: Mapped[datetime] = mapped_column(primary_key=True)
    since: Mapped[datetime]
    until: Mapped[datetime]


class CreditAudit(Base):
    """How far the credits of the ledger have been looked at: one row."""

    __tablename__ = "credit_audit"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    position: Mapped[int]
    looked_at: Mapped[datetime]


class Difference(Base):
    """A difference between the books that reconciliation found, until it is gone."""

    __tablename__ = "differences"

    key: Mapped[str] = mapped_column(primary_key=True)
    code: Mapped[str]
    topup_id: Mapped[UUID | None]
    user_id: Mapped[UUID | None]
    payment_id: Mapped[str]
    amount_micros: Mapped[int]
    message: Mapped[str]
    occurred_at: Mapped[datetime]
    """When it came to be, at the processor or with us."""
    found_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    gone_at: Mapped[datetime | None]
    accepted_by: Mapped[str] = mapped_column(default="")
    """Who said that a credit that nothing explains is right, and why."""
