"""Tries a restore on Kubernetes: the newest backup, in a cluster of its own, which goes again.

    python -m services.wallet.restore_drill postgres       0 where it came back right, else 1

CloudNativePG makes that cluster as it would in earnest, of what the one that runs says of itself,
with one server and without an archive. ``DATABASE_URL`` leads to it. Where this process is killed,
the cluster goes with its pod, which owns it, or at the beginning of the next drill.
"""

import http.client
import json
import os
import ssl
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from chassis.database import Connected, connect
from chassis.settings import service_settings
from services.wallet.verification import verify

Object = dict[str, Any]

SCRATCH = "postgres-drill"
"""Whoever may come to it is told by this name, and the rights of this process too:
deploy/kubernetes/manifests.py."""
API = "postgresql.cnpg.io/v1"
KEPT = ("imageName", "imageCatalogRef", "storage", "walStorage", "resources", "managed")
"""What the scratch cluster has of the one that runs."""
RESTORED_WITHIN_S = 5 * 3600
REMOVED_WITHIN_S = 600
ANSWERS_WITHIN_S = 120
"""Until a server that is ready is found by its name."""
_LOOKS_EVERY_S = 5.0
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class DrillFailed(Exception):
    """The backup did not come back, or not right; the sentence says what was seen."""


class Clusters:
    """CloudNativePG's clusters of a namespace, by the API of Kubernetes."""

    def __init__(self, connection: Callable[[], http.client.HTTPConnection], account: Path) -> None:
        """``account`` is where Kubernetes puts the namespace of a pod, and renews its token."""
        self._connection = connection
        self._token = account / "token"
        self._path = f"/apis/{API}/namespaces/{(account / 'namespace').read_text()}/clusters"

    def get(self, name: str) -> Object | None:
        """A cluster, or None where there is none of that name."""
        return self._ask("GET", f"{self._path}/{name}")

    def create(self, cluster: Object) -> None:
        self._ask("POST", self._path, cluster)

    def delete(self, name: str) -> None:
        """Begin to remove a cluster with its volumes; one that is not there is no error."""
        self._ask("DELETE", f"{self._path}/{name}")

    def _ask(self, method: str, path: str, body: Object | None = None) -> Object | None:
        headers = {
            "Authorization": f"Bearer {self._token.read_text()}",
            "Content-Type": "application/json",
        }
        connection = self._connection()
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status == HTTPStatus.NOT_FOUND and method != "POST":
            return None
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConnectionError(f"{method} {path}: {answer.status}")
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise DrillFailed(f"{method} {path}: {answer.status} {said.decode()[:500]}")
        found: Object = json.loads(said)
        return found


def scratch_of(running: Object, owner: Object | None) -> Object:
    """A cluster of one server that begins with the newest backup of another, and ends with
    ``owner``, a reference to whatever that is."""
    name, spec = running["metadata"]["name"], running["spec"]
    archivers = [each for each in spec.get("plugins", []) if each.get("isWALArchiver")]
    if not archivers:
        raise DrillFailed(f"{name} says no archive.")
    archive = {"name": archivers[0]["name"]}
    archive["parameters"] = {"serverName": name, **archivers[0].get("parameters", {})}
    postgresql = dict(spec.get("postgresql", {}))
    # There is no second server to wait for.
    postgresql.pop("synchronous", None)
    return {
        "apiVersion": API,
        "kind": "Cluster",
        "metadata": {"name": SCRATCH, "ownerReferences": [owner] if owner else []},
        "spec": {
            **{key: spec[key] for key in KEPT if key in spec},
            "instances": 1,
            "postgresql": postgresql,
            "bootstrap": {"recovery": {"source": "backup"}},
            "externalClusters": [{"name": "backup", "plugin": archive}],
        },
    }


def drill(clusters: Clusters, name: str, database: Connected, owner: Object | None = None) -> str:
    """Restore the newest backup of a cluster, verify it, and say what was in it.

    Raises :class:`DrillFailed` where it does not come back, or is not right. The scratch
    cluster is removed in any case."""
    running = clusters.get(name)
    if running is None:
        raise DrillFailed(f"There is no cluster {name}.")
    _remove(clusters)
    try:
        clusters.create(scratch_of(running, owner))
        _eventually(lambda: _is_ready(clusters), RESTORED_WITHIN_S, "was not restored")
        _eventually(
            lambda: _answers(database), ANSWERS_WITHIN_S, "was restored, and did not answer"
        )
        found = verify(database)
    finally:
        _let_go(clusters)
    if found.first_difference:
        raise DrillFailed(f"It was restored, and is wrong: {found.first_difference}")
    return (
        f"Restored without a difference: {found.account_count} accounts,"
        f" {found.entry_count} entries."
    )


def _remove(clusters: Clusters) -> None:
    clusters.delete(SCRATCH)
    _eventually(lambda: clusters.get(SCRATCH) is None, REMOVED_WITHIN_S, "of before is still there")


def _let_go(clusters: Clusters) -> None:
    """Removes it also where Kubernetes does not answer for a while: the pod that owns it is kept
    for as long as its job. What the drill found counts all the same."""

    def is_asked() -> bool:
        clusters.delete(SCRATCH)
        return True

    try:
        _eventually(is_asked, REMOVED_WITHIN_S, "could not be removed")
    except DrillFailed as error:
        print(error, file=sys.stderr)


def _is_ready(clusters: Clusters) -> bool:
    cluster = clusters.get(SCRATCH) or {}
    return bool(cluster.get("status", {}).get("readyInstances"))


def _answers(database: Connected) -> bool:
    try:
        database.engine.connect().close()
    except SQLAlchemyError:
        return False
    return True


def _eventually(condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
    """Where Kubernetes does not answer for a while it is asked again."""
    until = time.monotonic() + within_s
    while not _is_so(condition):
        if time.monotonic() > until:
            raise DrillFailed(f"{SCRATCH} {otherwise} within {within_s:.0f} seconds.")
        time.sleep(_LOOKS_EVERY_S)


def _is_so(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except OSError:
        return False


def main() -> int:
    """0 where a backup came back right; else 1, and a sentence."""
    parser = ArgumentParser(prog="python -m services.wallet.restore_drill")
    parser.add_argument("cluster", help="the one whose backup is restored")
    name = parser.parse_args().cluster
    asked = os.environ
    context = ssl.create_default_context(cafile=_ACCOUNT / "ca.crt")

    def connection() -> http.client.HTTPConnection:
        host, port = asked["KUBERNETES_SERVICE_HOST"], int(asked["KUBERNETES_SERVICE_PORT"])
        return http.client.HTTPSConnection(host, port, timeout=30, context=context)

    clusters = Clusters(connection, _ACCOUNT)
    pod = {"apiVersion": "v1", "kind": "Pod", "name": asked["POD_NAME"], "uid": asked["POD_UID"]}
    try:
        print(drill(clusters, name, connect(service_settings().database_url, pool_size=1), pod))
    except (DrillFailed, SQLAlchemyError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
