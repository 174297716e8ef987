"""A second step of logging in: a code of an app (TOTP, RFC 6238), or a recovery code.

It is asked again before money leaves. The secret is shown once, and stored encrypted with a key
that comes of ``SECRET_KEY``: who reads the database has no codes. With another key, recovery codes
are left.
"""

import base64
import hashlib
import logging
import secrets
from datetime import datetime
from uuid import UUID

import pyotp
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.locks import locked
from services.gateway.models import RecoveryCode, User
from services.gateway.notifications import storage
from services.gateway.people import tokens
from services.gateway.people.passwords import ACCOUNT_PAGE
from services.gateway.people.users import SecondStepRequired

log = logging.getLogger(__name__)

ISSUER = "Mycelium"
INTERVAL_S = 30
RECOVERY_CODES = 10
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without letters and digits that are taken for one another."""

WRONG = "The code is wrong, or was used: wait for the next one of your app, or use a recovery code."


def begin(session: Session, user_id: UUID, secret_key: str) -> str:
    """A new secret, which is in force once :func:`confirm` has seen a code of it.

    Raises :class:`SecondStepRequired` where one is in force: it is switched off first.
    """
    user = locked(session, User, user_id)
    if user.second_step_since is not None:
        raise SecondStepRequired("A second step is on already. Switch it off first.")
    secret = pyotp.random_base32()
    user.second_step_secret = _cipher(secret_key).encrypt(secret.encode()).decode()
    return secret


def address(secret: str, email: str) -> str:
    """What an app reads from a picture (``otpauth://``)."""
    return pyotp.TOTP(secret).provisioning_uri(name=email, issuer_name=ISSUER)


def confirm(
    session: Session, now: datetime, user_id: UUID, secret_key: str, code: str
) -> list[str]:
    """Switch it on with a first code; the recovery codes, which are shown once.

    Raises :class:`SecondStepRequired`.
    """
    user = locked(session, User, user_id)
    interval = _interval_of(user, now, secret_key, code)
    if user.second_step_since is not None or interval is None:
        raise SecondStepRequired(WRONG)
    user.second_step_since, user.second_step_used = now, interval
    codes = [_new_code() for _ in range(RECOVERY_CODES)]
    session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    session.add_all(
        RecoveryCode(user_id=user_id, code_sha256=_hash(_plain(each))) for each in codes
    )
    _tell(session, now, user_id, "on")
    return codes


def check(
    session: Session, now: datetime, user_id: UUID, secret_key: str, code: str, purpose: str
) -> None:
    """Take a code for a purpose; without a second step, nothing. Each code is taken once, and again
    for the same purpose, which is one command's: its retry brings the same code.

    Raises :class:`SecondStepRequired`.
    """
    user = locked(session, User, user_id)
    if user.second_step_since is None:
        return
    if not code.strip():
        raise SecondStepRequired("Enter the code of your authenticator app, or a recovery code.")
    interval, used_for = _interval_of(user, now, secret_key, code), _hash(purpose)
    last = user.second_step_used or 0
    if interval is not None and (
        interval > last or (interval == last and user.second_step_used_for == used_for)
    ):
        user.second_step_used, user.second_step_used_for = interval, used_for
        return
    recovered = session.scalar(
        update(RecoveryCode)
        .where(
            RecoveryCode.user_id == user_id,
            RecoveryCode.code_sha256 == _hash(_plain(code)),
            RecoveryCode.used_at.is_(None),
        )
        .values(used_at=now)
        .returning(RecoveryCode.user_id)
    )
    if recovered is None:
        log.info("a code of the second step was refused", extra={"user_id": str(user_id)})
        raise SecondStepRequired(WRONG)


def switch_off(session: Session, now: datetime, user_id: UUID) -> None:
    """For who has just been checked."""
    user = locked(session, User, user_id)
    user.second_step_secret = user.second_step_since = user.second_step_used_for = None
    tokens.revoke_for_roles(session, now, user_id)
    session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    _tell(session, now, user_id, "off")


def codes_left(session: Session, user_id: UUID) -> int:
    """How many recovery codes are not used."""
    unused = select(RecoveryCode).where(
        RecoveryCode.user_id == user_id, RecoveryCode.used_at.is_(None)
    )
    return len(session.scalars(unused).all())


def _interval_of(user: User, now: datetime, secret_key: str, code: str) -> int | None:
    """The interval of which this is the code: this one, the one before or the one after."""
    if user.second_step_secret is None:
        return None
    try:
        secret = _cipher(secret_key).decrypt(user.second_step_secret.encode()).decode()
    except InvalidToken:
        return None
    present = int(now.timestamp()) // INTERVAL_S
    totp, typed = pyotp.TOTP(secret), _plain(code)
    matching = (
        interval
        for interval in (present, present - 1, present + 1)
        if secrets.compare_digest(totp.generate_otp(interval).encode(), typed.encode())
    )
    return next(matching, None)


def _tell(session: Session, now: datetime, user_id: UUID, state: str) -> None:
    message = storage.Message(
        "second_step_changed",
        "info",
        f"The second step is {state}",
        "If it was not you, set a new password at once, and write to support.",
        ACCOUNT_PAGE,
    )
    storage.tell(session, now, user_id, new_id(), message)


def _new_code() -> str:
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(5))


def _plain(code: str) -> str:
    return code.strip().lower().replace(" ", "").replace("-", "")[:40]


def _hash(text: str) -> bytes:
    """Of 123 random bits a fast hash is enough: nobody who reads it finds them."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _cipher(secret_key: str) -> Fernet:
    derived = HKDF(SHA256(), 32, salt=None, info=b"second step").derive(secret_key.encode())
    return Fernet(base64.urlsafe_b64encode(derived))
