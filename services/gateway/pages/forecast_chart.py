"""The forecast as the dashboard shows it: a chart that needs no script, and its numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from chassis.money import MICROS_PER_USD
from contracts.billing import Forecast, ForecastDay, ForecastEvent, ForecastKind
from contracts.topup import AutoTopupStatus
from services.gateway.pages.charts import SIDE, Scale, grid_of, ticks_around

EVENTS_SHOWN_MAX = 4
EVENTS_ASKED = 20
"""Of each day: the others are counted. What is renewed comes before its usage."""

_MARKED = (ForecastKind.AUTO_TOPUP, ForecastKind.RENEWAL, ForecastKind.PROMOTION_END)
"""What is marked, the one that covers the others last."""

_NO_CHARGES = (ForecastKind.AUTO_TOPUP, ForecastKind.PROMOTION_END)


@dataclass(frozen=True)
class Mark:
    """Something that happens: a dot of its kind."""

    kind: ForecastKind
    x: int
    y: int


@dataclass(frozen=True)
class Row:
    """A day on which something changes, or the first or the last one; ``more`` is not named."""

    day: ForecastDay
    short_by_micros: int
    more: int


@dataclass(frozen=True)
class Chart:
    """Coordinates grow to the right and downwards. ``ticks`` are amounts, the highest first."""

    line: str
    area: str
    marks: list[Mark]
    ticks: list[int]
    dates: list[date]
    threshold_y: int | None
    short_x: int | None
    rows: list[Row]

    @property
    def grid(self) -> list[int]:
        """Where the ticks are."""
        return grid_of(self.ticks)

    def has(self, kind: str) -> bool:
        return any(mark.kind == kind for mark in self.marks)


def draw(forecast: Forecast, auto_topup: AutoTopupStatus | None) -> Chart:
    """The chart of a forecast, with the threshold of auto top-up where that is on."""
    is_on = auto_topup is not None and auto_topup.state == "active"
    threshold_micros = auto_topup.threshold_micros if auto_topup and is_on else None
    balances = [forecast.available_micros, *(day.balance_micros for day in forecast.days)]
    highest = max(threshold_micros or 0, MICROS_PER_USD, *balances)
    ticks = ticks_around(min(0, *balances), highest, MICROS_PER_USD)
    scale = Scale(ticks[-1], ticks[0], len(forecast.days))
    line = _steps(scale, forecast)
    short_on = forecast.short_on
    short = [number for number, day in enumerate(forecast.days) if day.date == short_on]
    return Chart(
        line=line,
        area=f"{line}V{SIDE}H0Z",
        marks=list(_marks(scale, forecast)),
        ticks=ticks,
        dates=[forecast.days[number].date for number in _thirds(len(forecast.days))],
        threshold_y=scale.y(threshold_micros) if threshold_micros is not None else None,
        short_x=scale.x(short[0]) if short else None,
        rows=_rows(forecast),
    )


def _thirds(count: int) -> Sequence[int]:
    return sorted({0, count // 2, count - 1})


def _steps(scale: Scale, forecast: Forecast) -> str:
    """A level line for each day, and a step where the balance changes."""
    path, before = f"M0 {scale.y(forecast.available_micros)}", forecast.available_micros
    for number, day in enumerate(forecast.days):
        if day.balance_micros != before:
            path += f"H{scale.x(number)}V{scale.y(day.balance_micros)}"
            before = day.balance_micros
    return f"{path}H{SIDE}"


def _marks(scale: Scale, forecast: Forecast) -> Iterable[Mark]:
    """Where the step is; on a day that has both the top-up at its upper end, and the end of
    promotional credit over the renewals. Usage is the slope between them, and has no mark."""
    before_micros = forecast.available_micros
    for number, day in enumerate(forecast.days):
        ends = sorted((before_micros, day.balance_micros))
        before_micros = day.balance_micros
        kinds = sorted({event.kind for event in day.events} & set(_MARKED), key=_MARKED.index)
        for kind in kinds:
            is_upper = kind is ForecastKind.AUTO_TOPUP
            micros = ends[is_upper] if len(kinds) > 1 else day.balance_micros
            yield Mark(kind, scale.x(number), scale.y(micros))


def _rows(forecast: Forecast) -> list[Row]:
    rows = []
    for number, day in enumerate(forecast.days):
        is_short = day.date == forecast.short_on
        if day.events or is_short or number in (0, len(forecast.days) - 1):
            events = _shown(day.events)
            shown = day.model_copy(update={"events": events})
            short_by_micros = forecast.short_by_micros if is_short else 0
            rows.append(Row(shown, short_by_micros, day.events_total - len(events)))
    return rows


def _shown(events: Sequence[ForecastEvent]) -> list[ForecastEvent]:
    """What is no charge is named however much is charged before it."""
    others = [each for each in events[EVENTS_SHOWN_MAX:] if each.kind in _NO_CHARGES]
    return [*events[:EVENTS_SHOWN_MAX], *others]
