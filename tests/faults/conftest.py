"""The services that a purchase passes through, with short waits, to be killed at will."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import LastingStack
from tests.crashes import into_a_crash
from tests.patience import eventually
from tests.system import System

Ask = Callable[[Callable[[], object]], None]
DyingAt = Callable[[str], AbstractContextManager[Ask]]


@pytest.fixture(scope="session")
def crash_order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that tells a process at which point to die."""
    return tmp_path_factory.mktemp("faults") / "crash-at"


@pytest.fixture(scope="session")
def stack(lasting_stack: LastingStack, crash_order: Path) -> Iterator[System]:
    settings = {
        "CALL_TIMEOUT_S": "1",
        "STOCK_HOLD_S": "0",
        "MYCELIUM_CRASH_FILE": str(crash_order),
    }
    with lasting_stack("wallet", "catalog", "billing", settings=settings) as stack:
        yield stack


@pytest.fixture
def dying_at(stack: System, crash_order: Path) -> DyingAt:
    """``with dying_at("billing.completed") as ask:`` that process dies there, when it is asked for
    something or by itself; then it starts again."""

    @contextmanager
    def dying(point: str) -> Iterator[Ask]:
        name = point.partition(".")[0]
        crash_order.write_text(point)
        try:
            yield partial(into_a_crash, crash_order)
            eventually(lambda: not stack.is_running(name))
        finally:
            crash_order.unlink(missing_ok=True)
            stack.start(name)

    return dying
