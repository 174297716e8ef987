"""More of a service beside the one that a stack runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from deploy.local.child import Child
from deploy.local.processes import ROOT
from deploy.local.startup import free_port, wait_for
from tests.patience import PATIENCE_S
from tests.system import System, is_ready


@contextmanager
def replicas(stack: System, names: list[str], directory: Path) -> Iterator[list[Child]]:
    """One more for each name, ready; they end with the block."""
    children: list[tuple[Child, str]] = []
    try:
        for name in names:
            process, port = stack.process(name), free_port()
            environment = {**process.environment, "HEALTH_PORT": str(port)}
            log = directory / f"{name}-{port}.log"
            child = Child(name, process.argv, environment, log, directory=ROOT)
            child.start()
            children.append((child, f"http://127.0.0.1:{port}/readyz"))
        for child, url in children:
            assert wait_for(partial(is_ready, url), PATIENCE_S), child.tail()
        yield [child for child, _ in children]
    finally:
        for child, _ in children:
            child.kill()
