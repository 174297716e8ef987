"""deploy/kubernetes as `kubectl apply -k` builds it: every folder does, into what is right."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.tidy.test_kubernetes import (
    CHECKED,
    KUBERNETES,
    UNCHECKED,
    VERSION,
    Object,
    change,
    faults_by_definition,
    group,
    objects,
)

KUBECTL = str(Path(sys.executable).parent / "kubectl")
BUILT = sorted(
    str(file.parent.relative_to(KUBERNETES))
    for file in KUBERNETES.rglob("kustomization.yaml")
    if "kind: Component" not in file.read_text()
)
OVERLAYS = [folder for folder in BUILT if folder.startswith("overlays/")]


@cache
def built(folder: str) -> list[Object]:
    """What `kubectl apply -k` would apply. Kustomize says on standard error what it will not take
    for much longer."""
    kubectl = KUBECTL if Path(KUBECTL).exists() else shutil.which("kubectl")
    assert kubectl, "there is no kubectl: `deploy/local/install.sh check` gets one"
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES / folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def kustomization(folder: str) -> Object:
    read: Object = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
    return read


def root_of(folder: str) -> str:
    """The folder of what the module makes that an overlay begins with."""
    [resource] = kustomization(folder)["resources"]
    return str((KUBERNETES / folder / resource).resolve().relative_to(KUBERNETES))


def key(each: Object) -> tuple[str, str]:
    return each["kind"], each["metadata"]["name"]


def test_all_that_can_be_built_is() -> None:
    assert {"base", "overlays/production", "overlays/staging"} < set(BUILT)
    assert "overlays/production/restored" in OVERLAYS


@pytest.mark.parametrize("folder", BUILT)
def test_it_builds_into_our_namespace_and_into_no_other_objects(folder: str) -> None:
    root = root_of(folder) if folder in OVERLAYS else folder
    found = built(folder)

    assert Counter(map(key, found)) == Counter(map(key, objects(root)))
    elsewhere = {key(each) for each in found if each["metadata"].get("namespace") != "mycelium"}
    assert elsewhere <= {("Namespace", "mycelium")}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_what_is_built_is_right_by_its_schema(folder: str) -> None:
    found = built(folder)
    theirs = [each for each in found if group(each) in CHECKED]

    for each in found:
        if group(each) not in CHECKED | UNCHECKED:
            kubernetes_validate.validate(each, VERSION, strict=True)
    faults = faults_by_definition(theirs) if theirs else []
    assert {key(each): told for each, told in zip(theirs, faults, strict=True) if told} == {}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_image_is_the_overlay_s_and_every_setting_that_it_says(folder: str) -> None:
    found = {key(each): each for each in built(folder)}
    unpatched = {key(each): each for each in objects(root_of(folder))}
    images = set(re.findall(r"'image': '(mycelium[^']*|[^']*/mycelium[^']*)'", str(found)))

    assert {
        image for image in images if not re.fullmatch(r"[\w.]+/mycelium-\w+:\S+", image)
    } == set()
    for patch in kustomization(folder).get("patches", []):
        body = yaml.safe_load(patch["patch"])
        target = patch.get("target") or {"kind": body["kind"], **body["metadata"]}
        place = target["kind"], target["name"]
        # What a target does not find Kustomize leaves as it is, and says nothing.
        assert place in found
        if isinstance(body, list):
            for step in body:
                change(unpatched[place], **step)
            assert found[place]["spec"] == unpatched[place]["spec"]
        else:
            assert found[place]["data"] == {**unpatched[place]["data"], **body["data"]}
