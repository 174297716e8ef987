"""An operator's command on what ``make run`` runs, with the settings of the process concerned.

``make verify``, ``make problems`` and the like call ``python -m deploy.local.operate verify``.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from deploy.local.run import ENVIRONMENTS
from deploy.local.startup import StartupError, take_lock
from deploy.parts import LISTENERS

# Command → the process whose settings it needs, and its module. Without a process, the command's
# first argument names it: each service has dead letters, and an outbox.
COMMANDS = {
    "verify": ("wallet", "services.wallet.verification"),
    "problems": ("topup", "services.topup.problems"),
    "reconcile": ("topup", "services.topup.reconcile"),
    "switch": ("topup", "services.topup.switch"),
    "dead-notices": ("topup", "services.topup.dead_notices"),
    "audit": ("topup", "services.topup.audit"),
    "roles": ("notifier", "services.gateway.roles"),
    "audit-log": ("notifier", "services.gateway.audit_log"),
    "move": ("legacy", "services.legacy.move"),
    "refill": ("analytics", "services.analytics.refill"),
    "dead-letters": ("", "chassis.dead_letters"),
    "republish": ("", "chassis.republish"),
    "restored": ("", "chassis.restored"),
}


def invocation(
    name: str, arguments: Sequence[str], directory: Path
) -> tuple[list[str], dict[str, str]]:
    """The command line, and the settings from ``directory``, where a running product keeps them.

    Raises StartupError when nothing runs there, or the command is none.
    """
    if name not in COMMANDS:
        raise StartupError(f"{name} is no command: {', '.join(COMMANDS)}.")
    process, module = COMMANDS[name]
    if not process:
        process = next(iter(arguments), "")
        if process not in LISTENERS:
            raise StartupError(f"name whose {name}: {', '.join(LISTENERS)}.")
    if not is_running(directory):
        raise StartupError("nothing runs here: start it with `make run`, in another terminal.")
    written = shlex.split((directory / f"{process}.env").read_text())
    settings = dict(line.split("=", maxsplit=1) for line in written)
    return [sys.executable, "-W", "ignore", "-m", module, *arguments], settings


def is_running(directory: Path) -> bool:
    """Whether a runner holds the directory."""
    if not directory.is_dir():
        return False
    try:
        take_lock(directory, "").close()
    except StartupError:
        return True
    return False


def main() -> NoReturn:
    """Become the command; what it says and its exit status are its own."""
    try:
        command, settings = invocation(sys.argv[1], sys.argv[2:], ENVIRONMENTS)
    except StartupError as error:
        print(f"mycelium: {error}", file=sys.stderr)
        # EX_UNAVAILABLE of sysexits.h: no finding of the command's own.
        sys.exit(69)
    os.execve(command[0], command, {**os.environ, **settings})  # noqa: S606 - our own command


if __name__ == "__main__":
    main()
