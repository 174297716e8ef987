"""Credits from one user to another: how much in a day, after which checks, and once for each key.

A transfer is reserved against the day's limit before the wallet hears of it. It stays reserved
until the wallet has refused it, or was asked again after an answer that was lost: by who sent it,
or after some minutes by the notifier.

Nobody learns who has an account, but by sending money there: an address is looked up for who could
pay only, and as often as ``RATE_LIMIT_TRANSFER`` lets.
"""

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.clock import midnight, utc_now
from chassis.database import Connected
from chassis.locks import for_update, locked
from chassis.money import MICROS_PER_CENT, format_usd
from contracts.errors import (
    NO_ANSWER,
    AccountFrozen,
    BadRequest,
    IdempotencyConflict,
    InsufficientFunds,
    KeyClosed,
    LimitExceeded,
    ServiceError,
)
from contracts.wallet import AccountStatus, CheckAffordability, CloseKey, Transaction, Transfer
from services.gateway.backend import call, database, settings
from services.gateway.models import TransferRow, User
from services.gateway.people import users
from services.gateway.people.identity import ensure_wallet
from services.gateway.people.signing_in import check_may_pay_out
from services.gateway.people.users import CurrentUser
from services.gateway.security import throttle

log = logging.getLogger(__name__)

DESCRIPTION = "Transfer between users"
"""It stands in both statements, and names nobody: what is written to the ledger stays there."""

SETTLED_AFTER = timedelta(minutes=5)
"""Who tries again after an answer that was lost does so before."""
SETTLED_AT_ONCE = 100


class _NeedsCheck(Exception):
    """With this transfer the day's come to more than is sent without a check."""


@dataclass(frozen=True)
class Allowance:
    """What a user may still send today (UTC), all of it and without a check; micro-dollars."""

    left_micros: int
    unchecked_micros: int


def allowance(user_id: UUID) -> Allowance:
    with database().read() as session:
        sent_micros = _sent_micros(session, user_id, utc_now())
    return Allowance(
        max(settings().transfer_daily_limit_micros - sent_micros, 0),
        max(settings().transfer_unchecked_micros - sent_micros, 0),
    )


def send(user: CurrentUser, email: str, amount_micros: int, key: str, code: str) -> Transaction:
    """Send credits to whose confirmed address this is; the sender's side of it.

    ``key`` belongs to this user (:func:`services.gateway.idempotency.scoped_key`), ``code`` is of
    the second step. Raises ``BadRequest``, ``LimitExceeded``, ``IdempotencyConflict``, what a debit
    raises, what :func:`check_may_pay_out` raises, and a 429; ``KeyClosed`` where an earlier try was
    ended meanwhile without anything being sent.
    """
    asked = hashlib.sha256(f"{amount_micros} {users.email_key(email)}".encode()).digest()
    with database().read() as session:
        to_user_id = _reserved(session, key, asked)
    if to_user_id is None:
        to_user_id = _reserve(user, email, amount_micros, key, asked, code)
    command = _command(user, to_user_id, amount_micros, key)
    try:
        transaction = call(command)
    except NO_ANSWER:
        raise
    except ServiceError as error:
        with database().begin() as session:
            session.execute(
                delete(TransferRow).where(
                    TransferRow.key == key, TransferRow.transaction_id.is_(None)
                )
            )
        if isinstance(error, KeyClosed):
            raise KeyClosed(
                "Nothing was sent: this transfer took too long and was ended. Send it again with a"
                " new Idempotency-Key."
            ) from error
        raise
    with database().begin() as session:
        # Another try of the same may have been refused meanwhile, and taken the row away.
        _store(session, command, asked, transaction.transaction_id)
    return transaction


def settle_unanswered(database: Connected, rpc: RpcClient, now: datetime) -> None:
    """End transfers of which nobody heard whether they were made: the wallet tells, and makes none
    of them later. Neither a day's limit nor who deletes an account waits for them any longer. One
    that the wallet refuses to end keeps none behind it."""
    unanswered = (
        select(TransferRow.key)
        .where(TransferRow.transaction_id.is_(None), TransferRow.created_at <= now - SETTLED_AFTER)
        .order_by(TransferRow.created_at)
        .limit(SETTLED_AT_ONCE)
    )
    with database.read() as session:
        keys = session.scalars(unanswered).all()
    for key in keys:
        try:
            found = rpc.call(CloseKey(idempotency_key=key))
        except NO_ANSWER:
            return
        except ServiceError as error:
            log.warning(
                "a transfer could not be ended",
                extra={"key": key, "error": f"{error.code}: {error}"},
            )
            continue
        its_own = (TransferRow.key == key, TransferRow.transaction_id.is_(None))
        with database.begin() as session:
            if found.transaction is not None:
                made = update(TransferRow).where(*its_own)
                session.execute(made.values(transaction_id=found.transaction.transaction_id))
            elif found.closed:
                session.execute(delete(TransferRow).where(*its_own))


