"""The parts: the files whose rules get faults, and the tests that are to notice.

A test that stops the servers cannot be here, because all trials share them.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    rules: list[str]
    tests: list[str]


HERE = Path(__file__).parent
PARTS = {
    name: Part(**part) for name, part in tomllib.loads((HERE / "parts.toml").read_text()).items()
}
EQUIVALENT: list[dict[str, str]] = tomllib.loads((HERE / "equivalent.toml").read_text()).get(
    "equivalent", []
)
"""Faults that change nothing which can be seen: where, what, and ``why``."""
