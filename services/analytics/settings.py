"""What analytics reads from its environment, once, at start: what every service needs."""

import functools

from chassis.settings import ServiceSettings, load_settings


class AnalyticsSettings(ServiceSettings):
    """Nothing beside that."""


@functools.cache
def get_settings() -> AnalyticsSettings:
    return load_settings(AnalyticsSettings)
