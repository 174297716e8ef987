"""The catalog's settings: those of every service."""

import functools

from chassis.settings import ServiceSettings, load_settings


class CatalogSettings(ServiceSettings):
    """Nothing of its own yet."""


@functools.cache
def get_settings() -> CatalogSettings:
    return load_settings(CatalogSettings)
