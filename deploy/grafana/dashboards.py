"""Writes the dashboards for Grafana from what stands here: a title, a unit, queries.

    python -m deploy.grafana.dashboards deploy/grafana

A dashboard is rows of three panels. Grafana is told where its data are when they are imported.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.parts import SERVICES

COLUMNS = 3
WIDTH, HEIGHT = 24 // COLUMNS, 8
WINDOW = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A chart: its title, the unit of its axis, and its queries by their legends."""

    title: str
    unit: str
    queries: Mapping[str, str]
    meaning: str = ""


def rate(metric: str, by: str = "", where: str = "") -> str:
    """How often a second."""
    summed = f"sum by ({by}) " if by else "sum"
    return f"{summed}(rate({metric}{{{where}}}{WINDOW}))"


def quantile(q: float, metric: str, by: str = "", where: str = "") -> str:
    """How long, at a quantile, by a histogram's buckets."""
    groups = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{{where}}}{WINDOW})))"


def events(event: str) -> str:
    return rate("mycelium_events_committed_total", where=f'event="{event}"') + " * 60"


BUSINESS = (
    Panel(
        "Purchases a minute",
        "short",
        {
            "completed": events("billing.purchase_completed"),
            "{{status}}": rate("mycelium_billing_purchases_unpaid_total", "status") + " * 60",
        },
        "Buy Now succeeds where completed is all there is.",
    ),
    Panel(
        "Purchases under way",
        "short",
        {"{{status}}": "max by (status) (mycelium_billing_purchases_waiting)"},
    ),
    Panel(
        "Top-ups a minute",
        "short",
        {"{{kind}} {{status}}": rate("mycelium_topup_moves_total", "kind, status") + " * 60"},
    ),
    Panel(
        "Why no automatic top-up, an hour",
        "short",
        {"{{code}}": "sum by (code) (increase(mycelium_topup_refusals_total[1h]))"},
    ),
    Panel(
        "Top-ups without an end",
        "short",
        {"{{status}}": "max by (status) (mycelium_topup_open)"},
    ),
    Panel(
        "Unknown, uncredited",
        "s",
        {
            "unknown": "max(mycelium_topup_oldest_unknown_seconds)",
            "not credited": "max(mycelium_topup_oldest_uncredited_seconds)",
        },
    ),
    Panel(
        "Card processor: p95 of its calls",
        "s",
        {"{{operation}}": quantile(0.95, "mycelium_processor_call_duration_seconds", "operation")},
    ),
    Panel(
        "Card processor: errors a minute",
        "short",
        {"{{error}}": rate("mycelium_processor_call_errors_total", "error") + " * 60"},
    ),
    Panel(
        "Months a minute",
        "short",
        {
            "renewed": events("billing.deployment_renewed"),
            "short of funds": events("billing.renewal_short_of_funds"),
        },
    ),
    Panel(
        "Overdue work",
        "s",
        {"{{job}} {{work}}": "max by (job, work) (mycelium_work_oldest_due_seconds)"},
    ),
    Panel(
        "Differences in the books",
        "short",
        {
            "differences": "max(mycelium_topup_reconciliation_differences)",
            "notices given up": "max(mycelium_topup_notices_given_up)",
        },
    ),
    Panel(
        "Since the books were compared, the ledger verified",
        "s",
        {
            "books": "max(mycelium_topup_reconciliation_age_seconds)",
            "credits": "max(mycelium_topup_credit_audit_age_seconds)",
            "ledger": "time() - max(mycelium_wallet_ledger_verified_timestamp_seconds)",
        },
    ),
)

