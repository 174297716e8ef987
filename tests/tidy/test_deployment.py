"""docker-compose.yml and its Dockerfiles: what is built once, pinned, and bounded."""

import os
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts import operating
from deploy import parts
from deploy.definitions import LOGINS
from services.analytics.settings import AnalyticsSettings
from services.billing.settings import BillingSettings
from services.catalog.settings import CatalogSettings
from services.gateway.settings import GatewaySettings, NotifierSettings
from services.legacy.settings import LegacySettings
from services.topup.settings import TopupSettings
from services.wallet.settings import WalletSettings
from tests.patience import START_PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
EXACT = re.compile(r"[\w./-]+:\d+\.\d+(\.\d+)?[\w.-]*")
DOCKERFILES = ("services/Dockerfile", "deploy/stripe_sandbox/Dockerfile")


@cache
def composed() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


SERVICES = sorted(composed()["services"])


def service(name: str) -> dict[str, Any]:
    return composed()["services"][name]


def base_of(dockerfile: str) -> str:
    return re.findall(r"^FROM (\S+)$", (ROOT / dockerfile).read_text(), re.MULTILINE)[0]


def words(file: str, pattern: str) -> set[str]:
    """The words of the one place in a file that the pattern finds."""
    [place] = re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)
    return set(place.split())


NAMED = {
    "LOGINS of deploy/definitions.py": ({login.name for login in LOGINS}, parts.LOGINS),
    "SERVICES of contracts/operating.py": (operating.SERVICES, parts.LISTENERS),
    "passwords of docker-compose.yml": (
        {
            name.removesuffix("_AMQP_PASSWORD").lower()
            for name in service("broker-access")["environment"]
            if name.endswith("_AMQP_PASSWORD")
        },
        parts.LOGINS,
    ),
    "settings of traces of docker-compose.yml": (
        {name for name in service("gateway")["environment"] if name.startswith("OTEL_")},
        set(re.findall(r"OTEL_[A-Z_]+", (ROOT / "docs" / "monitoring.md").read_text())),
    ),
    "migrations of docker-compose.yml": (
        {name.removesuffix("-migrate") for name in SERVICES if name.endswith("-migrate")},
        parts.DATABASES,
    ),
    "processes of docker-compose.yml": (
        {name for name in SERVICES if name in parts.PROCESSES},
        parts.PROCESSES,
    ),
    "databases of deploy/compose/create-databases.sh": (
        words("deploy/compose/create-databases.sh", "^for service in (.*?);"),
        parts.DATABASES,
    ),
    "databases of deploy/backup/backup.sh": (
        words("deploy/backup/backup.sh", r"BACKUP_EXPECTS:-(.*?)\}"),
        parts.DATABASES,
    ),
    # Patroni drops a slot that it does not know, and with it the log that the backup still needs.
    "slots of deploy/patroni/patroni.yml": (
        words("deploy/patroni/patroni.yml", r"^    slots:\n      (\w+):"),
        words("deploy/backup/backup.sh", r"^SLOT=(\w+)"),
    ),
    "locks of the Makefile": (
        {
            word.removeprefix("services/")
            for word in words("Makefile", r"^PARTS := (.*?)\n\n")
            if word.startswith("services/")
        },
        parts.DATABASES,
    ),
}


@pytest.mark.parametrize("place", NAMED)
def test_whatever_names_the_parts_names_all_of_them(place: str) -> None:
    found, wanted = NAMED[place]

    assert sorted(found) == sorted(wanted)


def test_each_image_of_ours_is_built_in_one_place() -> None:
    built = Counter(service(name)["image"] for name in SERVICES if "build" in service(name))
    used = {
        service(name)["image"] for name in SERVICES if service(name)["image"][:9] == "mycelium-"
    }

    assert built == dict.fromkeys(used, 1)


def test_the_images_of_others_have_an_exact_version() -> None:
    theirs = {service(name)["image"] for name in SERVICES} | set(map(base_of, DOCKERFILES))

    assert [
        image
        for image in theirs
        if not image.startswith("mycelium-") and not EXACT.fullmatch(image)
    ] == []


def test_all_of_our_python_is_one_version() -> None:
    assert {base_of(each) for each in DOCKERFILES} == {service("broker-access")["image"]}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_writes_to_its_volumes_only_and_has_a_bound_on_all_it_uses(name: str) -> None:
    container = service(name)

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["mem_limit"]
    assert set(container["logging"]["options"]) == {"max-size", "max-file"}
    assert container["restart"] in ("unless-stopped", "no")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"broker-access"}))
def test_no_container_runs_as_root(name: str) -> None:
    container = service(name)
    ours = container["image"].startswith("mycelium-")

    assert ours or container["user"] not in ("root", "0")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_no_image_of_ours_runs_as_root(dockerfile: str) -> None:
    assert re.findall(r"^USER (\S+)$", (ROOT / dockerfile).read_text(), re.MULTILINE) == [
        "mycelium"
    ]


