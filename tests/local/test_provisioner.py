"""The example of a provisioner: alone, and as a process beside the real billing."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from chassis.client import RpcClient
from chassis.database import Connected, connect
from chassis.migrate import migrate
from contracts.billing import (
    CancelDeployment,
    CancelWhen,
    ChangeCause,
    Deployment,
    DeploymentChanged,
    DeploymentRequested,
    DeploymentStatus,
    GetDeployment,
    GetUsage,
    PurchaseLine,
    RecordUsage,
    ReportDeployment,
    StartDeployment,
    StartPurchase,
    StopDeployment,
    UsageRecord,
    UsageResults,
)
from contracts.catalog import GetProduct
from contracts.errors import Conflict, DeadlineExceeded, ServiceError
from contracts.messages import Event
from contracts.wallet import Credit, OpenAccount
from deploy.definitions import PROVISIONER, login_definitions
from deploy.examples.provisioner import machines
from deploy.examples.provisioner.models import MachineRow
from deploy.examples.provisioner.service import work
from deploy.local.broker import Node
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from tests.conftest import StackFactory
from tests.patience import PATIENCE_S, eventually
from tests.system import INHERITED, System

Status = DeploymentStatus
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PASSWORD = "the password of the provisioner"
PACKAGE = "deploy.examples.provisioner"
NAMEKO_RUN = (sys.executable, "-m", "nameko", "run", "--config", "chassis/nameko.yaml")


@pytest.fixture(scope="module")
def database_url(postgres: Postgres) -> str:
    url = postgres.create_database("example_provisioner")
    migrate(PACKAGE, url)
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Connected]:
    database = connect(database_url)
    with database.begin() as session:
        session.execute(text("TRUNCATE machines, inbox"))
    yield database
    database.engine.dispose()


class Billing:
    """Takes reports, and answers as it is told."""

    def __init__(self) -> None:
        self.reports: list[tuple[UUID, Status]] = []
        self.error: Exception | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    def call(self, report: ReportDeployment) -> None:
        self.reports.append((report.deployment_id, report.status))
        self.meanwhile()
        if self.error is not None:
            raise self.error


class Alone:
    """A provisioner in this process, on a clock that is set, with a billing that is told."""

    def __init__(self, database: Connected) -> None:
        self.database = database
        self.billing = Billing()
        self.now = NOW

    def hears(self, event: Event) -> None:
        with self.database.begin() as session:
            if isinstance(event, DeploymentRequested):
                machines.order(session, self.now, event)
            else:
                machines.obey(session, self.now, cast(DeploymentChanged, event))

    def works(self, machines_max: int = 254) -> None:
        work(self.database, cast(RpcClient, self.billing), self.now, machines_max)

    def machine(self, deployment_id: UUID) -> MachineRow:
        with self.database.read() as session:
            return session.get_one(MachineRow, deployment_id)


@pytest.fixture
def alone(database: Connected) -> Alone:
    return Alone(database)


def requested(deployment_id: UUID, **choices: str) -> DeploymentRequested:
    return DeploymentRequested(
        event_id=uuid4(),
        occurred_at=NOW,
        user_id=uuid4(),
        deployment_id=deployment_id,
        product_id=uuid4(),
        name="VM-Starter",
        choices=choices,
    )


def changed(deployment_id: UUID, status: Status, after: timedelta = SECOND) -> DeploymentChanged:
    return DeploymentChanged(
        event_id=uuid4(),
        occurred_at=NOW + after,
        user_id=uuid4(),
        deployment_id=deployment_id,
        name="VM-Starter",
        status=status,
        cause=ChangeCause.OWNER,
    )


def test_what_is_ordered_is_made_and_told_once(alone: Alone) -> None:
    first, second = uuid4(), uuid4()
    for event in (requested(first), requested(second), requested(first)):
        alone.hears(event)

    alone.works()
    alone.works()

    assert sorted(alone.billing.reports) == sorted(
        [(first, Status.ACTIVE), (second, Status.ACTIVE)]
    )
    assert {alone.machine(first).slot, alone.machine(second).slot} == {1, 2}
    assert alone.machine(first).due_at is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.STOPPED, "stopped"),
        (Status.SUSPENDED, "stopped"),
        (Status.CANCELLED, "gone"),
        (Status.ACTIVE, "running"),
    ],
)
def test_it_obeys_and_tells_nothing_of_that(alone: Alone, status: Status, state: str) -> None:
    deployment_id = uuid4()
    alone.hears(requested(deployment_id))
    alone.works()

    alone.hears(changed(deployment_id, status))
    alone.works()

    assert alone.machine(deployment_id).state == state
    assert len(alone.billing.reports) == 1


@pytest.mark.parametrize("is_cancelled_first", [True, False])
def test_events_that_come_in_another_order_come_to_the_same(
    alone: Alone, is_cancelled_first: bool
) -> None:
    deployment_id = uuid4()
    events: list[Event] = [requested(deployment_id), changed(deployment_id, Status.CANCELLED)]
    for event in reversed(events) if is_cancelled_first else events:
        alone.hears(event)

    alone.works()

    machine = alone.machine(deployment_id)
    assert (machine.state, machine.slot, machine.due_at) == ("gone", None, None)
    assert alone.billing.reports == []


def test_an_older_change_that_comes_late_changes_nothing(alone: Alone) -> None:
    deployment_id = uuid4()
    alone.hears(requested(deployment_id))
    alone.hears(changed(deployment_id, Status.ACTIVE, 2 * SECOND))
    alone.hears(changed(deployment_id, Status.STOPPED, SECOND))

    alone.works()

    assert alone.machine(deployment_id).state == "running"


def test_a_machine_becomes_another_size_and_stays_as_it_is(alone: Alone) -> None:
    deployment_id, product_id = uuid4(), uuid4()
    alone.hears(requested(deployment_id))
    alone.works()
    resized = changed(deployment_id, Status.STOPPED).model_copy(
        update={"cause": ChangeCause.RESIZED, "product_id": product_id}
    )
    alone.hears(resized)
    alone.works()

    machine = alone.machine(deployment_id)
    assert (machine.product_id, machine.state) == (product_id, "stopped")


def test_a_report_that_is_not_answered_is_made_again_after_its_lease(alone: Alone) -> None:
    deployment_id = uuid4()
    alone.hears(requested(deployment_id))
    alone.billing.error = DeadlineExceeded("No answer came.")
    alone.works()
    alone.billing.error = None

    alone.now = NOW + machines.DUE.lease - timedelta(microseconds=1)
    alone.works()
    before = len(alone.billing.reports)
    alone.now = NOW + machines.DUE.lease
    alone.works()
    alone.works()

    assert (before, len(alone.billing.reports)) == (1, 2)
    assert alone.machine(deployment_id).slot == 1


def test_a_report_that_billing_does_not_want_is_not_repeated(alone: Alone) -> None:
    deployment_id = uuid4()
    alone.hears(requested(deployment_id))
    alone.billing.error = Conflict("It is cancelled.")

    alone.works()

    assert alone.machine(deployment_id).due_at is None


def test_what_is_heard_while_billing_is_told_is_done_next(alone: Alone) -> None:
    deployment_id = uuid4()
    alone.hears(requested(deployment_id))
    alone.billing.meanwhile = lambda: alone.hears(changed(deployment_id, Status.STOPPED))

    alone.works()
    alone.works()

    assert alone.machine(deployment_id).state == "stopped"
    assert alone.machine(deployment_id).due_at is None


def test_what_there_is_no_room_for_fails_and_what_is_gone_makes_room(alone: Alone) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    alone.hears(requested(first))
    alone.works(machines_max=1)
    alone.hears(requested(second))
    alone.works(machines_max=1)
    alone.hears(changed(first, Status.CANCELLED))
    alone.works(machines_max=1)
    alone.hears(requested(third))
    alone.works(machines_max=1)

    assert alone.billing.reports == [
        (first, Status.ACTIVE),
        (second, Status.FAILED),
        (third, Status.ACTIVE),
    ]
    assert alone.machine(second).state == "gone"


def test_one_that_cannot_be_dealt_with_keeps_none_behind_it(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = uuid4(), uuid4()
    alone.hears(requested(bad))
    alone.hears(requested(good))
    made_so = machines.make_so

    def fail(session: Any, deployment_id: UUID, machines_max: int) -> Any:
        if deployment_id == bad:
            raise RuntimeError
        return made_so(session, deployment_id, machines_max)

    monkeypatch.setattr(machines, "make_so", fail)
    alone.works()

    assert alone.billing.reports == [(good, Status.ACTIVE)]


# As a process.


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    """What sells, with a billing that waits for a provisioner."""
    return service_stack("wallet", "catalog", "billing", settings={"PROVISIONING": "external"})


@pytest.fixture
def provisioner(
    stack: System, broker: Node, database_url: str, database: Connected, scratch: Path
) -> Iterator[Child]:
    """The example with its own login and its own database; it has not been started so far."""
    broker.load(login_definitions(PROVISIONER, PASSWORD, stack.vhost.name))
    address = stack.vhost.admin_uri.rpartition("@")[2]
    inherited = stack.process("billing").environment
    child = Child(
        "provisioner",
        [*NAMEKO_RUN, f"{PACKAGE}.service"],
        {
            **{name: inherited[name] for name in INHERITED if name in inherited},
            "AMQP_URI": f"amqp://provisioner:{quote(PASSWORD)}@{address}",
            "DATABASE_URL": database_url,
            "MACHINES_MAX": "2",
        },
        scratch / "provisioner.log",
        directory=ROOT,
    )
    yield child
    child.kill()


class Customer:
    """Somebody with credits who buys machines and waits until they are what they should be."""

    def __init__(self, stack: System) -> None:
        self.rpc = stack.rpc
        self.user_id = uuid4()
        self.rpc.call(OpenAccount(idempotency_key=f"open:{self.user_id}", user_id=self.user_id))
        self.rpc.call(
            Credit(
                idempotency_key=f"credit:{self.user_id}",
                user_id=self.user_id,
                amount_micros=100_000_000,
                description="Credits",
            )
        )

    def buys(self, slug: str = "vm-starter", **choices: str) -> UUID:
        product = self.rpc.call(GetProduct(product_id=slug))
        line = PurchaseLine(product_id=product.product_id, choices=choices)
        command = StartPurchase(idempotency_key=f"{uuid4()}", user_id=self.user_id, lines=[line])
        bought = eventually(lambda: self.rpc.call(command), lambda made: made.deployment_ids)
        return bought.deployment_ids[0]

    def does(self, command: type[Any], deployment_id: UUID, **more: Any) -> None:
        key = f"{uuid4()}"
        self.rpc.call(
            command(idempotency_key=key, user_id=self.user_id, deployment_id=deployment_id, **more)
        )

    def sees(self, deployment_id: UUID, status: Status) -> Deployment:
        question = GetDeployment(user_id=self.user_id, deployment_id=deployment_id)
        return eventually(
            lambda: self.rpc.call(question), lambda deployment: deployment.status == status
        )


def comes_to(database: Connected, deployment_id: UUID, state: str) -> None:
    def now() -> str | None:
        with database.read() as session:
            query = select(MachineRow.state).where(MachineRow.deployment_id == deployment_id)
            return session.scalar(query)

    eventually(now, lambda found: found == state)


def test_what_is_bought_is_made_by_it_and_it_obeys_its_owner(
    stack: System, provisioner: Child, database: Connected
) -> None:
    customer = Customer(stack)
    # Nobody has ever listened so far: what is ordered waits in billing's outbox.
    machine = customer.buys(image="Alpine 3.20", region="Vienna, Austria")
    provisioner.start()

    access = customer.sees(machine, Status.ACTIVE).access
    assert access is not None
    assert (access.address, access.user_name) == ("198.51.100.1", "root")
    assert access.notes.startswith("Alpine 3.20 in Vienna, Austria.")

    customer.does(StopDeployment, machine)
    comes_to(database, machine, "stopped")
    customer.does(StartDeployment, machine)
    comes_to(database, machine, "running")

    # What happens while it is away is done when it is back.
    provisioner.kill()
    second = customer.buys()
    customer.does(CancelDeployment, machine, when=CancelWhen.NOW)
    provisioner.start()
    comes_to(database, machine, "gone")
    customer.sees(second, Status.ACTIVE)

    third, fourth = customer.buys(), customer.buys()
    made = eventually(
        lambda: [
            customer.rpc.call(GetDeployment(user_id=customer.user_id, deployment_id=each))
            for each in (third, fourth)
        ],
        lambda found: sorted(each.status for each in found) == [Status.ACTIVE, Status.FAILED],
    )
    assert {each.status_reason for each in made} == {
        "",
        "There is no room for another machine at the moment.",
    }


def test_it_tells_what_is_used_by_its_own_login_and_may_do_nothing_else(
    stack: System, broker: Node
) -> None:
    broker.load(login_definitions(PROVISIONER, PASSWORD, stack.vhost.name))
    address = stack.vhost.admin_uri.rpartition("@")[2]
    rpc = RpcClient(f"amqp://provisioner:{quote(PASSWORD)}@{address}", name="provisioner")
    customer = Customer(stack)
    analytics = customer.buys("app-plausible")
    made = rpc.call(ReportDeployment(deployment_id=analytics, status=Status.ACTIVE), PATIENCE_S)
    assert made.active_at is not None

    def used(quantity: int) -> UsageResults:
        record = UsageRecord(
            record_id="hour 1",
            deployment_id=analytics,
            meter="page_views",
            quantity=quantity,
            used_at=made.active_at,
        )
        return rpc.call(RecordUsage(records=[record]), PATIENCE_S)

    answers = [used(120_000), used(120_000), used(1)]
    with pytest.raises(ServiceError, match=r"provisioner may not call billing\.get_usage"):
        rpc.call(GetUsage(user_id=customer.user_id, deployment_id=analytics), timeout_s=PATIENCE_S)
    rpc.close()

    assert [result.answer for each in answers for result in each.results] == [
        "accepted",
        "repeated",
        "refused",
    ]
    usage = customer.rpc.call(GetUsage(user_id=customer.user_id, deployment_id=analytics))
    # 100,000 views are included, and ten thousand more are $0.50.
    assert (usage.days[0].quantity, usage.due_micros) == (120_000, 1_000_000)
