"""Every call that the contracts promise has somebody who answers it."""

import importlib

import pytest

from chassis.rpc import Rpc
from contracts.schemas import SERVICES, requests

ANSWERING = [service for service in SERVICES if service != "gateway"]


@pytest.mark.parametrize("service", ANSWERING)
def test_a_service_answers_all_that_its_contract_lists_and_nothing_else(service: str) -> None:
    module = importlib.import_module(f"services.{service}.service")
    answering = getattr(module, f"{service.capitalize()}Service")

    answered = {
        name
        for name, method in vars(answering).items()
        if any(isinstance(each, Rpc) for each in getattr(method, "nameko_entrypoints", ()))
    }

    assert answered == {request.method for request in requests(service)}
