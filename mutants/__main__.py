"""``make mutants PART=billing SAMPLE=40``: put faults into a part, and count those noticed."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants.parts import PARTS

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--sample", type=int, help="so many faults, instead of all")
    parser.add_argument("--seed", type=int, default=1, help="which ones a sample takes")
    parser.add_argument("--only", default="", help="only faults of files whose name has this")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    # The faults go into a copy: whatever ends this, the working tree is as it was.
    with tempfile.TemporaryDirectory(prefix="mycelium-mutants-") as name:
        scratch = Path(name)
        # PostgreSQL runs as another user when we are root, and must get in there.
        scratch.chmod(0o711)
        copy = scratch / "repository"
        _copy_repository(copy)
        command = [sys.executable, "-m", "mutants.run", given.part, str(scratch), given.only]
        run = subprocess.Popen(
            [*command, str(given.seed), str(given.sample or 0)],
            cwd=copy,
            # What the tests leave behind goes with the rest.
            env={**os.environ, "TMPDIR": name},
            # A Ctrl-C is ours alone, so that the servers are ended once.
            start_new_session=True,
        )
        try:
            return run.wait()
        finally:
            run.terminate()
            run.wait()


def _copy_repository(copy: Path) -> None:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


if __name__ == "__main__":
    sys.exit(main())
