"""The OpenAPI document is valid, current, and complete."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from services.gateway.api import OPERATIONS
from services.gateway.api.openapi import as_text, describe_api
from services.gateway.api.shapes import ApiReply
from services.gateway.app import create_app
from tests.gateway.conftest import DOCUMENT, gateway_settings

WRITTEN = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def routes() -> set[tuple[str, str]]:
    app = create_app(gateway_settings("postgresql+psycopg2://nobody@127.0.0.1:1/none"))
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/") and rule.rule != "/api/openapi.json"
    }


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


def test_two_models_of_one_name_are_refused() -> None:
    class UserFile(ApiReply):
        """Another one than that of :mod:`services.gateway.api.admin`."""

        size: int

    known = next(each for each in OPERATIONS if each.reply.__name__ == "UserFile")
    another = replace(known, path="/api/another", reply=UserFile)

    with pytest.raises(LookupError, match=r"admin__UserFile.*UserFile"):
        describe_api([*OPERATIONS, another])


def test_the_committed_document_is_that_of_the_code() -> None:
    assert WRITTEN.read_text(encoding="utf-8") == as_text(OPERATIONS), "run: make docs"


def test_a_body_in_which_nothing_is_required_may_be_left_out_of_a_post() -> None:
    """A PATCH or PUT without one would change nothing: it is a slip, and refused."""
    refused = [
        each.path
        for each in OPERATIONS
        if each.method == "POST"
        and each.body is not None
        and not any(field.is_required() for field in each.body.model_fields.values())
        and not each.is_body_optional
    ]

    assert refused == []


def test_every_route_of_the_api_is_described_and_no_other(routes: set[tuple[str, str]]) -> None:
    described = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    }

    assert described == {(method, _as_template(rule)) for method, rule in routes}


IN_THE_PLAN = {
    "GET /api/wallet/info": {
        "balance",
        "currency",
        "auto_topup_enabled",
        "auto_topup_threshold",
    },
    "GET /api/navbar/dropdown-data": {
        "wallet_balance_formatted",
        "display_currency",
        "auto_topup_enabled",
        "auto_topup_status",
    },
    "GET /api/wallet/check-affordability": {"can_afford", "shortfall_info"},
    "POST /api/wallet/instant-purchase": {
        "product_id",
        "product_name",
        "quantity",
        "unit_price_usd",
    },
    "POST /api/wallet/purchase-with-topup": {
        "product_id",
        "product_name",
        "quantity",
        "unit_price_usd",
    },
    "POST /api/wallet/auto-topup/configure": {
        "enabled",
        "threshold_amount",
        "topup_amount",
        "payment_method_id",
        "daily_limit",
        "monthly_limit",
    },
    "GET /api/wallet/auto-topup/status": {
        "enabled",
        "threshold_amount",
        "topup_amount",
        "daily_limit",
        "monthly_limit",
    },
    "POST /api/wallet/auto-topup/trigger": set(),
    "GET /api/wallet/burn-rate-analysis": {
        "monthly_burn_rate",
        "daily_burn_rate",
        "hourly_burn_rate",
        "deployments",
        "projected_balance_30_days",
        "days_until_empty",
    },
}
"""The plan's endpoints, and its names in the body of a command or in the reply to a question."""


@pytest.mark.parametrize("endpoint", IN_THE_PLAN)
def test_an_endpoint_of_the_plan_has_the_names_of_the_plan(endpoint: str) -> None:
    method, path = endpoint.split()
    operation = DOCUMENT["paths"][path][method.lower()]

    told = operation.get("requestBody") or operation["responses"]["200"]

    assert IN_THE_PLAN[endpoint] <= set(_properties(told))


def test_a_deployment_that_burns_has_the_names_of_the_plan() -> None:
    shapes = DOCUMENT["components"]["schemas"]

    assert set(shapes["DeploymentBurn"]["properties"]) >= {
        "deployment_id",
        "deployment_name",
        "monthly_cost",
        "daily_cost",
        "status",
    }


def _properties(told: dict[str, Any]) -> dict[str, Any]:
    shape = told["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    properties: dict[str, Any] = DOCUMENT["components"]["schemas"][shape]["properties"]
    return properties


def test_every_operation_says_what_it_does() -> None:
    operations: list[dict[str, Any]] = [
        operation for path in DOCUMENT["paths"].values() for operation in path.values()
    ]

    assert [operation["operationId"] for operation in operations if not operation["summary"]] == []


def _as_template(rule: str) -> str:
    parts = [
        "{" + part.strip("<>").rpartition(":")[2] + "}" if part.startswith("<") else part
        for part in rule.split("/")
    ]
    return "/".join(parts)
