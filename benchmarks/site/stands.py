"""What is compared: each a website with its processes, on servers of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from sqlalchemy import make_url

from deploy.local.broker import VirtualHost, start_node
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from deploy.local.processes import ROOT
from deploy.local.startup import free_port, wait_for

HERE = Path(__file__).parent
READY_WITHIN_S = 60.0
# A process is known by a word of its command, in every commit.
WORDS = {
    "services.gateway.notifier": "notifier",
    "services.gateway": "gateway",
    "services.billing": "billing",
    "services.catalog": "catalog",
    "services.topup": "topup",
    "services.wallet": "wallet",
    "stripe_sandbox": "sandbox",
    "bin/postgres": "PostgreSQL",
    "rabbit": "RabbitMQ",
    "beam.smp": "RabbitMQ",
}


@dataclass
class Stand:
    """A website that answers. ``people`` says who may ask it, and for what."""

    title: str
    base_url: str
    processes: Mapping[str, int]
    people: dict[str, Any] = field(default_factory=dict)


class Product:
    """The product of a tree of files, in a process that ends with us."""

    def __init__(self, title: str, tree: Path, short_of_funds: int) -> None:
        self._title = title
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        self._process = subprocess.Popen(
            [tree / ".venv" / "bin" / "python", "-P", HERE / "product.py"],
            cwd=tree,
            env={
                **os.environ,
                "PYTHONPATH": str(tree),
                "SITE_SHORT_OF_FUNDS": str(short_of_funds),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ready(self) -> Stand:
        """Wait until it runs and its people are there."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                told = json.loads(line)
                return Stand(self._title, told.pop("base_url"), self._processes(), told)
        self._log.seek(0)
        raise AssertionError(f"{self._title} did not start: {self._log.read().decode()[-2000:]}")

    def stop(self) -> None:
        self._process.communicate()
        self._log.close()

    def _processes(self) -> dict[str, int]:
        found = {}
        for child in psutil.Process(self._process.pid).children():
            command = " ".join(child.cmdline())
            name = next((name for word, name in WORDS.items() if word in command), None)
            if name is not None:
                found[name] = child.pid
        assert set(found) >= set(WORDS.values()), f"{self._title} runs {sorted(found)} only"
        return found


