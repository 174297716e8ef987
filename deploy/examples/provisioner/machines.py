"""What is wanted of a machine, and what is done about it.

Events only write down what is wanted (:func:`order`, :func:`obey`), in any order and as often as
they come. A worker then makes it so (:func:`make_so`) and tells billing: a crash between any two
lines leaves a machine that is due, at which the next start looks again::

    heard, due ─▶ made so ─▶ billing told ─▶ settled, unless more was heard meanwhile

Here a machine is a row. In a product of yours, :func:`make_so` is where the hypervisor is called,
with the deployment's id as the machine's name, so that asking again finds what is there.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Address
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.leases import Leases
from contracts.billing import (
    Access,
    DeploymentChanged,
    DeploymentRequested,
    DeploymentStatus,
    ReportDeployment,
)
from deploy.examples.provisioner.models import MachineRow

DUE = Leases(
    due_at=MachineRow.due_at, owner=MachineRow.user_id, lease=timedelta(seconds=30), limit=50
)

NETWORK = IPv4Address("198.51.100.0")
"""A range for documentation (RFC 5737): nothing answers there."""


class State(StrEnum):
    NONE = "none"
    RUNNING = "running"
    STOPPED = "stopped"
    GONE = "gone"


_WANTED = {
    DeploymentStatus.ACTIVE: State.RUNNING,
    DeploymentStatus.SUSPENDED: State.STOPPED,
    DeploymentStatus.STOPPED: State.STOPPED,
    DeploymentStatus.CANCELLED: State.GONE,
    DeploymentStatus.FAILED: State.GONE,
}


def order(session: Session, now: datetime, event: DeploymentRequested) -> None:
    """Somebody paid for a machine. What was heard of it before, and later, stays wanted."""
    row = _machine(session, now, event, State.RUNNING)
    row.product_id, row.name, row.choices = event.product_id, event.name, event.choices


def obey(session: Session, now: datetime, event: DeploymentChanged) -> None:
    """Its owner, or what its month came to, wants something else of it."""
    wanted = _WANTED.get(event.status)
    if wanted is not None:
        row = _machine(session, now, event, wanted)
        if event.product_id is not None and row.wanted_since == event.occurred_at:
            row.product_id = event.product_id


def make_so(session: Session, deployment_id: UUID, machines_max: int) -> ReportDeployment | None:
    """Bring a machine to what is wanted of it; what billing is to be told, if anything is.

    A second call changes nothing, and says the same.
    """
    row = session.get_one(MachineRow, deployment_id, with_for_update=True)
    if row.product_id is None or row.state == State.GONE:
        return None
    if row.wanted == State.GONE:
        row.state, row.slot = State.GONE, None
        return None
    if row.slot is None:
        row.slot = _free_slot(session, machines_max)
    if row.slot is None:
        return ReportDeployment(
            deployment_id=deployment_id,
            status=DeploymentStatus.FAILED,
            reason="There is no room for another machine at the moment.",
        )
    row.state = row.wanted
    if row.is_reported or row.state != State.RUNNING:
        return None
    return ReportDeployment(
        deployment_id=deployment_id, status=DeploymentStatus.ACTIVE, access=_access(row)
    )


def settle(
    session: Session, deployment_id: UUID, heard: int, told: ReportDeployment | None
) -> None:
    """It is as it was wanted when so much had been ``heard``, and billing knows."""
    row = session.get_one(MachineRow, deployment_id, with_for_update=True)
    if told is not None:
        row.is_reported = True
        if told.status is DeploymentStatus.FAILED:
            row.wanted = row.state = State.GONE
    if row.heard == heard:
        row.due_at = None


def heard_of(session: Session, deployment_id: UUID) -> int:
    """How much was heard of a machine so far."""
    return session.get_one(MachineRow, deployment_id).heard


def _machine(
    session: Session,
    now: datetime,
    event: DeploymentRequested | DeploymentChanged,
    wanted: State,
) -> MachineRow:
    """The machine that an event is about, due, and with what it says if it says the latest.

    Of two events that make the same row at once one fails, and is handled once more.
    """
    row = session.get(MachineRow, event.deployment_id, with_for_update=True)
    if row is None:
        row = MachineRow(
            deployment_id=event.deployment_id,
            user_id=event.user_id,
            name=event.name,
            wanted=wanted,
            wanted_since=event.occurred_at,
            state=State.NONE,
            heard=0,
        )
        session.add(row)
    if event.occurred_at >= row.wanted_since:
        row.wanted, row.wanted_since = wanted, event.occurred_at
    row.heard += 1
    row.due_at = now
    return row


def _free_slot(session: Session, machines_max: int) -> int | None:
    """The first place that no machine has. One worker gives them out."""
    places = select(func.generate_series(1, machines_max).label("slot")).subquery()
    taken = select(MachineRow.slot).where(MachineRow.slot.is_not(None))
    return session.scalar(
        select(places.c.slot).where(places.c.slot.not_in(taken)).order_by(places.c.slot).limit(1)
    )


def _access(row: MachineRow) -> Access:
    image = row.choices.get("image", "Debian 12")
    where = f" in {row.choices['region']}" if "region" in row.choices else ""
    door = "your SSH key" if "ssh_key" in row.choices else "the console"
    address = str(NETWORK + (row.slot or 0))
    return Access(
        address=address, user_name="root", notes=f"{image}{where}. You log in with {door}."
    )
