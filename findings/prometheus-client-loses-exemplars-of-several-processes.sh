#!/usr/bin/env bash
# prometheus_client loses exemplars where several processes count together.
#
# observe(…, exemplar=…) is checked and accepted, and the exposition in OpenMetrics shows it. One
# would expect the same with PROMETHEUS_MULTIPROC_DIR, which servers with several workers need, or an
# error.
#
# What happens: nothing is said, and no exemplar is shown.
#
# Seen with prometheus_client 0.26.0 on Python 3.11. Output:
#   one process: 1 exemplars
#   several processes: 0 exemplars
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check prometheus_client==0.26.0
cat >"$folder/count.py" <<'PYTHON'
import os

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest

registry = CollectorRegistry()
Histogram("took_seconds", "How long it took", registry=registry).observe(0.2, {"trace_id": "abc"})
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
print(generate_latest(registry).decode().count('# {trace_id="abc"}'))
PYTHON
mkdir "$folder/counts"
one=$("$folder/venv/bin/python" "$folder/count.py")
several=$(PROMETHEUS_MULTIPROC_DIR="$folder/counts" "$folder/venv/bin/python" "$folder/count.py")
echo "one process: $one exemplars"
echo "several processes: $several exemplars"
[ "$one $several" = "1 0" ]
