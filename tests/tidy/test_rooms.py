"""Who imports whom: no circle anywhere, and the rooms of a folder import one way.

A room is a folder with Python files beside others. An import inside a function, or one for its
types alone, is an import: a circle through it is no smaller, only better hidden.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePath

from tests.tidy.test_tidy import OURS, python_files, tree

Imports = Mapping[str, set[str]]
"""Module → the modules that it imports, dotted names of our own files."""


def module(name: str) -> str:
    """The dotted name under which a file is imported."""
    parts = PurePath(name.removeprefix("clients/python/")).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> Imports:
    files = {module(name): name for name in python_files(*OURS)}
    return {
        importer: set(imported_by(name, tree(name), set(files))) - {importer}
        for importer, name in files.items()
    }


def imported_by(name: str, source: ast.Module, modules: set[str]) -> Iterator[str]:
    """Which of these modules a file names: ``from a import b`` is a.b where that is one."""
    package = PurePath(name).parent.parts
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from modules.intersection(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*base, *([node.module] if node.module else [])))
            inside = {f"{origin}.{alias.name}" for alias in node.names}
            yield from modules & inside
            if origin in modules and inside - modules:
                yield origin


def rooms(modules: Imports) -> Imports:
    """Folder → the folders beside it that something in it imports."""
    folders = {name.rpartition(".")[0] for name in modules}
    found: dict[str, set[str]] = defaultdict(set)
    for importer, imported in modules.items():
        for other in imported:
            pair = apart(importer.split("."), other.split("."))
            if folders.issuperset(pair):
                found[pair[0]].add(pair[1])
    return found


def apart(one: list[str], other: list[str]) -> tuple[str, str]:
    """Where two modules part ways: their first two folders that differ."""
    depth = next(
        (depth for depth, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return ".".join(one[: depth + 1]), ".".join(other[: depth + 1])


def circle(graph: Imports) -> list[str]:
    """One circle of imports, if there is any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(imports()) == []


def test_the_rooms_of_a_folder_import_one_way() -> None:
    assert circle(rooms(imports())) == []


def test_a_circle_is_seen_wherever_the_import_stands() -> None:
    sources = {
        "ours.first": "from ours import second",
        "ours.second": "def late() -> None:\n    from .third import something",
        "ours.third": "from . import fourth",
        "ours.fourth": "if TYPE_CHECKING:\n    import ours.first",
    }
    found = {
        name: set(imported_by("ours/file.py", ast.parse(source), set(sources)))
        for name, source in sources.items()
    }

    assert set(circle(found)) == set(sources)


def test_rooms_that_import_each_other_are_seen_though_their_files_do_not() -> None:
    modules: Imports = {
        "shop.cards.saved": set(),
        "shop.cards.setups": {"shop.charging.checkout"},
        "shop.charging.checkout": {"shop.cards.saved", "shop.models"},
        "shop.models": set(),
        "shop.service": {"shop.cards.setups", "shop.charging.checkout"},
    }

    assert circle(modules) == []
    assert set(circle(rooms(modules))) == {"shop.cards", "shop.charging"}
