"""The mailbox of local runs takes what the notifier sends, and shows it."""

import smtplib
from email.message import EmailMessage

import requests

from tests.conftest import StackFactory
from tests.patience import PATIENCE_S


def test_the_mailbox_shows_what_was_sent_and_runs_none_of_it(service_stack: StackFactory) -> None:
    stack = service_stack("mailbox")
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.org", "b@example.org", "<b>Charged</b>"
    mail.set_content("Open: http://127.0.0.1:1/there?link=x\n")
    mail.add_alternative("<p>Charged</p><script>alert(1)</script>", subtype="html")
    with smtplib.SMTP("127.0.0.1", stack._ports.mailbox_smtp) as smtp:
        smtp.send_message(mail)

    listed = requests.get(stack.mailbox_url, timeout=PATIENCE_S)
    single = requests.get(f"{stack.mailbox_url}/000000000001", timeout=PATIENCE_S)
    as_html = requests.get(f"{stack.mailbox_url}/000000000001.html", timeout=PATIENCE_S)

    assert "&lt;b&gt;Charged&lt;/b&gt;" in listed.text
    assert '<a href="http://127.0.0.1:1/there?link=x">' in single.text
    assert "<p>Charged</p>" in as_html.text
    assert as_html.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert requests.get(f"{stack.mailbox_url}/000000000002", timeout=PATIENCE_S).status_code == 404
