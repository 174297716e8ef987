"""What happens some time after the answer, by itself, and is told by an event.

Money that was taken reaches the balance, a refund reaches the card or comes back, a bank decides.
The time is the sandbox's own: a clock that is moved past it makes it happen.
"""

from collections.abc import Callable

from .sandbox import Sandbox
from .store import Object, new_id

Act = Callable[[Sandbox, str], None]
_acts: dict[str, Act] = {}


def act(name: str) -> Callable[[Act], Act]:
    """Register what is done under that name; it is given the id of the object that was planned.

    By then the object may have changed: then the act does nothing.
    """

    def register(function: Act) -> Act:
        _acts[name] = function
        return function

    return register


def plan(sandbox: Sandbox, name: str, object_id: str) -> None:
    """Do it `SANDBOX_LATER_S` from now. The caller holds the store's lock."""
    due_at = sandbox.now() + sandbox.settings.later_s
    item: Object = {"id": new_id("later"), "act": name, "of": object_id, "due_at": due_at}
    sandbox.store.put("later", item)
    sandbox.planned.put(due_at, item["id"])
    sandbox.wake.set()


def run_due(sandbox: Sandbox) -> float | None:
    """Do what is due, oldest first; returns the seconds until the next.

    The caller holds the lock.
    """
    for item_id in sandbox.planned.take(sandbox.now()):
        item = sandbox.store.find("later", item_id)
        if item is not None:
            _run(sandbox, item)
    next_at = sandbox.planned.next_at()
    return None if next_at is None else next_at - sandbox.now()


def run_all(sandbox: Sandbox) -> int:
    """Do everything that is planned, due or not; returns how much. The caller holds the lock."""
    planned = sandbox.store.newest("later")[::-1]
    for item in planned:
        _run(sandbox, item)
    return len(planned)


def _run(sandbox: Sandbox, item: Object) -> None:
    sandbox.store.remove("later", item["id"])
    _acts[item["act"]](sandbox, item["of"])
