#!/usr/bin/env bash
# Stripe's Python library follows a redirect of a POST, as a GET, and returns what is there.
#
# An API that creates payments redirects nobody; where something in between answers 302 (a proxy's
# login page, a moved base address), one would expect an error, and no other request.
#
# What happens: requests follows it as browsers do, as a GET without the body, and to another host.
# Whatever JSON is there comes back as the object that was to be created. Nothing was created, and
# the caller has an id and a status. So the session is to be made with max_redirects = 0.
#
# Seen with stripe 16.1.0 and requests 2.34.2 on Python 3.11. Output:
#   the library sent: POST /v1/payment_intents, GET /elsewhere
#   the caller got: pi_of_somebody_else succeeded
#   with max_redirects = 0: APIConnectionError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check stripe==16.1.0 requests==2.34.2
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import requests
import stripe

seen = []


class Processor(BaseHTTPRequestHandler):
    def do_POST(self):
        seen.append(f"POST {self.path}")
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(302)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        seen.append(f"GET {self.path}")
        body = b'{"id": "pi_of_somebody_else", "object": "payment_intent", "status": "succeeded"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Processor)
threading.Thread(target=server.serve_forever, daemon=True).start()


def charge(**how):
    client = stripe.StripeClient(
        "sk_test_example",
        base_addresses={"api": f"http://127.0.0.1:{server.server_port}"},
        http_client=stripe.RequestsClient(timeout=5, **how),
    )
    try:
        made = client.v1.payment_intents.create({"amount": 500, "currency": "usd"})
    except stripe.StripeError as error:
        return type(error).__name__
    return f"{made.id} {made.status}"


usual = charge()
sent = ", ".join(seen)
session = requests.Session()
session.max_redirects = 0
refused = charge(session=session)
print("the library sent:", sent)
print("the caller got:", usual)
print("with max_redirects = 0:", refused)
server.shutdown()
expected = (
    "POST /v1/payment_intents, GET /elsewhere",
    "pi_of_somebody_else succeeded",
    "APIConnectionError",
)
sys.exit((sent, usual, refused) != expected)
PYTHON
