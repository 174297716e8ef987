"""The provisioner's settings."""

import functools
from typing import Annotated

from pydantic import Field

from chassis.settings import ServiceSettings, load_settings


class ProvisionerSettings(ServiceSettings):
    """Beside what every service needs: how much there is."""

    machines_max: Annotated[int, Field(ge=0, le=254)] = 254
    """How many machines there is room for, one for each address of 198.51.100.0/24."""


@functools.cache
def get_settings() -> ProvisionerSettings:
    return load_settings(ProvisionerSettings)