def tree_of(commit: str) -> Path:
    """The files of an earlier commit with the packages that it names, kept for the next time."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, f"BASELINE={commit} is no commit of this repository"
    tree = Path(tempfile.gettempdir()) / f"mycelium-{found.stdout.strip()[:12]}"
    if not (tree / ".venv").exists():
        tree.mkdir(exist_ok=True)
        packed = subprocess.run(
            ["git", "archive", found.stdout.strip()], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x"], cwd=tree, input=packed.stdout, check=True)
    subprocess.run([tree / "deploy" / "local" / "install.sh", "test"], cwd=tree, check=True)
    return tree


class Peer:
    """A shop on stock nameko: nameko's own example, if ``SITE_PEER`` says where it is, else ours.

    It runs as its own documentation says, with the virtual environment in its ``.venv``.
    """

    PRODUCT = "vm-1"

    def __init__(self, examples: Path | None) -> None:
        self._examples = examples
        self._directory = Path(tempfile.mkdtemp(prefix="mycelium-peer-"))
        self._directory.chmod(0o711)
        self._children: dict[str, Child] = {}
        self._postgres: Postgres | None = None

    def ready(self) -> Stand:
        self._postgres = start_postgres(self._directory / "postgres")
        self._broker = start_node(self._directory / "rabbitmq")
        vhost = self._broker.vhost("peer")
        database_url = self._postgres.create_database("orders")
        port = free_port()
        if self._examples is None:
            self._run_stock_shop(vhost, database_url, port)
        else:
            self._run_examples(self._examples, vhost, database_url, port)
        base_url = f"http://127.0.0.1:{port}"
        assert wait_for(lambda: self._sells(base_url), READY_WITHIN_S), self._tails()
        (postgres,) = (child.pid for child in self._postgres.children)
        broker = next(child.pid for child in self._broker.children if child.name == "rabbitmq")
        pids = {name: child.pid for name, child in self._children.items()}
        pids |= {"PostgreSQL": postgres, "RabbitMQ": broker}
        title = "nameko-examples" if self._examples else "a stock nameko pair"
        people = {"order": self.order, "product": f"/products/{self.PRODUCT}"}
        return Stand(title, base_url, {name: pid for name, pid in pids.items() if pid}, people)

    def stop(self) -> None:
        for child in self._children.values():
            child.kill()
        self._broker.kill()
        if self._postgres is not None:
            self._postgres.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def order(self) -> str:
        line = {"product_id": self.PRODUCT, "price": "5.00", "quantity": 1}
        return json.dumps({"order_details": [line]})

    def _run_stock_shop(self, vhost: VirtualHost, database_url: str, port: int) -> None:
        config = {"AMQP_URI": vhost.admin_uri, "DATABASE_URL": database_url}
        nameko = [sys.executable, "-W", "ignore", "-m", "nameko", "run", "--config"]
        module = "benchmarks.site.stock_shop"
        for name in ("StockOrders", "StockFront"):
            path = self._config(name, {**config, "WEB_SERVER_ADDRESS": f"127.0.0.1:{port}"})
            self._run(name, [*nameko, path, f"{module}:{name}"], ROOT)

    def _run_examples(
        self, examples: Path, vhost: VirtualHost, database_url: str, port: int
    ) -> None:
        binaries, url = examples / ".venv" / "bin", make_url(database_url)
        redis = free_port()
        place = ["--dir", str(self._directory), "--save", "", "--appendonly", "no"]
        self._run("Redis", ["redis-server", "--port", str(redis), *place], self._directory)
        database = {
            "DB_USER": url.username or "",
            "DB_PASSWORD": url.password or "",
            "DB_HOST": url.host or "",
            "DB_PORT": str(url.port),
            "DB_NAME": url.database or "",
        }
        subprocess.run(
            [binaries / "alembic", "upgrade", "head"],
            cwd=examples / "orders",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": ".", **database},
            check=True,
        )
        config = {
            "AMQP_URI": vhost.admin_uri,
            "DB_URIS": {"orders:Base": database_url.replace("postgresql+psycopg2", "postgresql")},
            "REDIS_URI": f"redis://127.0.0.1:{redis}/11",
            "PRODUCT_IMAGE_ROOT": "http://www.example.com/airship/images",
            "WEB_SERVER_ADDRESS": f"127.0.0.1:{port}",
        }
        nameko = [str(binaries / "nameko"), "run", "--config"]
        for name in ("products", "orders", "gateway"):
            command = [*nameko, self._config(name, config), f"{name}.service"]
            self._run(name, command, examples / name)

    def _config(self, name: str, config: Mapping[str, object]) -> str:
        path = self._directory / f"{name}.yaml"
        path.write_text(json.dumps(config))
        return str(path)

    def _run(self, name: str, command: list[str], directory: Path) -> None:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(directory)}
        child = Child(
            name, command, environment, self._directory / f"{name}.log", directory=directory
        )
        child.start()
        self._children[name] = child

    def _sells(self, base_url: str) -> bool:
        """Whether an order comes through; nameko's example has no products of its own."""
        try:
            if self._examples is not None:
                product = {"id": self.PRODUCT, "title": "VM", "in_stock": 10**9}
                product |= {"passenger_capacity": 1, "maximum_speed": 1}
                requests.post(f"{base_url}/products", json=product, timeout=5)
            return requests.post(f"{base_url}/orders", data=self.order, timeout=5).ok
        except requests.RequestException:
            time.sleep(0.5)
            return False

    def _tails(self) -> str:
        return "\n".join(child.tail() for child in self._children.values())
