"""A mailbox for local runs: it takes every mail by SMTP, delivers none, and shows them on a page.

Mails lie in a directory, a file each; the newest ``KEPT_MAX`` of them stay.
"""

import html
import os
import re
import sys
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

KEPT_MAX = 500
_MAIL = re.compile(r"/([0-9]{12})(\.html)?")
_STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .6rem .4rem 0}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere}iframe{width:100%;height:32rem}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; frame-ancestors 'self'"


class Mailbox:
    """The mails in a directory, numbered as they came."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail, as aiosmtpd hands it over."""
        self.keep(cast(bytes, envelope.content))
        return "250 Kept in the mailbox"

    def keep(self, content: bytes) -> None:
        names = self.names()
        number = int(names[0]) + 1 if names else 1
        (self._directory / f"{number:012d}.eml").write_bytes(content)
        for name in names[KEPT_MAX - 1 :]:
            (self._directory / f"{name}.eml").unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Newest first."""
        return sorted((path.stem for path in self._directory.glob("*.eml")), reverse=True)

    def read(self, name: str) -> EmailMessage | None:
        path = self._directory / f"{name}.eml"
        if not path.exists():
            return None
        return message_from_bytes(path.read_bytes(), policy=default)


def text_of(mail: EmailMessage, kind: str = "plain") -> str:
    """The text of a mail, ``plain`` or ``html``."""
    part = mail.get_body((kind,))
    return str(part.get_content()) if part is not None else ""


def listing(mailbox: Mailbox) -> str:
    rows = []
    for name in mailbox.names():
        mail = mailbox.read(name)
        if mail is None:
            continue
        date, to, subject = (html.escape(str(mail[header])) for header in ("Date", "To", "Subject"))
        link = f'<a href="/{name}">{subject}</a>'
        rows.append(f"<tr><td>{link}</td><td>{to}</td><td>{date}</td></tr>")
    if not rows:
        return _page("Mailbox", "<p>No mails yet.</p>")
    head = "<tr><th>Subject</th><th>To</th><th>Date</th></tr>"
    return _page("Mailbox", f"<table>{head}{''.join(rows)}</table>")


def single(name: str, mail: EmailMessage) -> str:
    """Its text, with links that can be followed, and its HTML in a frame that may do nothing."""
    subject = html.escape(str(mail["Subject"]))
    said = html.escape(text_of(mail))
    linked = re.sub(r"(https?://[^\s&]+)", r'<a href="\1">\1</a>', said)
    fields = "\n".join(html.escape(f"{header}: {value}") for header, value in mail.items())
    frame = f'<iframe sandbox title="As HTML" src="/{name}.html"></iframe>'
    return _page(
        subject,
        f'<p><a href="/">All mails</a></p><pre>{linked}</pre><h2>As HTML</h2>{frame}'
        f"<h2>Headers</h2><pre>{fields}</pre>",
    )


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>{body}</html>"
    )


class Pages(BaseHTTPRequestHandler):
    """/ lists the mails, /<number> shows one, /healthz answers."""

    mailbox: Mailbox

    def do_GET(self) -> None:
        status, body = self._answer()
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: whoever reads it is the one who runs it."""

    def _answer(self) -> tuple[int, str]:
        if self.path == "/healthz":
            return 200, "ok"
        if self.path == "/":
            return 200, listing(self.mailbox)
        found = _MAIL.fullmatch(self.path)
        mail = self.mailbox.read(found[1]) if found else None
        if found is None or mail is None:
            return 404, _page("Not found", '<p><a href="/">All mails</a></p>')
        return 200, text_of(mail, "html") if found[2] else single(found[1], mail)


def taking(mailbox: Mailbox, port: int) -> Controller:
    """What takes mails for it, in a thread of its own once it is started."""
    return Controller(mailbox, hostname="127.0.0.1", port=port, enable_SMTPUTF8=True)


def serve(directory: Path, smtp_port: int, page_port: int) -> None:
    """Until the process ends."""
    mailbox = Mailbox(directory)
    taking(mailbox, smtp_port).start()
    pages = type("MailboxPages", (Pages,), {"mailbox": mailbox})
    with ThreadingHTTPServer(("127.0.0.1", page_port), pages) as server:
        server.serve_forever()


if __name__ == "__main__":
    try:
        serve(
            Path(os.environ["MAILBOX_DATA"]),
            int(os.environ["MAILBOX_SMTP_PORT"]),
            int(os.environ["MAILBOX_PORT"]),
        )
    except KeyboardInterrupt:
        sys.exit(0)
