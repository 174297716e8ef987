"""The table from errors to HTTP, and JSON with exact decimals."""

from decimal import Decimal

import pytest
from flask import Flask
from simplejson import JSONDecodeError

from contracts import errors
from services.gateway.api.json_format import ExactJSONProvider
from services.gateway.errors import STATUSES, from_service, title_of
from services.gateway.people import users


def _all_of(family: type[Exception]) -> set[type[Exception]]:
    return {family}.union(*(_all_of(child) for child in family.__subclasses__()))


def test_every_error_of_the_contracts_has_a_status() -> None:
    assert {error.code for error in _all_of(errors.ServiceError)} <= set(STATUSES)  # type: ignore[attr-defined]


def test_every_error_of_the_accounts_has_a_status() -> None:
    raised = _all_of(users.AccountError) - {users.AccountError}

    assert {error.code for error in raised} <= set(STATUSES)  # type: ignore[attr-defined]


def test_a_changed_price_says_what_it_is_now() -> None:
    problem = from_service(errors.PriceChanged("The price changed.", "7500000"))

    assert (problem.status, problem.extra) == (409, {"unit_price_usd": Decimal("7.50")})


def test_the_page_of_a_wrong_field_names_it() -> None:
    problem = from_service(errors.BadRequest("lines.0.quantity: too many.", "lines.0.quantity"))

    assert title_of(problem) == "Check the quantity"


def test_a_services_own_mistake_keeps_its_details_to_itself() -> None:
    problem = from_service(errors.ServiceError("KeyError: 'password'"))

    assert problem.status == 502
    assert "password" not in problem.message


def test_an_unknown_outcome_tells_when_to_ask_again() -> None:
    assert from_service(errors.DeadlineExceeded("No answer.")).headers["Retry-After"] == "5"


def test_decimals_go_out_as_they_stand_and_come_in_exactly() -> None:
    json = ExactJSONProvider(Flask("test"))

    assert json.dumps({"balance": Decimal("25.00")}) == '{"balance": 25.00}'
    assert json.loads('{"amount": 0.1}') == {"amount": Decimal("0.1")}


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", '{"amount": NaN}'])
def test_what_is_no_number_in_json_is_refused(text: str) -> None:
    with pytest.raises(JSONDecodeError):
        ExactJSONProvider(Flask("test")).loads(text)
