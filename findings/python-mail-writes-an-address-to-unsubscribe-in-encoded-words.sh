#!/usr/bin/env bash
# Python writes a long List-Unsubscribe header as encoded words, and quoted-printable lines of 78.
#
# RFC 2369 wants the address between angle brackets as it is, so that a mail program can call it when
# its reader presses "unsubscribe" (RFC 8058); RFC 2047 (5) allows no encoded word there, and RFC 2045
# (6.7) no line of quoted-printable beyond 76 characters. One would expect email.policy.SMTP, which is
# for sending, to keep to them: all characters of the address are ASCII, and the line may be long.
#
# What happens: an address that does not fit into 78 characters is cut into encoded words
# (=?utf-8?q?…?=), and a body is wrapped at 78. Whether a program undoes the first is luck: mail-parser
# does, Python's own parser as it is by default does not. With max_line_length=998, which is what
# RFC 5322 allows, the header is whole; but given to the message itself, the body has lines of 998, too.
# So give 76 to the message that is written, and 998 when it is serialised.
#
# Seen with Python 3.11.7 and mail-parser 4.8.0. Output:
#   as it is sent: =?utf-8?q?, longest line of the body 78
#   read by mail-parser: the address
#   read by Python: encoded words
#   written with 76, serialised with 998: the address, longest line of the body 76
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check mail-parser==4.8.0
"$folder/venv/bin/python" - <<'PYTHON'
import email
import sys
from email.message import EmailMessage
from email.policy import SMTP

import mailparser

ADDRESS = f"<https://shop.example.com/unsubscribe/{'0123456789abcdef' * 5}>"


def written(policy):
    message = EmailMessage(policy=policy)
    message["From"] = "shop@example.com"
    message["To"] = "ann@example.com"
    message["Subject"] = "A receipt"
    message["List-Unsubscribe"] = ADDRESS
    message.set_content("é" + "a long line, " * 40)
    return message


def longest(sent):
    return max(map(len, sent.partition(b"\r\n\r\n")[2].split(b"\r\n")))


def seen(text):
    return "the address" if ADDRESS in text else "encoded words"


sent = written(SMTP).as_bytes()
header = sent.partition(b"List-Unsubscribe:")[2].split(b"\r\n")[1].strip()[:10].decode()
by_mail_parser = seen(mailparser.parse_from_bytes(sent).headers["List-Unsubscribe"])
by_python = seen(email.message_from_bytes(sent)["List-Unsubscribe"])
mended = written(SMTP.clone(max_line_length=76)).as_bytes(policy=SMTP.clone(max_line_length=998))
by_both = seen(email.message_from_bytes(mended)["List-Unsubscribe"])

print(f"as it is sent: {header}, longest line of the body {longest(sent)}")
print("read by mail-parser:", by_mail_parser)
print("read by Python:", by_python)
print(
    f"written with 76, serialised with 998: {by_both}, longest line of the body {longest(mended)}"
)
found = header, longest(sent), by_mail_parser, by_python, by_both, longest(mended)
sys.exit(found != ("=?utf-8?q?", 78, "the address", "encoded words", "the address", 76))
PYTHON
