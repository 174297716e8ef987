#!/usr/bin/env bash
# Two metrics of prometheus_client become one name on the wire.
#
# The registry refuses a second metric of a name. One would expect it to refuse two that the text
# format cannot tell apart.
#
# What happens: "mycelium.outbox" is accepted beside "mycelium_outbox", and the exposition for a
# scraper that does not ask for UTF-8 names writes both as mycelium_outbox: one sample twice, with
# different values, of which Prometheus refuses the scrape or keeps one.
#
# Seen with prometheus_client 0.26.0 on Python 3.11. Output:
#   mycelium_outbox 1.0
#   mycelium_outbox 2.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check prometheus_client==0.26.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

registry = CollectorRegistry()
Gauge("mycelium_outbox", "Events that wait", registry=registry).set(1)
Gauge("mycelium.outbox", "Events that wait", registry=registry).set(2)
encode, _ = choose_encoder("text/plain; version=0.0.4")
samples = [
    line for line in encode(registry).decode().splitlines() if line and not line.startswith("#")
]
print("\n".join(samples))
sys.exit(samples != ["mycelium_outbox 1.0", "mycelium_outbox 2.0"])
PYTHON
