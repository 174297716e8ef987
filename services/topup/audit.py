"""Money from nowhere: credits and corrections that no top-up and no approved person made.

Every few minutes the wallet is asked what came into wallets since the last look. Right is the
credit of a top-up that was paid, what a dispute that was won gives back, what somebody brought from
the old system or got in its pools, what the wallet knows two people to stand behind, and what a
login of ``APPROVED_LOGINS`` had made: a person is approved by having such a login at the broker,
which vouches for it. The actor that an adjustment names is only what its caller says. All else is a
difference, which stays until somebody accepts it:

    python -m services.topup.audit accept TRANSACTION --by you --reason "A gift, ticket 7"

The first look begins with what comes after it: what was before has no caller.
"""

import argparse
import logging
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import connect
from chassis.locks import locked_or_none
from chassis.money import format_usd
from contracts import legacy
from contracts.wallet import MadeCredit, Noted, TransactionKind
from services.topup.charging import reconciliation
from services.topup.charging.outcomes import PAID
from services.topup.charging.reconciliation import UNEXPLAINED, Found
from services.topup.models import CreditAudit, Difference, Reversal, Topup
from services.topup.settings import get_settings
from services.topup.till import Till

log = logging.getLogger(__name__)

TOPUP_EVENTS = "topup.events"
"""The caller of what the wallet did on an event of ours: nobody else may publish there."""
END = 2**63 - 1


def look(till: Till, approved_logins: tuple[str, ...]) -> None:
    """Ask for the credits since the last look, and keep those that nothing explains.

    Errors: ``Unavailable``, ``DeadlineExceeded``; the next look begins where this one ended.
    """
    with till.database.read() as session:
        audit = session.get(CreditAudit, 1)
        position = audit.position if audit else END
    is_last = False
    while not is_last:
        page = till.wallet.credits(position)
        position, is_last = page.next_position, page.is_last
        with till.database.begin() as session:
            found = [
                _found(made)
                for made in page.credits
                if made.caller not in approved_logins
                and not made.is_approved
                and not _is_of_the_old_system(made)
                and not _is_ours(session, made)
            ]
            reconciliation.keep(session, found, till.clock())
            session.merge(CreditAudit(id=1, position=position, looked_at=till.clock()))
        for difference in found:
            log.error(difference.message, extra={"transaction": difference.reference})


def _is_of_the_old_system(made: MadeCredit) -> bool:
    """Whether somebody came from the old system with it, was moved back, or got it for something in
    its pools: the service of the old system has a plan or an order behind each, and verifies them
    (docs/migration.md)."""
    is_undone = made.kind is TransactionKind.ADJUSTMENT and made.amount_micros < 0
    is_its_own = made.kind in (TransactionKind.MIGRATION, TransactionKind.EXCHANGE)
    return made.caller == legacy.SERVICE and (is_its_own or is_undone)


def _is_ours(session: Session, made: MadeCredit) -> bool:
    """Whether a top-up, or a reversal that was undone, stands behind it with this amount."""
    source: Topup | Reversal | None = None
    if made.caller == TOPUP_EVENTS and Noted.REVERSAL_ID in made.metadata:
        reversal = session.get(Reversal, made.metadata[Noted.REVERSAL_ID])
        source = reversal if reversal and reversal.restored_at else None
    elif made.caller == TOPUP_EVENTS and Noted.TOPUP_ID in made.metadata:
        topup = session.get(Topup, UUID(made.metadata[Noted.TOPUP_ID]))
        source = topup if topup and topup.status in PAID else None
    return source is not None and (source.user_id, source.amount_micros) == (
        made.user_id,
        made.amount_micros,
    )


def _found(made: MadeCredit) -> Found:
    caller = made.caller or "a caller that did not name itself"
    message = (
        f"{format_usd(made.amount_micros)} ({made.kind}, {made.description!r}) by {caller}:"
        " no top-up and no approved person made it."
    )
    return Found(
        code=UNEXPLAINED,
        reference=str(made.transaction_id),
        message=message,
        since=made.recorded_at,
        amount_micros=made.amount_micros,
        user_id=made.user_id,
    )


def accept(session: Session, now: datetime, transaction_id: UUID, by: str, reason: str) -> bool:
    """Somebody answers for a credit: it is no difference any more. False where it is none."""
    difference = locked_or_none(session, Difference, f"{UNEXPLAINED}:{transaction_id}")
    if difference is None or difference.gone_at is not None:
        return False
    difference.gone_at, difference.accepted_by = now, f"{by}: {reason}"
    return True


def main(arguments: list[str] | None = None) -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="python -m services.topup.audit")
    action = parser.add_subparsers(required=True).add_parser("accept")
    action.add_argument("transaction_id", type=UUID, metavar="TRANSACTION")
    action.add_argument("--by", required=True)
    action.add_argument("--reason", required=True)
    given = parser.parse_args(arguments)
    with connect(get_settings().database_url, pool_size=1).begin() as session:
        is_done = accept(session, utc_now(), given.transaction_id, given.by, given.reason)
    print("Accepted." if is_done else "Nothing is open under this transaction.")
    return 0 if is_done else 1


if __name__ == "__main__":
    raise SystemExit(main())
