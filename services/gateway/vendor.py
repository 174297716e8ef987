"""Copy the browser libraries that package-lock.json pins into static/vendor.

The copies are committed, so that running the website needs no npm. After a version was
changed in package.json::

    npm install && python -m services.gateway.vendor

``--check`` copies nothing and fails when a committed copy differs from the pinned package.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATIC = Path(__file__).resolve().parent / "static"
SOURCE_MAP_MARKERS = (b"/*# sourceMappingURL=", b"//# sourceMappingURL=")


def content(source: Path) -> bytes:
    """A package's file, without its pointer to a source map, which is not copied."""
    lines = source.read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(SOURCE_MAP_MARKERS))


def main(arguments: list[str]) -> int:
    """Install what the lock pins, then copy or compare every file of ``static/vendor.json``."""
    subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=ROOT, check=True)
    stale = []
    for source, target in json.loads((STATIC / "vendor.json").read_text()).items():
        wanted = content(ROOT / "node_modules" / source)
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
