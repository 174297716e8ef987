"""Accounts: registering, logging in, and the wallet that comes with an account.

An address and a password each have one normal form, in which they are stored, compared and
limited, so that what registered logs in from any keyboard: a letter may come composed or
decomposed, a domain in its own script or as ``xn--``.

Hashing a password takes tens of milliseconds on purpose, so that it happens outside any
database transaction: a connection is not held while the processor works.
"""

import logging
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from sqlalchemy import Row, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from zxcvbn.matching import RANKED_DICTIONARIES

from chassis.database import Connected
from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.gateway import UserRegistered
from services.gateway.models import User
from services.gateway.people.password_hashing import hash_of, is_hash_of, is_outdated

log = logging.getLogger(__name__)

PASSWORD_LENGTH_MIN = 8
PASSWORD_LENGTH_MAX = 256
TYPED_LENGTH_MAX = 4 * PASSWORD_LENGTH_MAX
"""Of an address or a password as it was typed: a letter takes four characters at most.
Normalising takes time that grows with the square of the length."""

OUR_WORDS = frozenset({"mycelium", "myceliummarketplace", "myceliumcloud", "marketplace"})
"""What a password may not be made of alone, whatever digits and signs stand beside it. What else
people call this site (compute, wallet, credits, password…) is too short or among the most used."""

_MOST_USED = RANKED_DICTIONARIES["passwords"]


@dataclass(frozen=True)
class CurrentUser:
    """A user as far as a request needs to know who asks."""

    user_id: UUID
    email: str
    created_at: datetime
    has_wallet: bool
    is_email_confirmed: bool
    has_second_step: bool
    time_zone: str
    is_staff: bool
    """Whether the menu leads to /admin; what is there asks the database again."""
    sells: bool = False
    """Whether it leads to what they sell, or have sold."""


DESCRIBED = (
    User.user_id,
    User.email,
    User.created_at,
    User.wallet_opened_at,
    User.email_confirmed_at,
    User.second_step_since,
    User.time_zone,
    User.is_staff,
    User.sells,
)
"""The columns that :func:`describe` needs."""


def describe(user: User | Row[*tuple[Any, ...]]) -> CurrentUser:
    """From a row of the table, or of a query with the columns ``DESCRIBED``."""
    return CurrentUser(
        user_id=user.user_id,
        email=user.email,
        created_at=user.created_at,
        has_wallet=user.wallet_opened_at is not None,
        is_email_confirmed=user.email_confirmed_at is not None,
        has_second_step=user.second_step_since is not None,
        time_zone=user.time_zone,
        is_staff=user.is_staff,
        sells=user.sells,
    )


def emails(session: Session, user_ids: Iterable[UUID]) -> dict[UUID, str]:
    """The addresses of these users; of one who has no account any more, just that."""
    rows = session.execute(
        select(User.user_id, User.email, User.deleted_at).where(User.user_id.in_(set(user_ids)))
    )
    return {row.user_id: "a deleted account" if row.deleted_at else row.email for row in rows}


class AccountError(Exception):
    """Why an account could not be made or entered. ``str(error)`` is the sentence for a person."""

    code: ClassVar[str] = "account_error"
    field: ClassVar[str | None] = None


class InvalidEmail(AccountError):
    code = "invalid_email"
    field = "email"


class WeakPassword(AccountError):
    code = "weak_password"
    field = "password"


class EmailTaken(AccountError):
    code = "email_taken"
    field = "email"


class WrongCredentials(AccountError):
    """Says the same for an unknown address and a wrong password: neither can be probed."""

    code = "wrong_credentials"

    def __init__(self) -> None:
        super().__init__("The email address or the password is wrong.")


class WrongPassword(AccountError):
    """Of somebody who is logged in, and is asked for it again."""

    code = "wrong_password"
    field = "current_password"


class SecondStepRequired(AccountError):
    """The password was right, or is not asked: the code of the second step is missing or wrong."""

    code = "second_step_required"
    field = "code"


class LinkEnded(AccountError):
    """A link from a mail that was used, replaced, or is too old."""

    code = "link_ended"


class InvalidName(AccountError):
    """Of something that a user names."""

    code = "invalid_name"
    field = "name"


class EmailNotConfirmed(AccountError):
    """Of somebody whose money leaves: a mail about it must arrive."""

    code = "email_not_confirmed"


class ReasonMissing(AccountError):
    """Of somebody who acts by a role: why stands in the audit log."""

    code = "reason_missing"
    field = "reason"


class TooMany(AccountError):
    code = "too_many"


@dataclass(frozen=True)
class NewAccount:
    """What :func:`prepare` checked: ready to be stored."""

    email: str
    email_key: str
    password_hash: str


