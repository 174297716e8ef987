"""The points at which a process may die: which of them every run tries, and how a test dies."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from contracts.errors import ServiceError
from tests.patience import eventually


def points(each: Iterable[str], *always: str) -> list[Any]:
    """As the values of a parameter: these ``always``, the rest with ``make soak``.

    Always is where money has moved, and whoever asked for it does not know. A death costs ten
    seconds of start and patience.
    """
    return [
        point if point in always else pytest.param(point, marks=pytest.mark.soak) for point in each
    ]


def into_a_crash(order: Path, ask: Callable[[], object]) -> None:
    """Ask for what makes a process die at the point of ``order``, until it has: a question that a
    busy machine did not come to within its seconds is dropped unheard. They are few, so that nobody
    waits for the answer when the process is back."""

    def has_died() -> bool:
        with suppress(ServiceError):
            ask()
        return not order.exists()

    eventually(has_died)


class Died(BaseException):
    """A process ended here: nobody handles it."""


def dies_at(monkeypatch: pytest.MonkeyPatch, module: ModuleType, point: str) -> None:
    """Die when that point of the module is first passed."""
    passed: list[str] = []

    def crash_point(name: str) -> None:
        if name == point and not passed:
            passed.append(name)
            raise Died

    monkeypatch.setattr(module, "crash_point", crash_point)
