"""The probe's entrypoints."""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar

import eventlet
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis import operated
from chassis.clock import utc_now
from chassis.context import current_call
from chassis.database import after_commit
from chassis.deferred import Deferred
from chassis.events import event_handler, events_handler
from chassis.health import Health
from chassis.identifiers import new_id
from chassis.outbox import OutboxRelay, publish
from chassis.rpc import Caller, rpc
from chassis.service_database import Database
from chassis.timer import timer
from contracts.errors import InsufficientFunds
from tests.chassis.probe.messages import (
    CallChain,
    Chanted,
    CountNoted,
    Echo,
    Meet,
    Mirror,
    Mirrored,
    Nap,
    Number,
    Tell,
    Told,
    Whispered,
)

NOT_OURS = 57
SLEEPER = 55
WAKE, CHANT, LOOKS, MEETING, NAPPING, TICK, AFTER_COMMIT, NAPPED = -8, -7, -6, -5, -4, -3, -2, -1


class ProbeService(operated.Operated):
    name = "probe"

    database = Database()
    relay = OutboxRelay()
    caller = Caller()
    health = Health()
    meeting: ClassVar[list[Deferred[Number]]] = []
    failed: ClassVar[set[int]] = set()
    looks: ClassVar[list[datetime]] = []

    @rpc
    def echo(self, request: Echo) -> Number:
        if request.n == 13:
            raise InsufficientFunds("Too little.", "1", "2")
        if request.n == 14:
            raise KeyError("a secret detail")
        return Number(n=request.n)

    @rpc
    def mirror(self, request: Mirror) -> Mirrored:
        return Mirrored(metadata=request.metadata)

    @rpc
    def nap(self, request: Nap) -> Number:
        with self.database.begin() as session:
            note(session, NAPPING)
        time.sleep(request.n / 1000)
        with self.database.begin() as session:
            note(session, NAPPED)
        return Number(n=request.n)

    @rpc
    def meet(self, request: Meet) -> Deferred[Number]:
        deferred: Deferred[Number] = Deferred()
        self.meeting.append(deferred)
        if len(self.meeting) == request.n:
            length = Number(n=len(current_call.get().chain))
            outcome = InsufficientFunds("Too little.") if request.fails else length
            eventlet.spawn_after(request.after_ms / 1000, self._settle, outcome)
        return deferred

    @rpc
    def tell(self, command: Tell) -> Number:
        with self.database.begin() as session:
            publish(session, Told(event_id=new_id(), occurred_at=utc_now(), n=command.n))
            after_commit(session, self._note_after_commit)
            if command.fails:
                raise InsufficientFunds("Rolled back.")
        return Number(n=command.n)

    @rpc
    def count_noted(self, request: CountNoted) -> Number:
        if request.n == MEETING:
            return Number(n=len(self.meeting))
        if request.n == LOOKS:
            return Number(n=len(self.looks))
        with self.database.read() as session:
            count = session.scalar(
                text("SELECT count(*) FROM noted WHERE n = :n"), {"n": request.n}
            )
        return Number(n=count or 0)

    @rpc
    def call_chain(self, request: CallChain) -> Number:
        if request.n:
            return self.caller.call(CallChain(n=0))
        return Number(n=len(current_call.get().chain))

    @event_handler(Whispered, where=lambda _service, event: event.n != NOT_OURS)
    def note_whispered(self, session: Session, event: Whispered) -> None:
        note(session, event.n)

    @events_handler(Chanted, where=lambda _service, event: event.n != NOT_OURS)
    def note_chanted(self, session: Session, events: Sequence[Chanted]) -> None:
        note(session, CHANT)
        for event in events:
            note(session, event.n)
            if event.n == 666:
                raise ValueError("never")

    @event_handler(Told)
    def note_told(self, session: Session, event: Told) -> None:
        if event.n == SLEEPER:
            self._sleep_until_woken()
        if event.n in (77, 88) and event.n not in self.failed:
            self.failed.add(event.n)
            raise ValueError("not at the first try")
        note(session, event.n)
        if event.n == 666:
            raise ValueError("never")

    @timer(interval_s=0.1, asleep_s=3_600)
    def look(self) -> datetime | None:
        """Names a moment for the next look twice, and then sleeps until something is written."""
        self.looks.append(utc_now())
        return utc_now() + timedelta(seconds=0.5) if len(self.looks) < 3 else None

    @timer(interval_s=0.2)
    def tick(self) -> None:
        # Not with ``begin``, which would wake the timer that sleeps.
        with Session(self.database.engine) as session, session.begin():
            note(session, TICK)
            others = session.scalar(
                text("UPDATE ticking SET running = running + 1 RETURNING running")
            )
        time.sleep(0.1)
        with Session(self.database.engine) as session, session.begin():
            session.execute(text("UPDATE ticking SET running = running - 1"))
            if others != 1:
                session.execute(text("UPDATE ticking SET overlapped = true"))

    def _sleep_until_woken(self) -> None:
        with self.database.begin() as session:
            note(session, NAPPING)
        while self.count_noted(CountNoted(n=WAKE)).n == 0:
            time.sleep(0.1)

    def _settle(self, outcome: Number | Exception) -> None:
        while self.meeting:
            self.meeting.pop().settle(outcome)

    def _note_after_commit(self) -> None:
        with self.database.begin() as session:
            note(session, AFTER_COMMIT)


def note(session: Session, n: int) -> None:
    session.execute(text("INSERT INTO noted (n) VALUES (:n)"), {"n": n})
