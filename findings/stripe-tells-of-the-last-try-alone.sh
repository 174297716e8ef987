#!/usr/bin/env bash
# "Connection refused" from Stripe's library does not mean that nothing was sent.
#
# With max_network_retries=2 a request may be sent three times. When all fail one would expect the
# error to tell of a try that may have arrived, since money may have moved, or of all of them.
#
# What happens: APIConnectionError describes the last try. Here the first one is read by the server,
# which then ends; the others find nobody. The error says "Connection refused" and its cause is the
# refused connection: whoever takes that for "not charged" charges twice.
#
# Seen with stripe 16.1.0 and requests 2.34.2 on Python 3.11. Output:
#   requests that arrived: 1
#   the error says refused: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check stripe==16.1.0 requests==2.34.2
"$folder/venv/bin/python" - <<'PYTHON'
import socket
import sys
import threading

import stripe

listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
arrived = []


def take_one_and_leave():
    connection, _ = listener.accept()
    listener.close()
    arrived.append(connection.recv(65536))
    connection.close()


threading.Thread(target=take_one_and_leave, daemon=True).start()
client = stripe.StripeClient(
    "sk_test_example",
    base_addresses={"api": f"http://127.0.0.1:{port}"},
    http_client=stripe.RequestsClient(timeout=5),
    max_network_retries=2,
)
try:
    client.v1.payment_intents.create({"amount": 500, "currency": "usd"})
    says_refused = False
except stripe.APIConnectionError as error:
    says_refused = "refused" in str(error)
print("requests that arrived:", len(arrived))
print("the error says refused:", says_refused)
sys.exit((len(arrived), says_refused) != (1, True))
PYTHON
