"""The provisioner's entrypoints. Billing needs ``PROVISIONING=external`` to wait for it."""

import logging
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected
from chassis.events import event_handler
from chassis.health import Health
from chassis.retention import FORGET_EVERY_S, forget, messages
from chassis.rpc import Caller
from chassis.service_database import Database
from chassis.timer import timer
from contracts.billing import DeploymentChanged, DeploymentRequested, ReportDeployment
from contracts.errors import BadRequest, Conflict, NotFound, ServiceError
from deploy.examples.provisioner import machines
from deploy.examples.provisioner.settings import get_settings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
ASLEEP_S = 5.0


class ProvisionerService:
    """It hears what is wanted of machines, makes it so, and tells billing."""

    name = "provisioner"

    database = Database()
    health = Health()
    caller = Caller()

    @event_handler(DeploymentRequested)
    def order(self, session: Session, event: DeploymentRequested) -> None:
        machines.order(session, utc_now(), event)

    @event_handler(DeploymentChanged)
    def obey(self, session: Session, event: DeploymentChanged) -> None:
        machines.obey(session, utc_now(), event)

    @timer(interval_s=LOOK_EVERY_S, asleep_s=ASLEEP_S)
    def work(self) -> datetime | None:
        """Whatever is due; when something is next."""
        work(self.database, self.caller, utc_now(), get_settings().machines_max)
        with self.database.read() as session:
            return machines.DUE.next_at(session)

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        forget(self.database, utc_now(), messages(get_settings()))


def work(database: Connected, rpc: RpcClient, now: datetime, machines_max: int) -> None:
    """Bring every machine that is due to what is wanted of it. One that fails keeps none behind
    it: its lease runs out, and it is tried again."""
    with database.begin() as session:
        taken = list(machines.DUE.take(session, now))
    for deployment_id in taken:
        try:
            _serve(database, rpc, deployment_id, machines_max)
        except Exception:
            log.exception("a machine is left out", extra={"deployment_id": str(deployment_id)})


def _serve(database: Connected, rpc: RpcClient, deployment_id: UUID, machines_max: int) -> None:
    with database.begin() as session:
        heard = machines.heard_of(session, deployment_id)
        report = machines.make_so(session, deployment_id, machines_max)
    if report is None or _is_told(rpc, report):
        with database.begin() as session:
            machines.settle(session, deployment_id, heard, report)


def _is_told(rpc: RpcClient, report: ReportDeployment) -> bool:
    """Whether billing has heard it, or does not want to hear it any more."""
    try:
        rpc.call(report)
    except (Conflict, NotFound, BadRequest) as refusal:
        # It was cancelled meanwhile, for example; then that was published, or is about to be.
        log.warning("billing does not take a report", extra=_about(report.deployment_id, refusal))
    except ServiceError as error:
        log.warning("billing did not answer", extra=_about(report.deployment_id, error))
        return False
    return True


def _about(deployment_id: UUID, error: ServiceError) -> dict[str, str]:
    return {"deployment_id": str(deployment_id), "error": f"{error.code}: {error}"}
