"""What purchases of the same moment set off is asked in one call, and each gets its own answer."""

from typing import Any
from uuid import uuid4

import pytest

from chassis.together import ALONE
from contracts.errors import DeadlineExceeded, Overloaded, ServiceError, Unavailable
from contracts.topup import ChargeForecast, ForecastCharges, ForecastChargesOfMany
from contracts.topup import ChargeForecasts as Told
from services.gateway.charge_forecasts import ChargeForecasts


class Topup:
    """Answers with what each has to spend; whoever spends nothing is one for a question alone."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.asked: list[Any] = []
        self.fails = fails

    def call(self, question: Any) -> Any:
        self.asked.append(question)
        if self.fails is not None:
            raise self.fails
        if isinstance(question, ForecastChargesOfMany):
            return Told(
                forecasts=[
                    forecast(each) if each.spend_micros else None for each in question.questions
                ]
            )
        return forecast(question)


def forecast(question: ForecastCharges) -> ChargeForecast:
    return ChargeForecast(charges=[], balance_after_micros=question.spend_micros)


def question(spend_micros: int) -> ForecastCharges:
    return ForecastCharges(user_id=uuid4(), spend_micros=spend_micros)


def test_several_are_asked_about_at_once_and_who_sets_off_a_charge_alone() -> None:
    topup = Topup()
    asked = [question(1), question(0), question(2)]

    found = ChargeForecasts(topup.call).find_all(asked)

    assert found == [forecast(asked[0]), ALONE, forecast(asked[2])]
    assert topup.asked == [ForecastChargesOfMany(questions=asked)]


def test_who_is_by_himself_asks_as_always() -> None:
    topup = Topup()
    asked = question(1)

    assert ChargeForecasts(topup.call).find(asked) == forecast(asked)
    assert topup.asked == [asked]


@pytest.mark.parametrize("error", [Unavailable(""), DeadlineExceeded(""), Overloaded("")])
def test_a_service_that_does_not_answer_is_asked_once_for_all(error: Exception) -> None:
    topup = Topup(error)

    assert ChargeForecasts(topup.call).find_all([question(1), question(2)]) == [error, error]
    assert len(topup.asked) == 1


def test_where_the_call_for_several_is_not_known_each_asks_for_itself() -> None:
    topup = Topup(ServiceError("gateway may not call topup.forecast_charges_of_many."))

    with pytest.raises(ServiceError):
        ChargeForecasts(topup.call).find_all([question(1), question(2)])
