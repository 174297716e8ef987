"""Copy the browser libraries that package-lock.json pins into static/vendor.

The copies are committed, so that running the website needs no npm. After a version was
changed in package.json, or a template uses a class of Bootstrap's that none used before::

    npm install --omit=dev && python -m services.gateway.vendor

Of Bootstrap's rules only those are copied that a page can use, which PurgeCSS finds: a tenth of
them. The names of all its classes stand beside them, so that a test sees which are missing.

``--check`` copies nothing and fails when a committed copy differs from the pinned package.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATIC = Path(__file__).resolve().parent / "static"
STYLES = "bootstrap/dist/css/bootstrap.min.css"
CLASSES = "bootstrap.classes"
WHERE_CLASSES_STAND = ("templates/**/*.html", "static/js/*.js", "pages/*.py", "handbook/*.py")
_CLASS = re.compile(rb"\.([a-zA-Z][\w-]*)")
SOURCE_MAP_MARKERS = (b"/*# sourceMappingURL=", b"//# sourceMappingURL=")


def content(source: Path) -> bytes:
    """A package's file, without its pointer to a source map, which is not copied."""
    lines = source.read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(SOURCE_MAP_MARKERS))


def used_rules(styles: Path) -> bytes:
    """The rules of a style sheet that something in the website can match."""
    with tempfile.TemporaryDirectory() as folder:
        content = [str(STATIC.parent / pattern) for pattern in WHERE_CLASSES_STAND]
        purge = str(ROOT / "node_modules/.bin/purgecss")
        subprocess.run(
            [purge, "--css", str(styles), "--output", folder, "--content", *content], check=True
        )
        return (Path(folder) / styles.name).read_bytes()


def wanted_files() -> Iterator[tuple[str, bytes]]:
    """What is to stand in static/vendor, by name."""
    for source, target in json.loads((STATIC / "vendor.json").read_text()).items():
        path = ROOT / "node_modules" / source
        whole = content(path)
        if source == STYLES:
            names = sorted(set(_CLASS.findall(whole)))
            yield CLASSES, b"\n".join(names) + b"\n"
            whole = used_rules(path)
        yield target, whole


def main(arguments: list[str]) -> int:
    """Install what the lock pins, then copy or compare every file of ``static/vendor.json``."""
    subprocess.run(["npm", "ci", "--ignore-scripts", "--omit=dev"], cwd=ROOT, check=True)
    stale = []
    for target, wanted in wanted_files():
        copy = STATIC / "vendor" / target
        if copy.exists() and copy.read_bytes() == wanted:
            continue
        stale.append(target)
        if "--check" not in arguments:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(wanted)
    for target in stale:
        print(f"{'differs' if '--check' in arguments else 'copied'}: static/vendor/{target}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