WEBSITE = (
    Panel(
        "Requests a second",
        "reqps",
        {"{{status}}": rate("mycelium_gateway_requests_total", "status")},
    ),
    Panel(
        "How long they take",
        "s",
        {
            name: quantile(q, "mycelium_gateway_request_seconds")
            for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
    ),
    Panel(
        "The slowest views, p95",
        "s",
        {"{{view}}": f"topk(10, {quantile(0.95, 'mycelium_gateway_request_seconds', 'view')})"},
    ),
    Panel(
        "Answers of 500 and above a minute",
        "short",
        {
            "{{view}} {{status}}": rate("mycelium_gateway_request_failures_total", "view, status")
            + " * 60"
        },
    ),
    Panel(
        "Calls without an answer a minute",
        "short",
        {
            "{{called}}": rate("mycelium_calls_unanswered_total", "called", 'job="gateway"')
            + " * 60"
        },
    ),
)

OWN: Mapping[str, tuple[Panel, ...]] = {
    "wallet": (
        Panel(
            "Commands in a batch",
            "short",
            {
                "p50": quantile(0.5, "mycelium_wallet_batch_commands"),
                "p95": quantile(0.95, "mycelium_wallet_batch_commands"),
                "waiting": "sum(mycelium_wallet_commands_waiting)",
            },
        ),
        Panel(
            "A batch takes",
            "s",
            {
                "p50": quantile(0.5, "mycelium_wallet_batch_duration_seconds"),
                "p95": quantile(0.95, "mycelium_wallet_batch_duration_seconds"),
            },
        ),
        Panel(
            "Transactions without a link",
            "short",
            {
                "transactions": "max(mycelium_wallet_unsealed_transactions)",
                "held wallets": "sum(mycelium_wallet_held_wallets)",
            },
        ),
    ),
    "legacy": (
        Panel(
            "Pool orders under way",
            "short",
            {"orders": "max(mycelium_legacy_pool_orders_under_way)"},
        ),
    ),
    "analytics": (
        Panel(
            "Since an event was counted",
            "s",
            {"age": "max(mycelium_analytics_last_counted_seconds)"},
        ),
    ),
}


def of_service(job: str) -> tuple[Panel, ...]:
    """Rate, errors and duration of what a service does; what waits; what it needs."""
    own = f'job="{job}"'
    return (*_work(own), *_needs(own), *OWN.get(job, ()))


def _work(own: str) -> tuple[Panel, ...]:
    return (
        Panel(
            "Calls a second",
            "reqps",
            {"{{method}}": rate("mycelium_call_duration_seconds_count", "method", own)},
        ),
        Panel(
            "Errors a second",
            "reqps",
            {"{{method}} {{code}}": rate("mycelium_call_errors_total", "method, code", own)},
        ),
        Panel(
            "Calls take, p95",
            "s",
            {"{{method}}": quantile(0.95, "mycelium_call_duration_seconds", "method", own)},
        ),
        Panel(
            "Events handled a second",
            "reqps",
            {"{{event}}": rate("mycelium_event_delay_seconds_count", "event", own)},
        ),
        Panel(
            "Events that failed a minute",
            "short",
            {"{{event}}": rate("mycelium_event_failures_total", "event", own) + " * 60"},
        ),
        Panel(
            "Events come late, p95",
            "s",
            {"{{event}}": quantile(0.95, "mycelium_event_delay_seconds", "event", own)},
        ),
    )


def _needs(own: str) -> tuple[Panel, ...]:
    return (
        Panel(
            "In hand",
            "short",
            {
                "calls {{instance}}": f"mycelium_calls_in_hand{{{own}}}",
                "messages {{instance}}": f"mycelium_messages_in_hand{{{own}}}",
                "workers {{instance}}": f"mycelium_workers_busy{{{own}}}",
                "refused from": f"max(mycelium_calls_in_hand_limit{{{own}}})",
            },
        ),
        Panel(
            "Connections to the database",
            "short",
            {
                "write {{instance}}": f"mycelium_database_write_connections{{{own}}}",
                "read {{instance}}": f"mycelium_database_read_connections{{{own}}}",
                "limit": f"max(mycelium_database_write_connections_limit{{{own}}})",
            },
        ),
        Panel(
            "Waits to be published",
            "s",
            {"oldest": f"max(mycelium_outbox_oldest_unsent_seconds{{{own}}})"},
        ),
        Panel(
            "Periodic work takes, p95",
            "s",
            {"{{timer}}": quantile(0.95, "mycelium_timer_duration_seconds", "timer", own)},
        ),
        Panel("Due", "short", {"{{work}}": f"max by (work) (mycelium_work_due{{{own}}})"}),
        Panel("Memory", "bytes", {"{{instance}}": f"process_resident_memory_bytes{{{own}}}"}),
    )


BROKER = (
    Panel(
        "Messages that wait",
        "short",
        {"{{queue}}": "topk(10, max by (queue) (rabbitmq_detailed_queue_messages_ready))"},
    ),
    Panel(
        "Messages in hand",
        "short",
        {"{{queue}}": "topk(10, max by (queue) (rabbitmq_detailed_queue_messages_unacked))"},
    ),
    Panel(
        "Dead letters",
        "short",
        {
            "{{queue}}": "max by (queue)"
            ' (rabbitmq_detailed_queue_messages_ready{queue=~".+[.]dead-letters"})',
            "new, {{origin}}": "sum by (origin) (increase(mycelium_dead_letters_total[1h]))",
        },
    ),
    Panel(
        "Queues without a consumer",
        "short",
        {
            "{{queue}}": "max by (queue)"
            ' (rabbitmq_detailed_queue_consumers{queue=~"(rpc|evt)-.+"}) == 0'
        },
    ),
    Panel("Connections", "short", {"{{instance}}": "rabbitmq_connections"}),
    Panel(
        "Alarms",
        "short",
        {
            "memory": "max(rabbitmq_alarms_memory_used_watermark)",
            "disk": "max(rabbitmq_alarms_free_disk_space_watermark)",
        },
    ),
    Panel("Memory", "bytes", {"{{instance}}": "rabbitmq_process_resident_memory_bytes"}),
    Panel("Disk", "bytes", {"{{instance}}": "rabbitmq_disk_space_available_bytes"}),
    Panel(
        "Outboxes",
        "s",
        {"{{job}}": "max by (job) (mycelium_outbox_oldest_unsent_seconds)"},
    ),
)

DATABASES = (
    Panel("Answers", "short", {"{{job}}": "min by (job) (mycelium_database_answers)"}),
    Panel(
        "Connections, by their limit",
        "percentunit",
        {
            "{{instance}}": "sum by (instance) (pg_stat_activity_count)"
            " / on (instance) pg_settings_max_connections"
        },
    ),
    Panel(
        "Connections",
        "short",
        {"{{datname}} {{state}}": "sum by (datname, state) (pg_stat_activity_count)"},
    ),
    Panel(
        "Transactions a second",
        "short",
        {"{{datname}}": rate("pg_stat_database_xact_commit", "datname")},
    ),
    Panel(
        "Deadlocks a minute",
        "short",
        {"{{datname}}": rate("pg_stat_database_deadlocks", "datname") + " * 60"},
    ),
    Panel("Size", "bytes", {"{{datname}}": "max by (datname) (pg_database_size_bytes)"}),
    Panel(
        "Pools: writers in use",
        "short",
        {"{{job}}": "sum by (job) (mycelium_database_write_connections)"},
    ),
    Panel(
        "Pools: readers in use",
        "short",
        {"{{job}}": "sum by (job) (mycelium_database_read_connections)"},
    ),
    Panel(
        "Disk",
        "percentunit",
        {"{{instance}} {{mountpoint}}": "node_filesystem_avail_bytes / node_filesystem_size_bytes"},
    ),
)


def dashboards() -> dict[str, tuple[str, tuple[Panel, ...]]]:
    """Title and panels, by the name of the file."""
    services = {job: (f"Mycelium: {job}", of_service(job)) for job in (*SERVICES, "notifier")}
    return {
        "business": ("Mycelium: business", BUSINESS),
        "gateway": ("Mycelium: website", WEBSITE),
        **services,
        "broker": ("Mycelium: broker", BROKER),
        "databases": ("Mycelium: databases", DATABASES),
    }


def written(name: str) -> str:
    """A dashboard as Grafana reads it."""
    title, panels = dashboards()[name]
    content = {
        "uid": f"mycelium-{name}",
        "title": title,
        "tags": ["mycelium"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus"}]},
        "panels": list(_drawn(panels)),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _drawn(panels: Iterable[Panel]) -> Iterator[dict[str, Any]]:
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        yield {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "description": panel.meaning,
            "datasource": {"type": "prometheus", "uid": "${source}"},
            "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend}
                for place, (legend, query) in enumerate(panel.queries.items())
            ],
        }


def main() -> None:
    directory = Path(sys.argv[1])
    for name in dashboards():
        (directory / f"{name}.json").write_text(written(name))


if __name__ == "__main__":
    main()
