"""The bill of materials names everything that is locked."""

import json
from urllib.parse import quote

import pytest

from tests.tidy import bill_of_materials
from tests.tidy.test_tidy import LOCKS, ROOT, pins

COMPONENTS = {
    component["purl"]: component["scope"]
    for component in json.loads(bill_of_materials.bill())["components"]
}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_is_in_it(lock: str) -> None:
    purls = {f"pkg:pypi/{name}@{version}" for name, version in pins(lock)}

    assert purls - COMPONENTS.keys() == set()


def test_what_the_product_runs_on_is_required_and_nothing_else() -> None:
    runs = {f"pkg:pypi/{name}@{version}" for name, version in pins("requirements.txt")}
    required = {purl for purl, scope in COMPONENTS.items() if scope == "required"}

    assert {purl for purl in required if purl.startswith("pkg:pypi/")} == runs


def test_the_libraries_of_the_website_are_in_it() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    scopes = [
        {
            COMPONENTS[f"pkg:npm/{quote(name)}@{version}"]
            for name, version in package[pinned].items()
        }
        for pinned in ("dependencies", "devDependencies")
    ]

    # What only measures the pages, or checks files, is no part of the product.
    assert scopes == [{"required"}, {"excluded"}]
    assert any(purl.startswith("pkg:npm/%40popperjs/core@") for purl in COMPONENTS)


def test_it_comes_out_the_same_each_time() -> None:
    assert bill_of_materials.bill() == bill_of_materials.bill()
