"""What the sandbox reads from its environment, once, at start."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of one sandbox; every name is prefixed with `SANDBOX_` in the environment."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 12111
    webhook_url: str = ""
    """Where events are sent; empty: they are recorded and sent nowhere."""
    webhook_secret: str = "whsec_sandbox_secret"  # noqa: S105  (it protects nothing)
    webhook_retry_s: Annotated[float, Field(gt=0)] = 0.5
    """The wait before the second attempt; it doubles from then on."""
    later_s: Annotated[int, Field(ge=0)] = 2
    """The time until what happens by itself: a capture, a refund's end, a bank's decision."""
    data: str = ""
    """A sqlite file or a directory for one; empty: everything is forgotten at the end."""
    clock_offset_days: Annotated[int, Field(ge=0, le=3_650)] = 0
    """How many days ahead of the world it lives, with whoever uses it."""
    public_url: str = ""
    """The address that a browser sees; empty: http://<host>:<port>."""

    @property
    def base_url(self) -> str:
        """The address of the hosted pages, without a slash at the end."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")
