"""Mails: what is told is sent, by a real SMTP server that refuses, defers, and falls silent."""

import ast
import inspect
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from sqlalchemy import select

from chassis.clock import utc_now
from chassis.database import Connected
from deploy.local.startup import free_port
from services.gateway.models import Mail, User
from services.gateway.notifications import links, mails, messages, sending, storage, topics
from services.gateway.settings import NotifierSettings
from tests.crashes import Died, dies_at
from tests.gateway.conftest import NO_BROKER, add_user

NOW = utc_now()
SECOND = timedelta(seconds=1)
LATER = timedelta(days=1)


def about(kind: str, title: str = "Auto top-up charged $25.00") -> storage.Message:
    return storage.Message(
        kind, "info", title, "Your balance is now <$30.00>.", "/dashboard/wallet"
    )


@dataclass
class Post:
    """A mail server. ``answers`` says what it answers to some recipients, at RCPT."""

    port: int = field(default_factory=free_port)
    mails: list[EmailMessage] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    server: Controller | None = None
    longest_line: int = 0
    """Of the bodies of all mails."""

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        answer = self.answers.get(address, "250 OK")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        body = envelope.content.partition(b"\r\n\r\n")[2]
        self.longest_line = max(self.longest_line, *map(len, body.split(b"\r\n")))
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"

    def open(self, **security: Any) -> None:
        """``ssl_context`` is TLS from the first byte, ``tls_context`` STARTTLS."""
        self.server = Controller(
            self, hostname="127.0.0.1", port=self.port, enable_SMTPUTF8=True, **security
        )
        self.server.start()

    def close(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    @property
    def recipients(self) -> list[str]:
        return [str(mail["To"]) for mail in self.mails]


@pytest.fixture
def post() -> Iterator[Post]:
    server = Post()
    server.open()
    yield server
    server.close()


@pytest.fixture
def send(database: Connected, post: Post) -> Callable[..., datetime | None]:
    """``send(at)``: what is due at that moment is sent."""
    given = {
        "amqp_uri": NO_BROKER,
        "database_url": "",
        "secret_key": "a secret for tests only, of enough length",
        "public_url": "https://a-long-name-for-a-marketplace.of-the-north.example.org",
        "mail_from": "Mycelium <no-reply@example.org>",
        "smtp_url": f"smtp+plain://127.0.0.1:{post.port}",
        "smtp_timeout_s": 1.0,
    }

    def run(at: datetime, **changes: Any) -> datetime | None:
        return sending.send_due(database, NotifierSettings(**{**given, **changes}), lambda: at)

    return run


def tell(database: Connected, user: User, kind: str = "purchase_completed") -> None:
    with database.begin() as session:
        storage.tell(session, NOW, user.user_id, uuid4(), about(kind))


def outcomes(database: Connected) -> dict[UUID, tuple[str, int]]:
    with database.read() as session:
        return {
            mail.user_id: (mail.outcome, mail.attempts) for mail in session.scalars(select(Mail))
        }


@pytest.fixture
def people(database: Connected) -> list[User]:
    """Three, each of whom was told something: the middle one is looked at."""
    made = [add_user(database, f"{name}@example.com", has_wallet=True) for name in "abc"]
    for user in made:
        tell(database, user)
    return made


def test_what_is_told_is_sent_once_as_text_and_html_with_one_click_to_end_it(
    database: Connected, post: Post, send: Callable[..., datetime | None]
) -> None:
    user, event_id = add_user(database, "ann@example.com", has_wallet=True), uuid4()
    for _ in range(2):
        with database.begin() as session:
            message = about("purchase_completed", "VM\r\nBcc: bob@example.com – yours")
            storage.tell(session, NOW, user.user_id, event_id, message)

    assert send(NOW) is None
    send(NOW + LATER)

    (mail,) = post.mails
    text, html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))
    assert (mail["From"], mail["To"]) == ("Mycelium <no-reply@example.org>", "ann@example.com")
    assert (mail["Subject"], mail["Bcc"]) == ("VM Bcc: bob@example.com – yours", None)
    assert "Your balance is now <$30.00>." in text
    assert "Your balance is now &lt;$30.00&gt;." in html
    assert ".example.org/dashboard/wallet" in text
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert post.longest_line <= 76
    # On one line, as it is: a header in encoded words would be no address to any program.
    unsubscribe = dict(mail.raw_items())["List-Unsubscribe"]
    assert str(unsubscribe).startswith("<https://a-long-name")
    token = str(unsubscribe).removesuffix(">").partition("link=")[2]
    assert links.unsubscribes("a secret for tests only, of enough length", token) == (
        user.user_id,
        "purchases",
    )


@pytest.mark.parametrize(
    ("answer", "then", "at_last"),
    [
        ("550 No such mailbox", "refused", "refused"),
        ("451 Come back in a minute", "", "sent"),
        ("421 I am closing", "", "sent"),
        # More than the client takes in one line: it hangs up.
        ("250 " + "x" * 9_000, "", "sent"),
    ],
)
def test_what_a_server_says_of_one_recipient_concerns_that_one(
    database: Connected,
    post: Post,
    send: Callable[..., datetime | None],
    people: list[User],
    answer: str,
    then: str,
    at_last: str,
) -> None:
    post.answers = {"b@example.com": answer}
    send(NOW)
    send(NOW + sending.AWAY_FOR)

    assert sorted(post.recipients) == ["a@example.com", "c@example.com"]
    assert outcomes(database)[people[1].user_id][0] == then

    post.answers = {}
    send(NOW + timedelta(seconds=60) - SECOND / 1000)
    assert len(post.mails) == 2
    send(NOW + sending.AWAY_FOR + timedelta(seconds=60))
    assert {outcome for outcome, _ in outcomes(database).values()} == {"sent", at_last}
    assert len(post.mails) == (3 if at_last == "sent" else 2)


