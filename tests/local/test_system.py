"""The tests' own ground: processes of the product on real servers."""

from contracts.catalog import ListProducts
from tests.conftest import StackFactory
from tests.patience import PATIENCE_S


def test_a_stack_of_one_service_answers_calls(service_stack: StackFactory) -> None:
    stack = service_stack("catalog")

    assert stack.rpc.call(ListProducts(), timeout_s=PATIENCE_S).products


def test_a_killed_service_comes_back_and_answers(service_stack: StackFactory) -> None:
    stack = service_stack("catalog")
    stack.kill("catalog")

    stack.start("catalog")

    assert stack.rpc.call(ListProducts(), timeout_s=PATIENCE_S).products
