"""What a mail looks like: headers, a plain text and the same as HTML."""

from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import cache
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from email_validator import validate_email
from jinja2 import Environment, FileSystemLoader, Template, select_autoescape
from sqlalchemy.orm import Session

from services.gateway.models import Mail, MailLink, User
from services.gateway.notifications import links, topics
from services.gateway.notifications.mails import ACCOUNT_DELETED
from services.gateway.settings import NotifierSettings

_WRITTEN = SMTP.clone(max_line_length=76)
"""A line of quoted-printable has no more (RFC 2045); Python's own bound is 78."""

_HEADER_LENGTH_MAX = 998
"""Of a line, as RFC 5322 bounds it. Python's own bound of 78 breaks a long address in a header into
encoded words, which no program that unsubscribes reads."""

_BUTTONS = {
    links.Purpose.PASSWORD_RESET: "Choose a new password",
    links.Purpose.CONFIRM_EMAIL: "Confirm this address",
    links.Purpose.CHANGE_EMAIL: "Use this address",
    links.Purpose.INVITATION: "Choose a password",
}


@dataclass(frozen=True)
class Letter:
    """What goes to the server. ``needs_utf8``: the address has letters that ASCII has not."""

    sender: str
    recipient: str
    content: bytes
    needs_utf8: bool


def compose(session: Session, settings: NotifierSettings, mail: Mail) -> Letter | None:
    """The letter of a mail; None where it is not wanted any more, or there is nobody to get it."""
    user = session.get(User, mail.user_id)
    if user is None or (user.deleted_at is not None and mail.kind != ACCOUNT_DELETED):
        return None
    if not topics.wants_mail(session, mail.user_id, mail.kind):
        return None
    link = session.get(MailLink, mail.link_id) if mail.link_id else None
    if mail.link_id and (link is None or link.used_at is not None):
        return None
    message = EmailMessage(policy=_WRITTEN)
    recipient = _deliverable(mail.address or user.email)
    name, sender = parseaddr(settings.mail_from)
    message["From"] = Address(display_name=name, addr_spec=sender)
    # In its parts: whole, it is refused for letters beyond ASCII.
    local, _, domain = recipient.rpartition("@")
    message["To"] = Address(username=local, domain=domain)
    message["Subject"] = " ".join(mail.title.split())
    message["Date"] = format_datetime(mail.created_at)
    # The same each time it is sent: whoever gets it twice can tell.
    message["Message-ID"] = f"<{mail.mail_id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    unsubscribe = _unsubscribe(settings, mail)
    if unsubscribe:
        message["List-Unsubscribe"] = f"<{unsubscribe}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    said = {
        "title": message["Subject"],
        "body": mail.body,
        "url": _url(settings, mail, link),
        "button": _BUTTONS[links.Purpose(link.purpose)] if link else "Open",
        "unsubscribe": unsubscribe,
        "topic": topics.BY_KIND[mail.kind].title,
        "site": settings.public_url,
    }
    text, html = _templates()
    message.set_content(text.render(said), cte="quoted-printable")
    message.add_alternative(html.render(said), subtype="html", cte="quoted-printable")
    needs_utf8 = not recipient.isascii()
    wire = SMTP.clone(max_line_length=_HEADER_LENGTH_MAX, utf8=needs_utf8)
    return Letter(sender, recipient, message.as_bytes(policy=wire), needs_utf8)


def _deliverable(address: str) -> str:
    """The address as servers take it: its domain in ASCII, and the rest too where it can be."""
    checked = validate_email(address, check_deliverability=False)
    return checked.ascii_email or f"{checked.local_part}@{checked.ascii_domain}"


def _url(settings: NotifierSettings, mail: Mail, link: MailLink | None) -> str:
    path = links.address_of(link, settings.secret_key) if link else mail.link
    return path if urlsplit(path).scheme or not path else urljoin(settings.public_url, path)


def _unsubscribe(settings: NotifierSettings, mail: Mail) -> str:
    topic = topics.BY_KIND[mail.kind]
    if topic.must_mail:
        return ""
    path = links.unsubscribe_address(settings.secret_key, mail.user_id, topic.name)
    return urljoin(settings.public_url, path)


@cache
def _templates() -> tuple[Template, Template]:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
    )
    return environment.get_template("letter.txt"), environment.get_template("letter.html")
