"""The weekly restore on Kubernetes, whose API is a small server here; the database is real."""

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.kubernetes.manifests import databases as manifests
from deploy.local.postgres import Postgres
from services.wallet import restore_drill
from services.wallet.restore_drill import SCRATCH, Clusters, DrillFailed, drill, scratch_of
from tests.patience import PATIENCE_S
from tests.wallet.conftest import USD, Ledger, fresh_ledger
from tests.wallet.test_verification import damage

Object = dict[str, Any]

OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "restore-drill-1", "uid": "u"}
RUNNING = next(each for each in manifests() if each["kind"] == "Cluster")


class Kubernetes:
    """Keeps clusters by their names. One that was made is ready the third time it is looked at,
    and one that is deleted is gone the second time."""

    def __init__(self) -> None:
        self.clusters: dict[str, Object] = {"postgres": RUNNING}
        self.asked: list[str] = []
        self.is_away = 0
        self.lost_deletes = 0
        self.never_ready = False
        self._looks = 0
        self._going: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or "null")
                assert self.headers["Authorization"] == "Bearer secret"
                status, said = outer.answer(self.command, self.path, body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - as the library calls them

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, body: Object | None) -> tuple[int, Object]:
        self.asked.append(method)
        assert path.startswith("/apis/postgresql.cnpg.io/v1/namespaces/mycelium/clusters")
        name = path.partition("/clusters/")[2]
        if self.is_away and (method, name) == ("GET", SCRATCH):
            self.is_away -= 1
            return 503, {}
        if self.lost_deletes and method == "DELETE" and name in self.clusters:
            self.lost_deletes -= 1
            return 503, {}
        if method == "POST":
            assert body is not None
            if body["metadata"]["name"] in self.clusters:
                return 409, {"reason": "AlreadyExists"}
            self.clusters[body["metadata"]["name"]] = body
            self._looks = 0
            return 201, body
        if name not in self.clusters:
            return 404, {"reason": "NotFound"}
        if method == "DELETE":
            self._going.add(name)
            return 200, {}
        found = self.clusters[name]
        if name in self._going:
            self._going.remove(name)
            return 200, self.clusters.pop(name)
        self._looks += 1
        ready = int(self._looks >= 3 and not self.never_ready)
        return 200, {**found, "status": {"readyInstances": ready}}

    @property
    def left(self) -> set[str]:
        return set(self.clusters) - self._going - {"postgres"}


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    monkeypatch.setattr(restore_drill, "_LOOKS_EVERY_S", 0.01)
    made = Kubernetes()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def clusters(kubernetes: Kubernetes, tmp_path: Path) -> Clusters:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "namespace").write_text("mycelium")
    port = kubernetes.server.server_address[1]
    return Clusters(
        lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S), tmp_path
    )


@pytest.fixture(scope="module")
def ledger(postgres: Postgres) -> Iterator[Ledger]:
    with fresh_ledger(postgres) as book:
        book.user(10 * USD)
        yield book


def test_a_scratch_cluster_begins_with_the_backup_of_the_one_that_runs_and_archives_nowhere() -> (
    None
):
    scratch = scratch_of(RUNNING, OWNER)
    spec, running = scratch["spec"], RUNNING["spec"]

    assert (scratch["metadata"]["name"], spec["instances"]) == (SCRATCH, 1)
    assert scratch["metadata"]["ownerReferences"] == [OWNER]
    [backup] = spec["externalClusters"]
    assert spec["bootstrap"] == {"recovery": {"source": backup["name"]}}
    parameters = {"barmanObjectName": "backups", "serverName": "postgres"}
    assert backup["plugin"] == {"name": running["plugins"][0]["name"], "parameters": parameters}
    assert "plugins" not in spec
    assert "synchronous" not in spec["postgresql"]
    for kept in ("imageName", "storage", "walStorage", "managed"):
        assert spec[kept] == running[kept], kept


def test_a_backup_comes_back_right_and_its_cluster_is_removed(
    kubernetes: Kubernetes, clusters: Clusters, ledger: Ledger
) -> None:
    kubernetes.clusters[SCRATCH] = {"of": "a drill that was killed"}
    kubernetes.is_away = 3

    said = drill(clusters, "postgres", ledger.database, OWNER)

    assert "without a difference" in said
    assert kubernetes.left == set()
    assert kubernetes.asked.count("POST") == 1


def test_its_cluster_is_removed_also_where_kubernetes_does_not_answer_then(
    kubernetes: Kubernetes, clusters: Clusters, ledger: Ledger
) -> None:
    kubernetes.lost_deletes = 2

    said = drill(clusters, "postgres", ledger.database, OWNER)

    assert ("without a difference" in said, kubernetes.left) == (True, set())


def test_a_ledger_that_came_back_wrong_fails_the_drill_and_leaves_nothing(
    kubernetes: Kubernetes, clusters: Clusters, postgres: Postgres
) -> None:
    with fresh_ledger(postgres) as book:
        book.user(10 * USD)
        damage(book, "balances", "UPDATE balances SET balance_micros = balance_micros + 1")
        with pytest.raises(DrillFailed, match=r"is wrong: account .* balance"):
            drill(clusters, "postgres", book.database)

    assert kubernetes.left == set()


def test_what_is_not_restored_in_time_or_has_no_archive_is_said_and_leaves_nothing(
    kubernetes: Kubernetes, clusters: Clusters, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_drill, "RESTORED_WITHIN_S", 0.1)
    kubernetes.never_ready = True
    with pytest.raises(DrillFailed, match="was not restored within"):
        drill(clusters, "postgres", ledger.database)
    kubernetes.clusters["bare"] = {"metadata": {"name": "bare"}, "spec": {}}
    with pytest.raises(DrillFailed, match="bare says no archive"):
        drill(clusters, "bare", ledger.database)
    with pytest.raises(DrillFailed, match="no cluster none"):
        drill(clusters, "none", ledger.database)

    assert kubernetes.left == {"bare"}
