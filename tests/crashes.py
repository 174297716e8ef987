"""The points at which a process may die: which of them every run tries, and how a test dies."""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pytest


def points(each: Iterable[str], *always: str) -> list[Any]:
    """As the values of a parameter: these ``always``, the rest with ``make soak``.

    Always is where money has moved, and whoever asked for it does not know. A death costs ten
    seconds of start and patience.
    """
    return [
        point if point in always else pytest.param(point, marks=pytest.mark.soak) for point in each
    ]


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
