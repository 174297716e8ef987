"""What this version says is understood by the one before, which runs beside it for a while.

Every run holds that where the clone has both; a shallow one has not. That this one understands the
one before holds a test of the contracts.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.local.processes import ROOT
from tests.contracts.golden import FOLDER
from tests.upgrades.versions import FROM, check_out, is_at_hand, run_in

UNREAD = """
import json, sys
from pathlib import Path
from pydantic import ValidationError
from contracts.messages import Event, Reply
from contracts.schemas import SERVICES
from tests.contracts.golden import messages

unread = []
for service in SERVICES:
    said = json.loads((Path(sys.argv[1]) / f"{service}.json").read_text())
    for message in messages(service):
        try:
            if issubclass(message, (Event, Reply)):
                message.model_validate(said[message.__name__])
        except (ValidationError, KeyError) as error:
            unread.append(f"{service}.{message.__name__}: {error}")
print(json.dumps(unread))
"""
"""Of what answers and tells. What asks comes from whoever is upgraded later than who answers."""

WORDS = """
import json
from contracts.messages import Event, Reply
from contracts.schemas import SERVICES
from tests.contracts.golden import messages

words = {}
for service in SERVICES:
    for message in messages(service):
        if issubclass(message, (Event, Reply)):
            for kind, shape in message.model_json_schema().get("$defs", {}).items():
                if "enum" in shape or "const" in shape:
                    name = f"{service}.{message.__name__}: {kind}"
                    words[name] = shape.get("enum", [shape.get("const")])
print(json.dumps(words))
"""
"""What may stand in answers and events where one of several words does."""

RIGHTS = """
import json
from deploy.definitions import LOGINS

rights = {}
for each in LOGINS:
    rights[f"{each.name} calls"] = each.calls
    rights[f"{each.name} hears"] = each.listens_to
    rights[f"{each.name} tells"] = each.publishes_for
print(json.dumps(rights))
"""

SAID_WHERE_ASKED = {("billing.Forecast: ForecastKind", "promotion_end")}
"""Words that the version before does not know, and that only who asks for them is told."""


def new_in(these: Mapping[str, list[str]], those: Mapping[str, list[str]]) -> set[tuple[str, str]]:
    """What stands in the first and not in the second, of what both have."""
    both = these.keys() & those.keys()
    return {(name, word) for name in both for word in {*these[name]} - {*those[name]}}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (os.environ.get("UPGRADE_FROM") or is_at_hand(FROM)):
        pytest.skip(f"{FROM}, the version before, is not in this clone")
    return check_out(FROM, tmp_path_factory.mktemp("before") / "tree")


def test_the_version_before_reads_every_answer_and_event_of_this_one(tree: Path) -> None:
    assert json.loads(run_in(tree, "-c", UNREAD, str(FOLDER))) == []


def test_no_example_of_the_version_before_was_written_anew(tree: Path) -> None:
    """Else this version's own test would hold it against itself."""
    files = sorted((tree / "tests/contracts/golden").glob("*.json"))
    changed = [
        f"{file.stem}.{name}"
        for file in files
        for name, example in json.loads(file.read_text()).items()
        if json.loads((FOLDER / file.name).read_text()).get(name) != example
    ]

    assert (bool(files), changed) == (True, [])


def test_no_answer_or_event_says_a_word_that_the_version_before_does_not_know(tree: Path) -> None:
    before, now = (json.loads(run_in(place, "-c", WORDS)) for place in (tree, ROOT))

    assert before.keys() & now.keys()
    assert new_in(now, before) - SAID_WHERE_ASKED == set()


def test_the_broker_still_allows_what_the_version_before_does(tree: Path) -> None:
    """Its definitions are loaded first, and the version before works on under them."""
    before, now = (json.loads(run_in(place, "-c", RIGHTS)) for place in (tree, ROOT))

    assert (bool(before), before.keys() - now.keys()) == (True, set())
    assert new_in(before, now) == set()
