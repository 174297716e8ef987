"""What a purchase sets off, asked in one call by those who buy at the same moment."""

from collections.abc import Callable, Sequence
from typing import Any

from chassis.together import ALONE, Alone, Together
from contracts.errors import NO_ANSWER
from contracts.topup import (
    QUESTIONS_MAX,
    ChargeForecast,
    ForecastCharges,
    ForecastChargesOfMany,
)

TURN_S = 0.1
"""So long those who come meanwhile wait for the question before theirs, and no longer."""


class ChargeForecasts:
    """Asks the top-up service. ``call`` makes a call, as long as the site waits for one."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self._call = call
        self._together = Together(self.find_all, self._find, turn_s=TURN_S)

    def find(self, question: ForecastCharges) -> ChargeForecast:
        """Raises what :class:`contracts.topup.ForecastCharges` does."""
        return self._together.do(question)

    def find_all(
        self, questions: Sequence[ForecastCharges]
    ) -> list[ChargeForecast | Exception | Alone]:
        """Whoever sets off a charge is asked about alone, as is who is by himself."""
        if len(questions) == 1 or len(questions) > QUESTIONS_MAX:
            return [ALONE] * len(questions)
        try:
            told = self._call(ForecastChargesOfMany(questions=list(questions)))
        except NO_ANSWER as error:
            return [error] * len(questions)
        return [forecast or ALONE for forecast in told.forecasts]

    def _find(self, question: ForecastCharges) -> ChargeForecast:
        found: ChargeForecast = self._call(question)
        return found
