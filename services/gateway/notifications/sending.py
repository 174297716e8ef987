"""Sending what waits in the table of mails, by SMTP.

"Once" can mean this much: a mail that the server took is marked before the next one, and is never
sent again. If the process dies between the two, or the server's answer is lost, nobody can know,
and the mail goes out again, with the same Message-ID, rather than not at all (RFC 1047).

A mail that a server refuses ends, and one that it defers is tried again later; the others go on.
A server that is away costs none of them an attempt.
"""

import logging
import smtplib
import ssl
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.leases import Leases
from services.gateway.models import Mail
from services.gateway.notifications import mails
from services.gateway.notifications.composing import Letter, compose
from services.gateway.settings import NotifierSettings, SmtpServer

log = logging.getLogger(__name__)

RETRIES_S = (60, 300, 900, 3_600, 10_800, 21_600)
"""After each failed attempt; the last one again and again, as long as the mail is good."""

AWAY_FOR = timedelta(seconds=30)
"""How long a server that did not answer is left alone."""

ERROR_LENGTH_MAX = 300
ROUNDS_MAX = 50
WAITING = Leases(Mail.due_at, Mail.user_id, lease=timedelta(minutes=10), limit=10)


class Away(Exception):
    """The server could not be reached, or let nobody in: no fault of any mail."""


class Deferred(Exception):
    """The server did not take this mail now. ``is_silent``: it did not answer in time either."""

    def __init__(self, reason: str, *, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.is_silent = is_silent


class Refused(Exception):
    """The server will never take this mail."""


def send_due(database: Connected, settings: NotifierSettings, clock: Clock) -> datetime | None:
    """Send what is due, one after the other; when something is due next."""
    if settings.smtp_url is None:
        with database.begin() as session:
            mails.end_all(session, clock(), "unwanted", "SMTP_URL is not set.")
        return None
    with closing(_Connection(settings.smtp_url, settings.smtp_timeout_s)) as server:
        for mail_ids in WAITING.rounds(database, clock, ROUNDS_MAX):
            if not _send_all(database, settings, clock, server, mail_ids):
                break
    with database.read() as session:
        return WAITING.next_at(session)


def _send_all(
    database: Connected,
    settings: NotifierSettings,
    clock: Clock,
    server: "_Connection",
    mail_ids: list[UUID],
) -> bool:
    """Send these; False where the server does not answer, and the rest waits."""
    left = iter(mail_ids)
    for mail_id in left:
        try:
            _send(database, settings, clock, server, mail_id)
        except Away as error:
            log.error("the mail server is away", extra={"reason": str(error)})
            _put_back(database, clock(), [mail_id, *left])
            return False
        except Deferred:
            _put_back(database, clock(), left)
            return False
    return True


def _put_back(database: Connected, now: datetime, mail_ids: Iterable[UUID]) -> None:
    with database.begin() as session:
        mails.put_back(session, mail_ids, now + AWAY_FOR)


def _send(
    database: Connected,
    settings: NotifierSettings,
    clock: Clock,
    server: "_Connection",
    mail_id: UUID,
) -> None:
    """Send one and write down what became of it. Raises Away, and a Deferred that is silent."""
    with database.read() as session:
        mail = session.get_one(Mail, mail_id)
        session.expunge(mail)
    try:
        with database.read() as session:
            letter = compose(session, settings, mail)
        if letter is None:
            return _end(database, clock(), mail_id, "unwanted")
        if mail.good_until <= clock():
            log.error("a mail was given up", extra={"mail_id": str(mail_id), "error": mail.error})
            return _end(database, clock(), mail_id, "given_up", mail.error)
        server.send(letter)
    except Away:
        raise
    except Refused as error:
        log.warning("a mail was refused", extra={"mail_id": str(mail_id), "error": str(error)})
        return _end(database, clock(), mail_id, "refused", str(error))
    except Exception as error:
        # Also what no server said: a mail that we cannot write must not stop the others.
        if not isinstance(error, Deferred):
            log.exception("a mail could not be sent", extra={"mail_id": str(mail_id)})
        delay_s = RETRIES_S[min(mail.attempts, len(RETRIES_S) - 1)]
        with database.begin() as session:
            next_at = clock() + timedelta(seconds=delay_s)
            mails.try_again(session, mail_id, next_at, _cut(str(error)))
        if isinstance(error, Deferred) and error.is_silent:
            raise
        return None
    crash_point("notifier.mail_accepted")
    return _end(database, clock(), mail_id, "sent")


def _end(database: Connected, now: datetime, mail_id: UUID, outcome: str, error: str = "") -> None:
    with database.begin() as session:
        mails.end(session, now, mail_id, outcome, error)


@dataclass
class _Connection:
    """One to the server, made when it is first needed and again after it was lost."""

    where: SmtpServer
    timeout_s: float
    _smtp: smtplib.SMTP | None = field(default=None, init=False)

    def send(self, letter: Letter) -> None:
        """Raises :class:`Away`, :class:`Deferred` and :class:`Refused`."""
        smtp = self._open()
        options = ["SMTPUTF8", "BODY=8BITMIME"] if letter.needs_utf8 else []
        if letter.needs_utf8 and not smtp.has_extn("smtputf8"):
            raise Refused("The mail server takes no addresses with letters beyond ASCII.")
        try:
            smtp.sendmail(letter.sender, [letter.recipient], letter.content, options)
        except smtplib.SMTPRecipientsRefused as error:
            ((code, text),) = error.recipients.values()
            raise self._judged(code, text) from None
        except smtplib.SMTPSenderRefused as error:
            # It is the same sender for all: a mistake of ours costs no mail.
            raise Deferred(_said(error.smtp_code, error.smtp_error)) from None
        except smtplib.SMTPResponseException as error:
            raise self._judged(error.smtp_code, error.smtp_error) from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            self.close()
            raise Deferred(_cut(repr(error)), is_silent=isinstance(error, TimeoutError)) from None

    def close(self) -> None:
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            with suppress(smtplib.SMTPException, OSError):
                smtp.close()

    def _open(self) -> smtplib.SMTP:
        if self._smtp is not None and self._smtp.sock is not None:
            return self._smtp
        try:
            self._smtp = _connected(self.where, self.timeout_s)
        except (smtplib.SMTPException, OSError) as error:
            raise Away(_cut(repr(error))) from None
        return self._smtp

    def _judged(self, code: int, text: bytes | str) -> Exception:
        is_lost = self._smtp is None or self._smtp.sock is None
        if code == 421 or is_lost:
            # It closes the connection, whatever it was asked. Perhaps this very mail is why. And
            # smtplib makes a 500 of its own of an answer that it cannot read.
            self.close()
            return Deferred(_said(code, text), is_silent=True)
        return Refused(_said(code, text)) if 500 <= code < 600 else Deferred(_said(code, text))


def _connected(where: SmtpServer, timeout_s: float) -> smtplib.SMTP:
    if where.security == "tls":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(
            where.host, where.port, timeout=timeout_s, context=ssl.create_default_context()
        )
    else:
        smtp = smtplib.SMTP(where.host, where.port, timeout=timeout_s)
    try:
        if where.security == "starttls":
            smtp.starttls(context=ssl.create_default_context())
        if where.user:
            smtp.login(where.user, where.password)
        smtp.ehlo_or_helo_if_needed()
    except BaseException:
        smtp.close()
        raise
    return smtp


def _said(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return _cut(f"{code} {words}")


def _cut(text: str) -> str:
    return " ".join(text.replace("\x00", "").split())[:ERROR_LENGTH_MAX]
