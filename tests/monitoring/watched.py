"""A Prometheus that watches the whole product, as it would watch that of docker-compose.yml."""

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
import yaml
from sqlalchemy import make_url

from deploy.local.broker import Node
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from deploy.local.startup import free_port
from tests.patience import START_PATIENCE_S, eventually
from tests.system import System, is_ready

DEPLOYED = ROOT / "deploy/prometheus"
SCRAPED_EVERY_S = 5
EXPORTERS = {
    "postgres_exporter": "prometheus-postgres-exporter",
    "node_exporter": "prometheus-node-exporter",
}
"""What Debian calls them."""


class WatchedNode(Node):
    """A broker that tells of itself."""

    def __init__(self, data_dir: Path, port: int) -> None:
        super().__init__(data_dir, port)
        self.metrics_port = free_port()

    def _write_configuration(self) -> None:
        super()._write_configuration()
        (self._directory / "enabled_plugins").write_text("[rabbitmq_prometheus].\n")
        (self._directory / "rabbitmq.conf").write_text(
            f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {self.metrics_port}\n"
        )


class Watcher:
    """Prometheus itself with the rules of deploy/prometheus, and the exporters of others that this
    machine has."""

    def __init__(self, directory: Path, system: System, node: WatchedNode, postgres: Postgres):
        self._directory = directory
        self.exporters = {
            name: free_port() for name, program in EXPORTERS.items() if shutil.which(program)
        }
        self._url = f"http://127.0.0.1:{free_port()}"
        configuration = directory / "prometheus.yml"
        configuration.write_text(yaml.safe_dump(self._configuration(system, node)))
        superuser = make_url(postgres.admin_url).set(
            drivername="postgresql", query={"sslmode": "disable"}
        )
        environment = {"DATA_SOURCE_NAME": superuser.render_as_string(hide_password=False)}
        self._children = [
            self._child(
                "prometheus",
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'samples'}",
                f"--web.listen-address={self._url.removeprefix('http://')}",
            ),
            *(
                self._child(
                    name, EXPORTERS[name], f"--web.listen-address=127.0.0.1:{port}", **environment
                )
                for name, port in self.exporters.items()
            ),
        ]

    def start(self) -> None:
        for child in self._children:
            child.start()
        eventually(lambda: is_ready(f"{self._url}/-/ready"), within_s=START_PATIENCE_S)

    def stop(self) -> None:
        for child in self._children:
            child.stop()

    def answers(self, query: str, moments: range) -> Iterator[tuple[dict[str, str], list[float]]]:
        """The series that a query has: labels, and a value for each moment, which may be none."""
        answer = requests.get(
            f"{self._url}/api/v1/query_range",
            params={"query": query, "start": moments[0], "end": moments[-1], "step": moments.step},
            timeout=60,
        )
        assert answer.ok, f"{query}: {answer.text}"
        for each in answer.json()["data"]["result"]:
            values = {int(at): float(value) for at, value in each["values"]}
            yield each["metric"], [values.get(at, math.nan) for at in moments]

    def _configuration(self, system: System, node: WatchedNode) -> dict[str, Any]:
        configured: dict[str, Any] = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
        configured["global"] = {
            "scrape_interval": f"{SCRAPED_EVERY_S}s",
            "evaluation_interval": f"{SCRAPED_EVERY_S}s",
        }
        configured["rule_files"] = [str(DEPLOYED / "alerts.yml")]
        for job in configured["scrape_configs"]:
            name = job["job_name"]
            if job.pop("dns_sd_configs", None):
                address = system.process(name).ready_url.split("/")[2]
            else:
                address = f"127.0.0.1:{node.metrics_port}"
            job["static_configs"] = [{"targets": [address]}]
            if "params" in job:
                job["params"]["vhost"] = [system.vhost.name]
        configured["scrape_configs"] += [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for name, port in self.exporters.items()
        ]
        return configured

    def _child(self, name: str, *command: str, **environment: str) -> Child:
        found: Mapping[str, str] = {"PATH": os.environ["PATH"], **environment}
        return Child(name, command, found, self._directory / f"{name}.log")
