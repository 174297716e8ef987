"""What the old system's service reads from its environment, once, at start."""

import functools
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from chassis.settings import ServiceSettings, load_settings


class LegacySettings(ServiceSettings):
    """Beside what every service needs."""

    revertible_days: Annotated[int, Field(ge=1, le=365)] = 14
    """So long after somebody was moved it can be undone, while nothing of it was spent."""

    move_lease_s: Annotated[int, Field(ge=1, le=3_600)] = 90
    """What a killed run had in hand is taken up by the next one after so long; longer than the
    wallet may take for a batch."""

    @property
    def revertible(self) -> timedelta:
        return timedelta(days=self.revertible_days)


@functools.cache
def get_settings() -> LegacySettings:
    return load_settings(LegacySettings)
