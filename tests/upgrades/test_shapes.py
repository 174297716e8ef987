"""What this version says is understood by the one before, which runs beside it for a while.

That this one understands the one before holds a test of the contracts in every run.
"""

import json
from pathlib import Path

import pytest

from tests.contracts.golden import FOLDER
from tests.upgrades.versions import FROM, check_out, run_in

pytestmark = pytest.mark.upgrade

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


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