def normalise_email(email: str) -> str:
    """The address in its canonical form. Raises :class:`InvalidEmail`; asks no name server."""
    if len(email) > TYPED_LENGTH_MAX:
        raise InvalidEmail("This is not an email address: it is too long.")
    # First of all: the mapping of domains (UTS 46) takes some letters apart before it composes.
    composed = unicodedata.normalize("NFC", email.strip())
    try:
        return validate_email(composed, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise InvalidEmail(f"This is not an email address: {error}") from None


def email_key(email: str) -> str:
    """What makes an address unique: spellings that differ in case are the same person.

    What is no address has a key too, which no account has. The domain is left as it is: it is
    in lower case already, and ``straße.de`` is another one than ``strasse.de``.
    """
    try:
        local, at, domain = normalise_email(email).rpartition("@")
    except InvalidEmail:
        local, at, domain = email.strip()[:TYPED_LENGTH_MAX], "", ""
    # Unicode's caseless match (D145): folding composed letters may leave decomposed ones.
    folded = unicodedata.normalize("NFD", local).casefold()
    return unicodedata.normalize("NFC", folded) + at + domain


def normalise_password(password: str) -> str:
    """The password as it is hashed: NFKC, as NIST SP 800-63B advises, and nothing cut off."""
    return unicodedata.normalize("NFKC", password)


def prepare(email: str, password: str) -> NewAccount:
    """Check an address and a password, and hash the password (slow, on purpose).

    Raises :class:`InvalidEmail` and :class:`WeakPassword`, which say what is wrong.
    """
    normalised = normalise_email(email)
    return NewAccount(normalised, email_key(normalised), new_password_hash(normalised, password))


def new_password_hash(email: str, password: str) -> str:
    """Check a password for the account of an address, and hash it (slow, on purpose).

    Raises :class:`WeakPassword`.
    """
    if len(password) > TYPED_LENGTH_MAX:
        raise WeakPassword(_TOO_LONG)
    password = normalise_password(password)
    _check_password(email, password)
    return hash_of(password)


def register(session: Session, now: datetime, account: NewAccount) -> User:
    """Store a new account, and tell of it. Raises :class:`EmailTaken`."""
    user_id = session.scalar(
        insert(User)
        .values(
            user_id=new_id(),
            email=account.email,
            email_key=account.email_key,
            password_hash=account.password_hash,
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=[User.email_key])
        .returning(User.user_id)
    )
    if user_id is None:
        raise EmailTaken("There is an account with this email address already: log in instead.")
    publish(session, UserRegistered(event_id=new_id(), occurred_at=now, user_id=user_id))
    return session.get_one(User, user_id)


def log_in(database: Connected, email: str, password: str) -> User:
    """The user whom these credentials belong to. Raises :class:`WrongCredentials`.

    An unknown address costs as many hashes, so that the time taken tells nothing.
    """
    if len(password) > TYPED_LENGTH_MAX:
        raise WrongCredentials
    with database.read() as session:
        user = session.scalar(select(User).where(User.email_key == email_key(email)))
    normalised = normalise_password(password)
    matching = _matching(user.password_hash if user else _hash_of_nothing(), password)
    if user is None or matching is None:
        log.info("a login was refused", extra={"user_id": str(user.user_id) if user else None})
        raise WrongCredentials
    if matching != normalised or is_outdated(user.password_hash):
        renewed = hash_of(normalised)
        with database.begin() as session:
            session.execute(
                update(User)
                .where(User.user_id == user.user_id, User.password_hash == user.password_hash)
                .values(password_hash=renewed)
            )
    return user


def check_password(database: Connected, user_id: UUID, password: str) -> str:
    """The stored hash, if this is the password of who is logged in. Raises
    :class:`WrongPassword`."""
    with database.read() as session:
        stored = session.get_one(User, user_id).password_hash
    if len(password) > TYPED_LENGTH_MAX or _matching(stored, password) is None:
        log.info("a password was refused", extra={"user_id": str(user_id)})
        raise WrongPassword("The current password is wrong.")
    return stored


def _matching(stored: str, password: str) -> str | None:
    """The form of a password of which this is the hash. Until passwords had a normal form, one was
    hashed as it was typed."""
    forms = dict.fromkeys((normalise_password(password), password))
    return next((form for form in forms if is_hash_of(stored, form)), None)


def note_wallet_opened(session: Session, now: datetime, user_id: UUID) -> None:
    """Remember that the wallet service has this user's wallet."""
    session.execute(
        update(User)
        .where(User.user_id == user_id, User.wallet_opened_at.is_(None))
        .values(wallet_opened_at=now)
    )


_TOO_LONG = f"The password is too long: take at most {PASSWORD_LENGTH_MAX} characters."


def _check_password(email: str, password: str) -> None:
    if len(password) < PASSWORD_LENGTH_MIN:
        raise WeakPassword(
            f"The password has {len(password)} characters: take at least {PASSWORD_LENGTH_MIN}."
        )
    if len(password) > PASSWORD_LENGTH_MAX:
        raise WeakPassword(_TOO_LONG)
    if re.fullmatch(r"(.)\1*", password):
        raise WeakPassword("The password is one character over and over: take another one.")
    if password.casefold() in _MOST_USED:
        raise WeakPassword("Many people use this password, so it is tried first: take another one.")
    if re.sub(r"[\W\d_]", "", password.casefold()) in OUR_WORDS:
        raise WeakPassword("The password is a word of this site: take another one.")
    if email_key(password) == email_key(email):
        raise WeakPassword("The password is the email address: take another one.")


_nothing: list[str] = []


def _hash_of_nothing() -> str:
    """A hash that no password has, made with today's parameters when it is first needed."""
    if not _nothing:
        _nothing.append(hash_of(str(new_id())))
    return _nothing[0]
