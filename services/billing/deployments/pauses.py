"""When deployments did not run, as their histories tell."""

from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from contracts.billing import DeploymentStatus


class Pause(NamedTuple):
    """It ran until ``starts_at``, and from ``ends_at`` on again; None: it does not run so far."""

    starts_at: datetime
    ends_at: datetime | None

    def holds(self, moment: datetime) -> bool:
        """Whether it did not run at this moment. In the instants that bound it, it did."""
        return self.starts_at < moment and (self.ends_at is None or moment < self.ends_at)


# From the last line before that moment that says that it ran, so that a pause has its beginning.
_HISTORIES = Bulk(
    "SELECT one.deployment_id, one.status, one.changed_at FROM {rows}"
    " JOIN deployment_changes AS one ON one.deployment_id = new.deployment_id"
    " AND one.change_id >= coalesce((SELECT ran.change_id FROM deployment_changes AS ran"
    " WHERE ran.deployment_id = new.deployment_id AND ran.changed_at <= new.since"
    " AND ran.status = 'active' ORDER BY ran.change_id DESC LIMIT 1),"
    " '00000000-0000-0000-0000-000000000000') ORDER BY one.deployment_id, one.change_id",
    deployment_id="uuid",
    since="timestamptz",
)


def pauses(session: Session, since: Mapping[UUID, datetime]) -> dict[UUID, list[Pause]]:
    """The pauses of each of these deployments since its moment, also one that goes on then, the
    first one first."""
    if not since:
        return {}
    lines = _HISTORIES.execute(session, since.items())
    found: dict[UUID, list[Pause]] = {}
    for deployment_id, history in groupby(lines, attrgetter("deployment_id")):
        of_it = found[deployment_id] = []
        paused_at = None
        for line in history:
            # A line of another name, or size, says as well in which state it was.
            if line.status != DeploymentStatus.ACTIVE:
                paused_at = paused_at or line.changed_at
            elif paused_at is not None:
                of_it.append(Pause(paused_at, line.changed_at))
                paused_at = None
        if paused_at is not None:
            of_it.append(Pause(paused_at, None))
    return found
