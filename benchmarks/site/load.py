"""Load by wrk, a client in C that costs little beside what it measures, and keeps connections."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chassis.identifiers import new_id

SCRIPT = Path(__file__).parent / "requests.lua"
NOBODY = ("X-Asked-By: benchmark",)


@dataclass(frozen=True)
class Ask:
    """A request that is made over and over; ``headers`` has one line for each who asks."""

    path: str
    headers: Sequence[str] = NOBODY
    body: str | None = None


@dataclass(frozen=True)
class Answers:
    """What a load came to. ``requests`` were answered."""

    requests: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int


def put_load(base_url: str, ask: Ask, connections: int, seconds: float) -> Answers:
    """Ask on all connections at once, each time as soon as the answer is there."""
    with tempfile.NamedTemporaryFile("w", suffix=".headers") as headers:
        headers.write("\n".join(ask.headers) + "\n")
        headers.flush()
        environment = {
            "PATH": os.environ["PATH"],
            "SITE_PATH": ask.path,
            "SITE_HEADERS": headers.name,
            "SITE_KEYS": f"{new_id()}-",
            **({"SITE_BODY": ask.body} if ask.body else {}),
        }
        command = ["wrk", "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{seconds:g}s", "--timeout", "20s", "--script", str(SCRIPT)]
        done = subprocess.run(
            [*command, base_url], env=environment, capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    took_s = found.pop("seconds")
    return Answers(**found, per_s=found["requests"] / took_s)
