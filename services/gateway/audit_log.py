"""The audit log as an operator takes it elsewhere, and checks it.

python -m services.gateway.audit_log head                  the last link, to be noted elsewhere
python -m services.gateway.audit_log export > acts.jsonl   all acts
python -m services.gateway.audit_log check acts.jsonl      needs no database; --head <digest>
python -m services.gateway.audit_log check                 what the database has
"""

import sys

from chassis import chain
from services.gateway.staff import acts


def main(arguments: list[str] | None = None) -> int:
    """See the module; 0 when all is well, 1 at a difference."""
    prog = "python -m services.gateway.audit_log"
    return chain.command(prog, arguments, acts.head, acts.lines, acts.flaw)


if __name__ == "__main__":
    sys.exit(main())
