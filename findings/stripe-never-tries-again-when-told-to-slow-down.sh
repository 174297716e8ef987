#!/usr/bin/env bash
# Stripe's Python library does not try again after 429, and does after a declined card.
#
# With max_network_retries=2 one would expect a 429 with Retry-After to be sent again after that
# time, since nothing was done, and a 402 (the card was declined) to be final.
#
# What happens: a 429 is raised at once, with or without Retry-After. A response that carries the
# header Stripe-Should-Retry: true is sent three times in all, whatever its status: 402 as well.
# So rate limits need a retry of one's own.
#
# Seen with stripe 16.1.0 and requests 2.34.2 on Python 3.11. Output:
#   429 with Retry-After: 1 request
#   402: 1 request
#   402 with Stripe-Should-Retry: 3 requests
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check stripe==16.1.0 requests==2.34.2
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import stripe

answer, seen = {}, []


class Processor(BaseHTTPRequestHandler):
    def do_GET(self):
        seen.append(self.path)
        self.send_response(answer["status"])
        for name, value in answer["headers"].items():
            self.send_header(name, value)
        body = b'{"error": {"type": "card_error", "message": "no"}}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Processor)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = stripe.StripeClient(
    "sk_test_example",
    base_addresses={"api": f"http://127.0.0.1:{server.server_port}"},
    http_client=stripe.RequestsClient(timeout=5),
    max_network_retries=2,
)


def requests_for(status, **headers):
    answer.update(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})
    seen.clear()
    try:
        client.v1.customers.retrieve("cus_example")
    except stripe.StripeError:
        pass
    return len(seen)


counts = (
    requests_for(429, Retry_After="1"),
    requests_for(402),
    requests_for(402, Stripe_Should_Retry="true"),
)
print("429 with Retry-After:", counts[0], "request")
print("402:", counts[1], "request")
print("402 with Stripe-Should-Retry:", counts[2], "requests")
server.shutdown()
sys.exit(counts != (1, 1, 3))
PYTHON
