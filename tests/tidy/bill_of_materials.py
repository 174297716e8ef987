"""A bill of materials of everything that is locked, as CycloneDX JSON: ``make sbom``.

It is made of the locks alone and comes out the same each time. What does not run in the product
(tests, benchmarks, tools) has the scope ``excluded``.
"""

import json
import re
import sys
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


def locks() -> list[Path]:
    """The locks of Python packages. The first is of what the product itself runs on."""
    places = ("requirements*.txt", "*/requirements.txt", "deploy/kubernetes/requirements.txt")
    every = sorted({lock for place in places for lock in ROOT.glob(place)})
    product = ROOT / "requirements.txt"
    return [product, *(lock for lock in every if lock != product)]


def purls() -> dict[PackageURL, ComponentScope]:
    """Every locked package, once, in the scope of the first lock that has it."""
    found: dict[PackageURL, ComponentScope] = {}
    for lock in locks():
        is_product = lock == ROOT / "requirements.txt"
        scope = ComponentScope.REQUIRED if is_product else ComponentScope.EXCLUDED
        for name, version in PIN.findall(lock.read_text()):
            found.setdefault(PackageURL("pypi", None, name.lower(), version), scope)
    browser = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    for place, package in browser.items():
        if place:
            namespace, _, name = place.rpartition("node_modules/")[2].rpartition("/")
            purl = PackageURL("npm", namespace or None, name, package["version"])
            is_product = not package.get("dev")
            found[purl] = ComponentScope.REQUIRED if is_product else ComponentScope.EXCLUDED
    return found


def bill() -> str:
    """The document; no time and no number of its own, so that equal locks give equal texts."""
    components = [
        Component(
            type=ComponentType.LIBRARY,
            group=purl.namespace,
            name=purl.name,
            version=purl.version,
            purl=purl,
            bom_ref=str(purl),
            scope=scope,
        )
        for purl, scope in purls().items()
    ]
    product = Component(type=ComponentType.APPLICATION, name="mycelium", bom_ref="mycelium")
    bom = Bom(components=components)
    bom.metadata.component = product
    bom.register_dependency(product, components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    written = json.dumps(document, indent=2) + "\n"
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(written)
    if problem is not None:
        raise ValueError(f"not CycloneDX: {problem}")
    return written


if __name__ == "__main__":
    sys.stdout.write(bill())