def test_a_container_that_starts_slowly_is_not_given_up() -> None:
    """On a machine that starts all of them at once, and has other work. Compose starts nothing that
    depends on one that it has given up; who is well earlier counts as well at once."""
    checks = [each["healthcheck"] for each in map(service, SERVICES) if "healthcheck" in each]
    told = [check.get("start_period") for check in checks]
    for each in DOCKERFILES:
        told += re.findall(r"--start-period=(\S+)", (ROOT / each).read_text())

    assert (bool(checks), set(told)) == (True, {f"{START_PATIENCE_S:.0f}s"})


READERS = {
    "wallet": WalletSettings,
    "catalog": CatalogSettings,
    "billing": BillingSettings,
    "topup": TopupSettings,
    "legacy": LegacySettings,
    "analytics": AnalyticsSettings,
    "gateway": GatewaySettings,
    "notifier": NotifierSettings,
}


IN_THE_RUNNER = set(re.findall(r"\$\{(\w+)", (ROOT / "chassis/nameko.yaml").read_text()))
"""What `nameko run` reads."""
IN_THE_IMAGE = set(re.findall(r"(\w+)=", (ROOT / "services/Dockerfile").read_text()))


@cache
def documented() -> set[str]:
    """The settings of all tables in docs/operations.md."""
    rows = re.findall(r"^\|.*", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    return set(re.findall(r"`([A-Z][A-Z_]+)`", "\n".join(rows)))


@pytest.mark.parametrize("name", READERS)
def test_whatever_setting_is_documented_reaches_the_containers_that_read_it(name: str) -> None:
    read = {field.upper() for field in READERS[name].model_fields}
    runner = IN_THE_RUNNER - ({"MAX_WORKERS"} if name == "gateway" else set())
    wanted = documented() & (read | runner) - IN_THE_IMAGE

    assert len(wanted) > 10
    assert wanted - set(service(name)["environment"]) == set()


@pytest.mark.parametrize("name", READERS)
def test_a_process_is_given_no_setting_that_it_does_not_read(name: str) -> None:
    """Among them are secrets. What several promise buyers, and traces, they have in one list."""
    read = {field.upper() for field in READERS[name].model_fields}
    shared = {*composed()["x-terms"], *composed()["x-traces"]}

    assert set(service(name)["environment"]) - read - shared - IN_THE_RUNNER == set()


DOCKER = """#!/bin/sh
echo "$*" >>"$0.calls"
case "$*" in
*"$FAILS"*) exit 1 ;;
*" ps -q "*) echo "old-$4"; echo "older-$4" ;;
esac
"""
"""An engine that runs two of each."""


def rolled(place: Path, *way: str, fails: str = "none") -> tuple[int, list[str]]:
    """How the script ends there, and what it asked the engine for."""
    docker = place / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "deploy/compose/rolled.sh"), *way],
        env={"PATH": f"{place}:{os.environ['PATH']}", "FAILS": fails},
        check=False,
        timeout=30,
    )
    return done.returncode, (place / "docker.calls").read_text().splitlines()


@pytest.mark.parametrize("way", [[], ["back"]], ids=["to the next", "back"])
def test_containers_are_replaced_part_by_part_whoever_is_called_first(
    tmp_path: Path, way: list[str]
) -> None:
    code, calls = rolled(tmp_path, *way)

    allowed = [
        "compose run --rm --no-deps broker-access",
        "compose exec -T rabbitmq rabbitmqctl import_definitions /definitions/definitions.json",
    ]
    migrated = [f"compose run --rm --no-deps {name}-migrate" for name in parts.DATABASES]
    replaced = [
        [f"compose ps -q {name}",
         f"compose up -d --wait --no-deps --no-recreate --scale {name}=4 {name}",
         f"stop old-{name} older-{name}",
         f"rm old-{name} older-{name}"]
        for name in parts.UPGRADED
    ]  # fmt: skip
    steps = [*replaced[::-1], allowed] if way else [allowed, migrated, *replaced]
    assert (code, calls) == (0, ["compose build", *(call for step in steps for call in step)])


@pytest.mark.parametrize(
    "fails", ["billing-migrate", "--wait --no-deps --no-recreate --scale billing"]
)
def test_where_something_fails_no_container_is_stopped_that_has_no_other_beside_it(
    tmp_path: Path, fails: str
) -> None:
    code, calls = rolled(tmp_path, fails=fails)

    assert code != 0
    assert fails in calls[-1]


def test_whoever_is_called_is_upgraded_before_whoever_calls() -> None:
    place = parts.UPGRADED.index
    too_late = [
        (login.name, call)
        for login in LOGINS
        for call in login.calls
        if place(call.split(".")[0]) >= place(login.name)
    ]

    assert sorted(parts.UPGRADED) == sorted(parts.LOGINS)
    assert too_late == []
