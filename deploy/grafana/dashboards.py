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
    """A chart: its title, the unit of its axis, and its queries by their legends.

    ``bound`` is drawn as a line: what the plan wants, or where an alert begins to count.
    """

    title: str
    unit: str
    queries: Mapping[str, str]
    meaning: str = ""
    bound: float | None = None


def rate(metric: str, by: str = "", where: str = "") -> str:
    """How often a second."""
    summed = f"sum by ({by}) " if by else "sum"
    return f"{summed}(rate({metric}{{{where}}}{WINDOW}))"


def quantile(q: float, metric: str, by: str = "", where: str = "") -> str:
    """How long, at a quantile, by a histogram's buckets."""
    groups = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{{where}}}{WINDOW})))"


def seen(query: str) -> str:
    """Only what there is: of a service's many methods, events and queues most have none of it."""
    return f"{query} > 0"


def events(event: str) -> str:
    return rate("mycelium_events_committed_total", where=f'event="{event}"') + " * 60"


BUSINESS = (
    Panel(
        "The plan's success metrics, seven days",
        "percentunit",
        {
            "{{kpi}}": "max by (kpi) (mycelium_analytics_kpi_ratio)"
            " / max by (kpi) (mycelium_analytics_kpi_target_ratio)"
        },
        "Parts of what the plan wants.",
        bound=1,
    ),
    Panel(
        "Pages of wallet and marketplace, p95",
        "s",
        {
            "{{view}}": quantile(
                0.95,
                "mycelium_gateway_request_seconds",
                "view",
                'view=~"(wallet|marketplace)[.].+"',
            )
        },
        "The plan wants less than 0.5 s.",
        bound=0.5,
    ),
    Panel(
        "Balance checks and purchases, p95",
        "s",
        {
            "{{method}}": quantile(
                0.95,
                "mycelium_call_duration_seconds",
                "method",
                'method=~"get_wallets?|check_affordability|start_purchase"',
            )
        },
        "The plan wants less than 0.2 s.",
        bound=0.2,
    ),
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
        bound=600,
    ),
    Panel(
        "Card processor: p95 of its calls",
        "s",
        {
            "{{operation}}": seen(
                quantile(0.95, "mycelium_processor_call_duration_seconds", "operation")
            )
        },
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
        bound=900,
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
        bound=93_600,
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
        bound=1,
    ),
    Panel(
        "The slowest views, p95",
        "s",
        {"{{view}}": f"topk(5, {quantile(0.95, 'mycelium_gateway_request_seconds', 'view')})"},
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
    Panel(
        "Threads",
        "short",
        {
            "busy {{instance}}": "mycelium_gateway_threads_busy",
            "requests that wait {{instance}}": "mycelium_gateway_requests_waiting",
            "all there are": "max(mycelium_gateway_threads_limit)",
        },
    ),
    Panel(
        "Connections turned away a minute",
        "short",
        {
            "{{code}}": rate("mycelium_gateway_connections_turned_away_total", "code") + " * 60",
        },
    ),
)

WITH_WORK = ("billing", "topup", "legacy", "notifier")
"""What takes up work when it is due."""

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
    # Nobody calls the notifier.
    calls = _calls(own) if job in SERVICES else ()
    due = (_due(own),) if job in WITH_WORK else ()
    return (*calls, *_events(own), *_needs(own), *due, *OWN.get(job, ()))


def _due(own: str) -> Panel:
    return Panel("Due", "short", {"{{work}}": f"max by (work) (mycelium_work_due{{{own}}})"})


def _calls(own: str) -> tuple[Panel, ...]:
    return (
        Panel(
            "Calls a second",
            "reqps",
            {"{{method}}": seen(rate("mycelium_call_duration_seconds_count", "method", own))},
        ),
        Panel(
            "Errors a second",
            "reqps",
            {
                "{{method}} {{code}}": seen(
                    rate("mycelium_call_errors_total", "method, code", f'{own}, code!="not_found"')
                )
            },
            "Without not_found, by which readiness sees that it lives.",
        ),
        Panel(
            "Calls take, p95",
            "s",
            {"{{method}}": seen(quantile(0.95, "mycelium_call_duration_seconds", "method", own))},
        ),
    )


def _events(own: str) -> tuple[Panel, ...]:
    return (
        Panel(
            "Events handled a second",
            "reqps",
            {"{{event}}": seen(rate("mycelium_event_delay_seconds_count", "event", own))},
        ),
        Panel(
            "Events that failed a minute",
            "short",
            {"{{event}}": seen(rate("mycelium_event_failures_total", "event", own) + " * 60")},
        ),
        Panel(
            "Events come late, p95",
            "s",
            {"{{event}}": seen(quantile(0.95, "mycelium_event_delay_seconds", "event", own))},
            bound=60,
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
            bound=120,
        ),
        Panel(
            "Periodic work takes, p95",
            "s",
            {"{{timer}}": seen(quantile(0.95, "mycelium_timer_duration_seconds", "timer", own))},
        ),
        Panel("Memory", "bytes", {"{{instance}}": f"process_resident_memory_bytes{{{own}}}"}),
    )


