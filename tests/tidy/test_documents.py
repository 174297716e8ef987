"""The documents: what they link to is there, and what they say to run can be run."""

import re
import subprocess
from pathlib import Path

import pytest

from services.gateway.routes import current

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MAKE = re.compile(r"`make ([a-z-]+)`|^make ([a-z-]+)", re.MULTILINE)


def documents() -> list[Path]:
    """Those of the repository; what the website shows links to its pages (tests/gateway)."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split() if "/handbook/" not in name]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    targets = [target for target in LINK.findall(document.read_text()) if "://" not in target]

    missing = [target for target in targets if not (document.parent / target).exists()]

    assert missing == []


def test_every_route_stands_in_the_table_of_who_may_use_it() -> None:
    written = (ROOT / "docs" / "routes.md").read_text(encoding="utf-8")

    assert written == current(), "run: make docs"


def test_every_test_that_security_is_seen_by_exists() -> None:
    named = set(re.findall(r"`(\w+/test_\w+)`", (ROOT / "docs" / "security.md").read_text()))

    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / f"tests/{name}.py").exists()] == []


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_command_that_a_document_names_exists(document: Path) -> None:
    named = {first or second for first, second in MAKE.findall(document.read_text())}
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert named <= rules


def test_every_decision_has_a_number_of_its_own() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))

    numbers = [int(path.name.partition("-")[0]) for path in decisions]

    assert sorted(set(numbers)) == numbers
    for number, path in zip(numbers, decisions, strict=True):
        assert path.read_text().startswith(f"# {number}. "), path.name