def test_a_server_that_is_away_costs_no_mail_an_attempt_and_gets_all_later(
    database: Connected, post: Post, send: Callable[..., datetime | None], people: list[User]
) -> None:
    post.close()
    assert send(NOW) == NOW + sending.AWAY_FOR
    assert set(outcomes(database).values()) == {("", 0)}

    post.open()
    send(NOW + mails.TRIED_FOR - SECOND)

    assert len(post.mails) == 3


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - LATER)
        .not_valid_after(NOW + LATER)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + secret)
    return path


@pytest.mark.parametrize("scheme", ["smtps", "smtp"])
def test_a_server_is_trusted_by_its_certificate_and_hears_nothing_before(
    post: Post,
    send: Callable[..., datetime | None],
    people: list[User],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    post.close()
    post.open(**{"ssl_context" if scheme == "smtps" else "tls_context": context})
    url = f"{scheme}://127.0.0.1:{post.port}"

    assert send(NOW, smtp_url=url) == NOW + sending.AWAY_FOR
    assert post.mails == []

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    send(NOW + sending.AWAY_FOR, smtp_url=url)
    assert len(post.mails) == len(people)


def test_a_server_that_offers_no_encryption_gets_nothing_that_asks_for_it(
    post: Post, send: Callable[..., datetime | None], people: list[User]
) -> None:
    assert people

    assert send(NOW, smtp_url=f"smtp://127.0.0.1:{post.port}") == NOW + sending.AWAY_FOR

    assert post.mails == []


def test_what_could_not_be_sent_in_its_time_is_given_up_and_says_so(
    database: Connected, post: Post, send: Callable[..., datetime | None], people: list[User]
) -> None:
    post.answers = {"b@example.com": "451 Greylisted"}
    send(NOW)
    send(NOW + mails.TRIED_FOR)

    assert outcomes(database)[people[1].user_id] == ("given_up", 1)
    with database.read() as session:
        assert "451 Greylisted" in {mail.error for mail in session.scalars(select(Mail))}


def test_a_crash_after_the_server_took_it_sends_it_again_under_the_same_name(
    database: Connected,
    post: Post,
    send: Callable[..., datetime | None],
    people: list[User],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dies_at(monkeypatch, sending, "notifier.mail_accepted")
    with pytest.raises(Died):
        send(NOW)
    monkeypatch.undo()
    lease = sending.WAITING.lease
    send(NOW + lease - SECOND)
    assert len(post.mails) == 1
    send(NOW + lease)

    assert len(post.mails) == 4
    assert len({mail["Message-ID"] for mail in post.mails}) == 3


def test_what_nobody_wants_any_more_is_not_sent(
    database: Connected, post: Post, send: Callable[..., datetime | None], people: list[User]
) -> None:
    tell(database, people[1], "auto_topup_credited")
    off = dict.fromkeys(topics.BY_NAME, topics.Choice(on_page=False, by_mail=False))
    with database.begin() as session:
        topics.choose(session, people[1].user_id, off)
        session.get_one(User, people[2].user_id).deleted_at = NOW
    tell(database, people[1])

    send(NOW)

    assert sorted(post.recipients) == ["a@example.com", "b@example.com"]
    assert [str(m["Subject"]) for m in post.mails if m["To"] == "b@example.com"] == [
        about("auto_topup_credited").title
    ]
    assert all(m["List-Unsubscribe"] is None for m in post.mails if m["To"] == "b@example.com")
    with database.read() as session:
        newest = storage.newest(session, people[1].user_id)[0]
    # It stands in the list, and does not ask for attention.
    assert newest.read_at == NOW


def test_without_a_server_mails_do_not_pile_up(
    database: Connected, post: Post, send: Callable[..., datetime | None], people: list[User]
) -> None:
    send(NOW, smtp_url=None)
    send(NOW + LATER)

    assert post.mails == []
    assert {outcome for outcome, _ in outcomes(database).values()} == {"unwanted"}


def test_an_address_with_letters_beyond_ascii_is_reached(
    database: Connected, post: Post, send: Callable[..., datetime | None]
) -> None:
    for email in ("ann@bücher.example.com", "grüße@example.com"):
        tell(database, add_user(database, email, has_wallet=True))
    send(NOW)

    assert sorted(post.recipients) == ["ann@xn--bcher-kva.example.com", "grüße@example.com"]


def test_every_kind_of_message_has_a_topic() -> None:
    told = {
        call.args[0].value
        for call in ast.walk(ast.parse(inspect.getsource(messages)))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") == "Message"
        and isinstance(call.args[0], ast.Constant)
    }

    assert len(told) > 20
    assert {*told, "refund_credited", "transfer_credited"} <= set(topics.BY_KIND)
