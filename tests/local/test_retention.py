"""What each service keeps for a time only goes when that is over, and what is young stays."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from uuid import uuid4

import pytest

from chassis.clock import utc_now
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from chassis.retention import Kept, forget, messages
from deploy.local.postgres import Postgres
from services.analytics.settings import AnalyticsSettings
from services.billing import retention as billing
from services.billing.settings import BillingSettings
from services.catalog import retention as catalog
from services.catalog.settings import CatalogSettings
from services.gateway import paths, rate_limits
from services.gateway import retention as gateway
from services.gateway.settings import NotifierSettings
from services.legacy.settings import LegacySettings
from services.topup import retention as topup
from services.topup.settings import TopupSettings
from services.wallet.settings import WalletSettings
from tests.aging import ages_left, is_served_by_an_index, put

PLACES = {"amqp_uri": "", "database_url": ""}
STRIPE = {"stripe_api_key": "sk_test_x", "stripe_webhook_secret": "whsec_of_the_tests"}
BY_SERVICE = {
    "wallet": messages(WalletSettings(**PLACES)),
    "billing": billing.kept(BillingSettings(**PLACES)),
    "catalog": catalog.kept(CatalogSettings(**PLACES)),
    "topup": topup.kept(TopupSettings(**PLACES, **STRIPE)),
    "legacy": messages(LegacySettings(**PLACES)),
    "analytics": messages(AnalyticsSettings(**PLACES)),
    "gateway": [
        *gateway.kept(NotifierSettings(**PLACES, secret_key="of the tests only")),
        rate_limits.KEPT,
    ],
}
RULES = [
    pytest.param(service, kept, id=f"{service}-{kept.table}.{kept.since}")
    for service, rules in BY_SERVICE.items()
    for kept in rules
]

SOMEBODY, SOME_HOOK, SOMETHING = new_id(), new_id(), new_id()
OF_SOMEBODY = ("user_sessions", "api_tokens", "mail_links", "cart_checkouts")

DatabaseOf = Callable[[str], Connected]


@pytest.fixture(scope="module")
def database_of(postgres: Postgres) -> Iterator[DatabaseOf]:
    """A database for each service that nobody else uses: the tests empty its tables."""
    opened: dict[str, Connected] = {}

    @cache
    def open_database(service: str) -> Connected:
        url = postgres.create_database(f"aging_{service}")
        migrate(f"services.{service}", url)
        opened[service] = connect(url)
        if service == "billing":
            put(opened[service], "purchases", purchase_id=SOMEBODY, status="failed")
            put(
                opened[service],
                "deployments",
                deployment_id=SOMETHING,
                purchase_id=SOMEBODY,
                status="active",
            )
        if service == "gateway":
            put(opened[service], "users", user_id=SOMEBODY)
            put(opened[service], "hooks", hook_id=SOME_HOOK, user_id=SOMEBODY)
        return opened[service]

    yield open_database
    for service, database in opened.items():
        database.engine.dispose()
        postgres.drop_database(f"aging_{service}")


@pytest.mark.parametrize(("service", "kept"), RULES)
def test_old_rows_go_and_young_ones_stay(database_of: DatabaseOf, service: str, kept: Kept) -> None:
    owner: dict[str, object] = {"user_id": SOMEBODY} if kept.table in OF_SOMEBODY else {}
    if kept is paths.EVENTS_KEPT:
        owner = {"type": "steps_taken"}
    if kept.table == "hook_deliveries":
        owner = {"hook_id": SOME_HOOK}
    if kept.table == "usage_records":
        owner = {"deployment_id": SOMETHING}
    if kept.table == "carts":
        # Those of users stay.
        owner = {"secret_sha256": lambda: uuid4().bytes}

    assert ages_left(database_of(service), kept, utc_now(), **owner) == ["young"]


@pytest.mark.parametrize(("service", "kept"), RULES)
def test_old_rows_are_found_without_reading_the_table(
    database_of: DatabaseOf, service: str, kept: Kept
) -> None:
    if kept is rate_limits.KEPT:
        pytest.skip("its table is small, and an index would cost every request")
    assert is_served_by_an_index(database_of(service), kept, utc_now())


@pytest.mark.parametrize(
    ("service", "table", "stays"),
    [
        ("topup", "triggers", {"trigger": "by_hand"}),
        ("topup", "triggers", {"due_at": utc_now()}),
        ("topup", "triggers", {"refusal_code": "idle"}),
        ("topup", "refusals", {"trigger": "by_hand"}),
        ("topup", "notices", {"processed_at": None}),
        ("topup", "cards", {"removed_at": None, "detached_at": None}),
        ("gateway", "api_tokens", {"revoked_at": None, "user_id": SOMEBODY}),
        ("gateway", "notifications", {"read_at": None}),
        ("wallet", "outbox", {"published_at": None}),
    ],
)
def test_what_is_still_needed_stays_whatever_its_age(
    database_of: DatabaseOf, service: str, table: str, stays: dict[str, object]
) -> None:
    kept = next(kept for kept in BY_SERVICE[service] if kept.table == table)

    assert "old" in ages_left(database_of(service), kept, utc_now(), **stays)


def test_a_record_of_usage_goes_after_its_corrections(database_of: DatabaseOf) -> None:
    database = database_of("billing")
    (kept,) = (one for one in BY_SERVICE["billing"] if one.table == "usage_records")
    forget(database, utc_now(), [kept])
    old = utc_now() - timedelta(days=kept.days + 1)
    record = {"deployment_id": SOMETHING, "recorded_at": old}
    put(database, "usage_records", record_id="first", **record)
    put(database, "usage_records", record_id="correction", corrects="first", quantity=-1, **record)

    gone = [forget(database, utc_now(), [kept]) for _ in range(3)]

    assert gone == [{"usage_records": count} for count in (1, 1, 0)]
