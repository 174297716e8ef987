"""Unused credit goes back to its card, with real processes, killed at each step of its way."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from contracts.topup import CardRefund, ListCardRefunds, ListRefundable, RefundTopup
from contracts.wallet import GetWallet, Verify
from tests.conftest import StackFactory
from tests.crashes import into_a_crash
from tests.patience import eventually
from tests.system import System
from tests.topup.conftest import USD
from tests.topup.test_card_refunds import STEPS
from tests.topup.test_crashes import restart_after_crash
from tests.topup.test_service import Person


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that tells the process at which point to die."""
    return tmp_path_factory.mktemp("crashes") / "crash-at"


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory, order: Path) -> System:
    return service_stack("wallet", "topup", "sandbox", settings={"MYCELIUM_CRASH_FILE": str(order)})


def bought(person: Person) -> Any:
    topup = person.start_topup(payment_method_id=person.add_card())
    eventually(lambda: person.topup(topup.topup_id).status == "credited")
    return topup.topup_id


def wants_back(person: Person, key: str) -> CardRefund:
    (offer,) = person.stack.rpc.call(ListRefundable(user_id=person.user_id)).topups
    return person.stack.rpc.call(refund_of(person, offer.topup_id, key))


def refund_of(person: Person, topup_id: uuid.UUID, key: str) -> RefundTopup:
    return RefundTopup(
        idempotency_key=key, user_id=person.user_id, topup_id=topup_id, amount_micros=20 * USD
    )


def wallet(person: Person) -> tuple[int, int]:
    found = person.stack.rpc.call(GetWallet(user_id=person.user_id))
    return found.balance_micros // USD, found.held_micros // USD


def test_a_refund_goes_through_wallet_and_processor(stack: System) -> None:
    person = Person(stack)
    bought(person)

    assert wants_back(person, str(uuid.uuid4())).status == "succeeded"
    eventually(lambda: wallet(person) == (5, 0))
    assert stack.rpc.call(Verify()).first_difference is None


@pytest.mark.soak
@pytest.mark.parametrize("point", STEPS)
def test_a_kill_at_any_step_comes_to_one_refund(stack: System, order: Path, point: str) -> None:
    person, key = Person(stack), str(uuid.uuid4())
    bought(person)
    order.write_text(point)
    (offer,) = person.stack.rpc.call(ListRefundable(user_id=person.user_id)).topups
    command = refund_of(person, offer.topup_id, key)
    into_a_crash(order, lambda: stack.rpc.call(command, timeout_s=5))
    restart_after_crash(stack)

    def ended() -> bool:
        asked = ListCardRefunds(user_id=person.user_id)
        return [each.status for each in stack.rpc.call(asked).refunds] == ["succeeded"]

    eventually(ended)
    eventually(lambda: wallet(person) == (5, 0))
    assert stack.rpc.call(Verify()).first_difference is None
