"""Rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from deploy.parts import DATABASES

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ("mycelium_client", "mycelium_cli")
OURS = (
    *("chassis", "contracts", "services", "deploy", "clients", "tests", "benchmarks", "mutants"),
    *CLIENT,
)
FUNCTION_LINES_MAX = 60
MONEY_WORDS = re.compile(r"(micros|cents|usd|amount|balance|price|money)", re.IGNORECASE)
# Where a person's text or Stripe's cents become micro-dollars and back.
MONEY_MODULE = "chassis/money.py"
# The HTTP API reads and shows JSON numbers, which are exact only as Decimals.
# What the old program wrote has more digits than micro-dollars.
DECIMAL_EDGE = (MONEY_MODULE, "services/gateway/api/shapes.py", "services/legacy/")

LOCKS = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *ROOT.glob("requirements*.txt"),
        *ROOT.glob("services/*/requirements.txt"),
        *ROOT.glob("deploy/*/requirements.txt"),
        *ROOT.glob("clients/*/requirements.txt"),
        *ROOT.glob("benchmarks/requirements.txt"),
        *ROOT.glob("mutants/requirements.txt"),
    )
)


@cache
def tracked_files() -> list[str]:
    """Every file that is in the repository or would be added to it."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file())


def python_files(*folders: str) -> list[str]:
    return [
        name
        for name in tracked_files()
        if name.endswith(".py") and name.startswith(tuple(f"{folder}/" for folder in folders))
    ]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def imports(name: str) -> Iterator[str]:
    """The dotted names that a file imports; a relative one is made absolute."""
    package = Path(name).parent.parts
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, node.module or "")).strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def ours(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in OURS


def test_a_service_imports_no_other_service() -> None:
    strangers = [
        f"{name} imports {imported}"
        for name in python_files("services")
        for imported in imports(name)
        if imported.startswith("services.")
        and imported.split(".")[1] != Path(name).parts[1]
        and len(Path(name).parts) > 2
    ]

    assert strangers == []


@pytest.mark.parametrize(
    "service", ["wallet", "catalog", "billing", "topup", "legacy", "analytics", "gateway"]
)
def test_rooms_of_a_service_import_one_way(service: str) -> None:
    ways: dict[str, set[str]] = {}
    for name in python_files(f"services/{service}"):
        room, *file = Path(name).parts[2:]
        if file and room != "migrations":
            ways.setdefault(room, set())
            for imported in imports(name):
                inside = imported.split(".")[2:]
                if imported.startswith(f"services.{service}.") and inside[0] != room:
                    ways[room].add(inside[0])

    rooms = {room: ways[room] & set(ways) for room in ways}
    tuple(TopologicalSorter(rooms).static_order())  # raises CycleError and names the circle


def test_contracts_import_nothing_else_of_ours() -> None:
    strangers = [
        f"{name} imports {imported}"
        for name in python_files("contracts")
        for imported in imports(name)
        if ours(imported) and not imported.startswith("contracts")
    ]

    assert strangers == []


def test_the_chassis_knows_no_service() -> None:
    strangers = [
        f"{name} imports {imported}"
        for name in python_files("chassis")
        for imported in imports(name)
        if ours(imported) and imported.split(".")[0] not in ("chassis", "contracts")
    ]

    assert strangers == []


def test_a_service_imports_nothing_of_the_deployment() -> None:
    strangers = [
        f"{name} imports {imported}"
        for name in python_files("services", "chassis", "contracts")
        for imported in imports(name)
        if imported.split(".")[0] in ("deploy", "tests", "benchmarks", "mutants")
    ]

    assert strangers == []


def test_an_example_knows_the_contracts_and_the_chassis_alone() -> None:
    strangers = [
        f"{name} imports {imported}"
        for name in python_files("deploy/examples")
        for imported in imports(name)
        if ours(imported) and not imported.startswith(("chassis", "contracts", "deploy.examples"))
    ]

    assert strangers == []


def test_the_client_for_others_knows_the_contracts_alone() -> None:
    strangers = [
        f"{name} imports {imported}"
        for name in python_files("clients")
        for imported in imports(name)
        if ours(imported) and not imported.startswith(("contracts", *CLIENT))
    ]

    assert strangers == []


def test_decimal_stays_at_the_edge() -> None:
    users = [
        name
        for name in python_files("services", "contracts", "chassis")
        if not name.startswith(DECIMAL_EDGE)
        and any(used.split(".")[0] == "decimal" for used in imports(name))
    ]

    assert users == []


def test_no_float_comes_near_money() -> None:
    sightings = [
        f"{name}:{line}"
        for name in python_files("services", "contracts", "chassis", "clients")
        if name != MONEY_MODULE
        for line in float_money_lines(tree(name))
    ]

    assert sightings == []


def float_money_lines(module: ast.Module) -> Iterator[int]:
    """Lines that call float() on money, give money the type float, or divide it with ``/``."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "float":
            if any(speaks_of_money(argument) for argument in node.args):
                yield node.lineno
        elif isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node
            if "float" in ast.unparse(node.annotation) and speaks_of_money(target):
                yield node.lineno
        elif (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Div)
            and (speaks_of_money(node.left) or speaks_of_money(node.right))
        ):
            yield node.lineno


def speaks_of_money(node: ast.AST) -> bool:
    names = (
        getattr(part, "id", None) or getattr(part, "attr", None) or getattr(part, "arg", None)
        for part in ast.walk(node)
    )
    return any(isinstance(name, str) and MONEY_WORDS.search(name) for name in names)


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{name}:{node.lineno} {node.name} has {lines} lines"
        for name in python_files(*OURS)
        if "/migrations/" not in name  # a list of tables, which nobody changes later
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert long == []


def test_rows_are_locked_by_the_chassis_alone() -> None:
    """By itself SQLAlchemy keeps what it knew of a row that it locks: see chassis/locks.py."""
    bare = [
        f"{path}:{number}"
        for path in python_files("services", "chassis")
        if path != "chassis/locks.py"
        for number, line in enumerate((ROOT / path).read_text().splitlines(), start=1)
        if "with_for_update" in line
    ]

    assert bare == []


def test_files_are_named_for_nouns() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "common.py", "manager.py", "base.py", "misc.py"}

    assert [name for name in python_files(*OURS) if Path(name).name in vague] == []


# The paths are put together, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~}$])/(?:" + "|".join(("home", "root", "work", "Users")) + r")/[\w.-]+"
    r"|(?<![\w.}$])/" + "tmp" + r"/[\w.-]+"
)
REGISTRIES = re.compile(
    r"\b(?:py" + r"pi\.org|files\." + r"pythonhosted\.org|registry\." + r"npmjs\.org"
    r"|--(?:extra-)?index-" + r"url|--find-" + r"links|test\.py" + r"pi)\b"
)
# Files of others, kept as they are published.
FOREIGN = ("services/gateway/static/vendor/",)


def text_of(name: str) -> str:
    try:
        return (ROOT / name).read_text()
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize(
    ("what", "pattern"),
    [("a path of one machine", MACHINE_PATHS), ("a package registry", REGISTRIES)],
)
def test_no_file_names(what: str, pattern: re.Pattern[str]) -> None:
    found = [
        f"{name}:{number} names {what}: {match.group()}"
        for name in tracked_files()
        if not name.startswith(FOREIGN) and name != "tests/tidy/test_tidy.py"
        for number, line in enumerate(text_of(name).splitlines(), 1)
        if (match := pattern.search(line))
    ]

    assert found == []


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_a_version_and_hashes(lock: str) -> None:
    requirements = re.sub(r"\\\n", " ", (ROOT / lock).read_text()).splitlines()
    loose = [
        line.split()[0]
        for line in requirements
        if line.strip()
        and not line.startswith("#")
        and not re.match(r"^[\w.-]+(\[[\w,-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line)
    ]

    assert loose == []


@pytest.mark.parametrize("lock", LOCKS)
def test_all_locks_agree_on_versions(lock: str) -> None:
    root = dict(pins("requirements.txt"))

    assert {
        name: version for name, version in pins(lock) if root.get(name, version) != version
    } == {}


# What a part of the product runs on, and the lock that its container installs.
PARTS = {
    **{
        f"services/{name}": (f"services/{name}/requirements.txt", ("chassis", "contracts"))
        for name in DATABASES
    },
    "deploy/stripe_sandbox": ("deploy/stripe_sandbox/requirements.txt", ()),
    "clients/python": ("clients/python/requirements.txt", ("contracts",)),
    "deploy": ("requirements.txt", ("chassis", "contracts")),
    "tests": ("requirements-dev.txt", ()),
    "benchmarks": ("benchmarks/requirements.txt", ()),
    "mutants": ("mutants/requirements.txt", ()),
}


# Only `make bench` and `make mutants` install these, so that nothing here can tell what they
# belong to.
NOT_INSTALLED = {
    "django": ["django"],
    "hordak": ["django-hordak"],
    "moneyed": ["py-moneyed"],
    "cosmic_ray": ["cosmic-ray"],
    "parso": ["parso"],
}


PAPERS = "chassis/papers/"
"""Only who draws papers needs what draws them."""


@pytest.mark.parametrize("part", PARTS)
def test_every_import_is_locked(part: str) -> None:
    lock, beside = PARTS[part]
    locked = {name for name, _ in pins(lock)}
    if part in ("tests", "benchmarks", "mutants"):
        locked |= {name for name, _ in (*pins("requirements.txt"), *pins("requirements-dev.txt"))}
    distributions = {**NOT_INSTALLED, **packages_distributions()}
    draws = any("chassis.papers.drawing" in imports(name) for name in python_files(part))
    missing = {
        package
        for name in python_files(part, *beside)
        if not name.startswith(PAPERS) or draws
        for imported in imports(name)
        if (package := imported.split(".", maxsplit=1)[0])
        and package not in sys.stdlib_module_names
        and package not in OURS
        and not any(_normal(owner) in locked for owner in distributions.get(package, []))
    }

    assert missing == set()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> list[tuple[str, str]]:
    return re.findall(r"^([\w.-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)


def test_a_test_dies_at_every_point_at_which_a_process_may_die() -> None:
    points = {
        point
        for name in python_files("services")
        for point in re.findall(r'crash_point\("([^"]+)"\)', (ROOT / name).read_text())
    }
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))

    assert points
    assert sorted(point for point in points if f'"{point}"' not in tests) == []
