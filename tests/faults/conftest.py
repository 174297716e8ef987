"""The services that a purchase passes through, with short waits, to be killed at will."""

import pytest

from tests.conftest import StackFactory
from tests.system import System


@pytest.fixture(scope="session")
def stack(service_stack: StackFactory) -> System:
    return service_stack(
        "wallet", "catalog", "billing", settings={"CALL_TIMEOUT_S": "1", "STOCK_HOLD_S": "0"}
    )
