"""The HTTP API held to its own document, by requests made from it.

What the document allows is carried out or has a reason of its own; what it does not allow is a
4xx; every answer has the status and the shape that it promises, and none is a 5xx.
"""

from typing import Any
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.generation.hypothesis.builder import (
    InvalidHeadersExampleMark,
    MissingPathParameters,
    UnserializablePayloadMark,
)
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.python._constants.orchestrator import make_constants_value_source
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.gateway.conftest import DOCUMENT, Api
from tests.patience import PATIENCE_S, Browser

EXAMPLES_MAX = 12
"""For each endpoint: the whole takes some 20 seconds."""

MORE_THAN_A_SCHEMA = {
    "register": "an address is more than a pattern, and some passwords are used by many",
    "change_account": "the same, a time zone is one of a list, and an address needs the password",
    "change_password": "the present one is asked for",
    "delete_account": "the same",
    "start_topup": "the bounds of a payment are the operator's settings",
    "configure_auto_topup": "the same, and switching on needs consent and a saved card",
    "check_affordability": "a number in a query is written without an exponent",
    "list_products": "the same",
    "list_transactions": "since is not after until",
    "total_sales": "the same, which is today where none is said",
    "instant_purchase": "meters are those that the product was shown with",
    "purchase_with_topup": "the same",
    "put_billing_details": "what is printed has no control characters, an address six lines",
    "add_webhook": "an address is a public one that begins with https://",
    "send": "who sends has as much",
    "request_payout": "the smallest one is the operator's setting",
}

BROWSER = Browser()
ENDPOINTS = [
    f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods
]
NOT_TRIED = (InvalidHeadersExampleMark, MissingPathParameters, UnserializablePayloadMark)


@pytest.fixture(scope="module")
def api_schema() -> Any:
    load_all_checks()
    return schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def feedback(api_schema: Any) -> FeedbackSources:
    return FeedbackSources(constants_value_source=make_constants_value_source(api_schema))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_does_as_its_document_says(
    endpoint: str, api_schema: Any, feedback: FeedbackSources, api: Api
) -> None:
    """Its requests are made here, as Schemathesis does for each endpoint when it collects tests,
    which takes every worker seven seconds."""
    operation = api_schema.find_operation_by_label(endpoint)
    described = operation.definition.raw
    # A cursor is one that was issued.
    is_paged = any(one["name"] == "cursor" for one in described["parameters"])
    is_unfair = is_paged or described["operationId"] in MORE_THAN_A_SCHEMA
    unfair = [positive_data_acceptance] if is_unfair else []

    @settings(max_examples=EXAMPLES_MAX, deadline=None, suppress_health_check=list(HealthCheck))
    def holds(case: Any) -> None:
        case.call_and_validate(
            base_url=api.base_url,
            session=BROWSER,
            headers={"Authorization": f"Bearer {api.token}"},
            timeout=PATIENCE_S,
            excluded_checks=unfair,
        )

    tried = build_operation_test(
        config=api_schema.config,
        operation=operation,
        test_func=holds,
        given_kwargs={},
        feedback=feedback,
    )
    try:
        tried()
    except SkipTest as reason:
        pytest.fail(f"{endpoint} was not tried: {reason}")
    assert [mark for mark in NOT_TRIED if mark.get(tried)] == []


def test_what_a_schema_cannot_say_is_about_endpoints_that_exist() -> None:
    names = {
        operation["operationId"]
        for operations in DOCUMENT["paths"].values()
        for operation in operations.values()
    }

    assert names >= MORE_THAN_A_SCHEMA.keys()