def _command(user: CurrentUser, to_user_id: UUID, amount_micros: int, key: str) -> Transfer:
    return Transfer(
        idempotency_key=key,
        from_user_id=user.user_id,
        to_user_id=to_user_id,
        amount_micros=amount_micros,
        description=DESCRIPTION,
    )


def _reserve(
    user: CurrentUser, email: str, amount_micros: int, key: str, asked: bytes, code: str
) -> UUID:
    """Hold the amount against the day's limit; who gets it."""
    throttle("transfer", str(user.user_id))
    _check_request(user, email, amount_micros)
    try:
        return _hold(user, email, amount_micros, key, asked, is_checked=False)
    except _NeedsCheck:
        if user.has_second_step:
            throttle("password", str(user.user_id))
        check_may_pay_out(user, code, key)
        return _hold(user, email, amount_micros, key, asked, is_checked=True)


def _check_request(user: CurrentUser, email: str, amount_micros: int) -> None:
    if amount_micros % MICROS_PER_CENT:
        raise BadRequest("amount: a transfer is a whole number of cents.", "amount")
    if users.email_key(email) == users.email_key(user.email):
        raise BadRequest("to_email: that is your own address.", "to_email")
    found = call(CheckAffordability(user_id=user.user_id, amount_micros=amount_micros))
    if found.status is AccountStatus.FROZEN:
        raise AccountFrozen("Your wallet is frozen: nothing can be sent from it.")
    if not found.can_afford:
        raise InsufficientFunds(
            f"Your wallet has {format_usd(found.available_micros)} to spend. Nothing was sent.",
            str(found.available_micros),
            str(found.shortfall_micros),
        )


def _hold(
    user: CurrentUser, email: str, amount_micros: int, key: str, asked: bytes, *, is_checked: bool
) -> UUID:
    limits = settings()
    with database().begin() as session:
        # One after the other: together they must not pass the limit. Two who send to each other
        # do not wait for one another.
        locked(session, User, user.user_id, key_share=True)
        if to_user_id := _reserved(session, key, asked):
            return to_user_id
        now = utc_now()
        sent_micros = _sent_micros(session, user.user_id, now)
        if sent_micros + amount_micros > limits.transfer_daily_limit_micros:
            left_micros = max(limits.transfer_daily_limit_micros - sent_micros, 0)
            raise LimitExceeded(
                f"You can send {format_usd(limits.transfer_daily_limit_micros)} a day, and"
                f" {format_usd(left_micros)} more today. Nothing was sent. The limit resets at"
                " midnight (UTC)."
            )
        if sent_micros + amount_micros > limits.transfer_unchecked_micros and not is_checked:
            raise _NeedsCheck
        receiver = _receiver(session, email)
        _store(session, _command(user, receiver.user_id, amount_micros, key), asked, None)
    ensure_wallet(receiver)
    return receiver.user_id


def _receiver(session: Session, email: str) -> CurrentUser:
    """Only who has shown that the address is theirs: money is meant for who reads mails there.

    The account is not deleted before the transfer can be seen (``people/closing.py``).
    """
    found = session.execute(
        for_update(
            select(*users.DESCRIBED).where(
                User.email_key == users.email_key(email), User.deleted_at.is_(None)
            ),
            read=True,
            key_share=True,
        )
    ).one_or_none()
    receiver = users.describe(found) if found else None
    if receiver is None or (settings().smtp_url is not None and not receiver.is_email_confirmed):
        raise BadRequest(
            "to_email: no account with this address takes transfers. Nothing was sent.", "to_email"
        )
    return receiver


def _reserved(session: Session, key: str, asked: bytes) -> UUID | None:
    """Who gets the transfer under this key, if there is one."""
    row = session.get(TransferRow, key)
    if row is None:
        return None
    if row.asked_sha256 != asked:
        raise IdempotencyConflict("This key was used for another transfer.")
    return row.to_user_id


def _sent_micros(session: Session, user_id: UUID, now: datetime) -> int:
    total = session.scalar(
        select(func.sum(TransferRow.amount_micros)).where(
            TransferRow.user_id == user_id, TransferRow.created_at >= midnight(now)
        )
    )
    return int(total or 0)


def _store(session: Session, command: Transfer, asked: bytes, transaction_id: UUID | None) -> None:
    row = insert(TransferRow).values(
        key=command.idempotency_key,
        user_id=command.from_user_id,
        to_user_id=command.to_user_id,
        asked_sha256=asked,
        amount_micros=command.amount_micros,
        created_at=utc_now(),
        transaction_id=transaction_id,
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=[TransferRow.key],
            set_={"transaction_id": row.excluded.transaction_id},
        )
    )