BROKER = (
    Panel(
        "Messages that wait",
        "short",
        {"{{queue}}": seen("topk(10, max by (queue) (rabbitmq_detailed_queue_messages_ready))")},
    ),
    Panel(
        "Messages in hand",
        "short",
        {"{{queue}}": seen("topk(10, max by (queue) (rabbitmq_detailed_queue_messages_unacked))")},
    ),
    Panel(
        "Dead letters",
        "short",
        {
            "{{queue}}": seen(
                "max by (queue)"
                ' (rabbitmq_detailed_queue_messages_ready{queue=~".+[.]dead-letters"})'
            ),
            "new, {{origin}}": seen("sum by (origin) (increase(mycelium_dead_letters_total[1h]))"),
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
    Panel("Free disk", "bytes", {"{{instance}}": "rabbitmq_disk_space_available_bytes"}),
    Panel(
        "Outboxes",
        "s",
        {"{{job}}": "max by (job) (mycelium_outbox_oldest_unsent_seconds)"},
        bound=120,
    ),
)


def by_either(metric: str, times: str = "") -> str:
    """How often a second, as postgres_exporter tells it, or CloudNativePG by the same name."""
    ours = '{datname!~"template."}'
    rates = f"rate({metric}{ours}{WINDOW}) or rate(cnpg_{metric}{ours}{WINDOW})"
    return seen(f"sum by (datname) ({rates}){times}")


DATABASES = (
    Panel("Answers", "short", {"{{job}}": "min by (job) (mycelium_database_answers)"}),
    Panel(
        "Connections, by their limit",
        "percentunit",
        {
            "{{instance}}": "sum by (instance) (pg_stat_activity_count or cnpg_backends_total)"
            " / on (instance) (pg_settings_max_connections"
            ' or cnpg_pg_settings_setting{name="max_connections"})'
        },
        bound=0.9,
    ),
    Panel(
        "Connections",
        "short",
        {
            "{{datname}}": seen("sum by (datname) (pg_stat_activity_count or cnpg_backends_total)"),
            "idle in a transaction": 'sum(pg_stat_activity_count{state=~"idle in .+"}'
            ' or cnpg_backends_total{state=~"idle in .+"})',
        },
    ),
    Panel(
        "Transactions a second",
        "short",
        {"{{datname}}": by_either("pg_stat_database_xact_commit")},
    ),
    Panel(
        "Deadlocks a minute",
        "short",
        {"{{datname}}": by_either("pg_stat_database_deadlocks", " * 60")},
    ),
    Panel(
        "Size",
        "bytes",
        {
            "{{datname}}": 'max by (datname) (pg_database_size_bytes{datname!~"template."}'
            ' or cnpg_pg_database_size_bytes{datname!~"template."})'
        },
    ),
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
        "Free disk",
        "percentunit",
        {
            "{{instance}} {{mountpoint}}": "node_filesystem_avail_bytes"
            '{fstype!~"tmpfs|overlay|squashfs"} / node_filesystem_size_bytes',
            "{{persistentvolumeclaim}}": "kubelet_volume_stats_available_bytes"
            " / kubelet_volume_stats_capacity_bytes",
        },
        bound=0.1,
    ),
    Panel(
        "Since a base backup was made, one was restored",
        "s",
        {
            "made": "time() - max(mycelium_backup_last_success_timestamp_seconds"
            " or barman_cloud_cloudnative_pg_io_last_available_backup_timestamp)",
            "restored": "time() - max(mycelium_restore_last_success_timestamp_seconds"
            ' or kube_cronjob_status_last_successful_time{cronjob="restore-drill"})',
        },
    ),
    Panel(
        "The log's way to the backup",
        "short",
        {
            "received": 'max(pg_replication_slots_active{slot_name="mycelium_backup"})',
            "not archived yet, {{instance}}": 'cnpg_collector_pg_wal_archive_status{value="ready"}',
        },
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
            "fieldConfig": {"defaults": _axis(panel), "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend}
                for place, (legend, query) in enumerate(panel.queries.items())
            ],
        }


def _axis(panel: Panel) -> dict[str, Any]:
    axis: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.bound is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.bound}]
        axis["thresholds"] = {"mode": "absolute", "steps": steps}
        # In sight however small the values are.
        axis["custom"] = {"thresholdsStyle": {"mode": "dashed"}, "axisSoftMax": panel.bound}
    return axis


def main() -> None:
    directory = Path(sys.argv[1])
    for name in dashboards():
        (directory / f"{name}.json").write_text(written(name))


if __name__ == "__main__":
    main()
