"""The parts of the product, named once: what in Python goes over all of them reads it here.

What is no Python names them too: docker-compose.yml, .env.example and the Makefile. A test holds
them against this.
"""

SERVICES = ("wallet", "catalog", "billing", "topup", "legacy", "analytics")
"""What answers calls: each is ``services/NAME/service.py``."""

LISTENERS = (*SERVICES, "notifier")
"""What nameko runs: it hears of events, and has dead letters."""

DATABASES = (*SERVICES, "gateway")
"""Whatever has a database, and its migrations in ``services/NAME``."""

LOGINS = (*DATABASES, "notifier")
"""Whatever comes to the broker, each with rights of its own (deploy/definitions.py)."""

PROCESSES = (*LISTENERS, "sandbox", "gateway")
"""What runs, in the order in which it is started."""

UPGRADED = (
    "wallet",
    "catalog",
    "topup",
    "billing",
    "legacy",
    "analytics",
    "notifier",
    "gateway",
)
"""The order in which a new version's processes come beside those of the one before: whoever is
called stands before whoever calls, so that no question is asked which nobody knows yet. The way
back is the other way round."""
