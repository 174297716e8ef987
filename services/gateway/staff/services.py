"""Which services live, what waits in their queues, and the site's switches: for the page and the
API alike."""

from typing import NamedTuple

from chassis.clock import ahead
from contracts import operating
from contracts.operating import SERVICES, GetState, ServiceState
from services.gateway.backend import ask_each, settings


class Service(NamedTuple):
    """``state`` is None for one that does not answer."""

    name: str
    state: ServiceState | None

    @property
    def waiting(self) -> int:
        """Messages that wait to be handled, or to be tried again."""
        return sum(queue.waiting for queue in self.state.queues) if self.state else 0


def ask() -> list[Service]:
    """How each of them is now."""
    states = ask_each([operating.of(name, GetState)() for name in SERVICES])
    return [Service(*each) for each in zip(SERVICES, states, strict=True)]


def switches() -> dict[str, str]:
    """What the site was started with, by the name of the setting."""
    given = settings()
    return {
        "POOLS_PAGE": "on" if given.pools_page else "off",
        "SMTP_URL": "mails are sent" if given.smtp_url else "no mail is sent",
        "WEBHOOKS_TO_PRIVATE_ADDRESSES": "on" if given.webhooks_to_private_addresses else "off",
        "CLOCK_OFFSET_DAYS": str(ahead().days),
    }
