"""What every request can reach: the settings, the database, the services.

A service is asked by :func:`call` for what the answer needs, and by :func:`ask` or, several at
once, :func:`ask_all` for what it can do without.

One :class:`Backend` belongs to each application object. The RPC client is made in the process
that uses it, at its first use: its thread and its socket would not survive a fork.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, overload
from uuid import UUID

from flask import Flask, current_app, g

from chassis.client import RpcClient
from chassis.database import Connected
from chassis.readiness import Readiness
from contracts.errors import DeadlineExceeded, ServiceError, Unavailable
from contracts.messages import Command, Reply, Request
from contracts.topup import AutoTopupState, ChargeForecast, ForecastCharges, GetAutoTopupState
from contracts.wallet import GetWallet, Wallet
from services.gateway.charge_forecasts import ChargeForecasts
from services.gateway.paths import Paths
from services.gateway.purchase_waiters import PurchaseWaiters
from services.gateway.rate_limits import TakenAhead
from services.gateway.recent import Recent
from services.gateway.response_times import ResponseTimes
from services.gateway.settings import GatewaySettings
from services.gateway.standings import Question, Standings, told

log = logging.getLogger(__name__)

ReplyT = TypeVar("ReplyT", bound=Reply)
AnswerA = TypeVar("AnswerA", bound=Reply)
AnswerB = TypeVar("AnswerB", bound=Reply)
AnswerC = TypeVar("AnswerC", bound=Reply)
AnswerD = TypeVar("AnswerD", bound=Reply)
AnswerE = TypeVar("AnswerE", bound=Reply)
FoundT = TypeVar("FoundT")

ANSWER_WITHIN_S = 3.0
"""How long an answer waits for what it can do without."""

SILENT_TIMEOUT_S = 1.0
"""How long a question may wait for a service that left the last call unanswered. Without this a
service that hangs would hold every thread of the site, also those that do not need it."""

IDENTITY_AGE_S = 1.0
"""How long who is behind a token or a session is not asked again. What ends one forgets it here;
another process may take it for as long."""

IDENTITIES_MAX = 10_000

CATALOG_AGE_S = 1.0
"""How old what the site shows of the catalog may be: see showcase.py."""

CATALOG_MAX = 200

LIVE_AGE_S = 1.0
LIVE_MAX = 10

_EXTENSION = "mycelium"


class Backend:
    """The settings and the connections of one worker process."""

    def __init__(self, settings: GatewaySettings, database: Connected) -> None:
        self.settings = settings
        self.database = database
        self._lock = threading.Lock()
        self._rpc: RpcClient | None = None
        self._waiters: PurchaseWaiters | None = None
        self._silent_since_s: dict[str, float] = {}
        """Services that left the last call unanswered, and when that was noticed."""
        self.requests_ahead = TakenAhead(database)
        self.unlimited_until_s = 0.0
        """Until then, by the monotonic clock, requests are not limited: the database is away."""
        self.readiness: Readiness | None = None
        self.identities: Recent[Any] = Recent(IDENTITY_AGE_S, IDENTITIES_MAX)
        """Who was behind which secret, by its fingerprint: see people/identity.py."""
        self.catalog: Recent[Any] = Recent(CATALOG_AGE_S, CATALOG_MAX)
        """What the catalog told, by question, and answers that were made of it, by address."""
        self.live: Recent[Any] = Recent(LIVE_AGE_S, LIVE_MAX)
        """What everybody who watches the numbers of now is shown."""
        self.response_times = ResponseTimes(database)
        self.charge_forecasts = ChargeForecasts(lambda asked: self.call(asked, ANSWER_WITHIN_S))
        self.standings = Standings(lambda asked: self.begin(asked, ANSWER_WITHIN_S))
        self.paths = Paths(database)

    @property
    def rpc(self) -> RpcClient:
        """The services; safe for threads."""
        return self._open()[0]

    @property
    def waiters(self) -> PurchaseWaiters:
        """The requests of this process that wait for the end of a purchase."""
        return self._open()[1]

    def _open(self) -> tuple[RpcClient, PurchaseWaiters]:
        with self._lock:
            if self._rpc is None or self._waiters is None:
                self._rpc = RpcClient(
                    self.settings.amqp_uri, "gateway", self.settings.broker_heartbeat_s
                )
                # Before the first call: the client listens to events from its start only.
                self._waiters = PurchaseWaiters(self._rpc)
            return self._rpc, self._waiters

    def call(self, request: Request[ReplyT], timeout_s: float) -> ReplyT:
        """See :func:`call`."""
        return self.begin(request, timeout_s)()

    def begin(self, request: Request[ReplyT], timeout_s: float) -> Callable[[], ReplyT]:
        """Ask a service; what is returned waits for the answer."""
        if request.service in self._silent_since_s and not isinstance(request, Command):
            timeout_s = min(timeout_s, SILENT_TIMEOUT_S)
        with self._noting_silence(request):
            reply = self.rpc.begin(request, timeout_s)

        def answer() -> ReplyT:
            with self._noting_silence(request):
                answered = reply()
            self._silent_since_s.pop(request.service, None)
            return answered

        return answer

    def fell_silent_after(self, moment_s: float, service: str) -> bool:
        """Whether somebody waited in vain for the service since then, by the monotonic clock."""
        return self._silent_since_s.get(service, -math.inf) > moment_s

    @contextmanager
    def _noting_silence(self, request: Request[Any]) -> Iterator[None]:
        try:
            yield
        except DeadlineExceeded as error:
            self._silent_since_s[request.service] = time.monotonic()
            if isinstance(request, Command):
                raise
            # What is no command can be repeated freely: nobody need care how this one ended.
            raise Unavailable(
                f"The {request.service} service does not answer at the moment. Try again in a few"
                " seconds; that is always safe here."
            ) from error
        except Unavailable:
            self._silent_since_s[request.service] = time.monotonic()
            raise
        except ServiceError:
            self._silent_since_s.pop(request.service, None)
            raise

    def close(self) -> None:
        with self._lock:
            if self.readiness is not None:
                self.readiness.stop()
            if self._rpc is not None:
                self._rpc.close()
        self.response_times.stop()
        self.paths.stop()
        self.database.engine.dispose()


def install(app: Flask, backend: Backend) -> None:
    app.extensions[_EXTENSION] = backend


def backend_of(app: Flask) -> Backend:
    backend: Backend = app.extensions[_EXTENSION]
    return backend


def current_backend() -> Backend:
    """The backend of the application that handles this request."""
    return backend_of(current_app)


def database() -> Connected:
    """The gateway's own database."""
    return current_backend().database


def settings() -> GatewaySettings:
    return current_backend().settings


def call(request: Request[ReplyT], timeout_s: float | None = None) -> ReplyT:
    """Ask a service and wait for its answer, as long as its contract says or for ``timeout_s``.

    Raises the errors of :mod:`contracts.errors`, which the application turns into a page or a
    JSON body by itself: ``Unavailable`` when the service is away; for a command
    ``DeadlineExceeded`` when no answer came in time: its outcome is unknown then, and the same
    command with the same key is the way to learn it.
    """
    reply = current_backend().call(request, timeout_s or request.answer_within_s)
    if not isinstance(request, Command):
        # The menu often wants to know the same: see ask_all.
        note(request, reply)
    return reply


def call_and_ask(
    request: Request[ReplyT], question: Request[AnswerA]
) -> tuple[ReplyT, AnswerA | None]:
    """What the answer needs, and beside it what it can do without: :func:`call`, :func:`ask`."""
    return call_while(request, partial(ask, question))


def call_while(request: Request[ReplyT], others: Callable[[], FoundT]) -> tuple[ReplyT, FoundT]:
    """:func:`call`; and ``others``, which ask for more before the answer is waited for."""
    reply = current_backend().begin(request, request.answer_within_s)
    try:
        found = others()
    finally:
        needed = reply()
    note(request, needed)
    return needed, found


@overload
def ask_all(
    first: Request[AnswerA] | None, second: Request[AnswerB] | None, /
) -> tuple[AnswerA | None, AnswerB | None]: ...


@overload
def ask_all(
    first: Request[AnswerA] | None,
    second: Request[AnswerB] | None,
    third: Request[AnswerC] | None,
    /,
) -> tuple[AnswerA | None, AnswerB | None, AnswerC | None]: ...


@overload
def ask_all(
    first: Request[AnswerA] | None,
    second: Request[AnswerB] | None,
    third: Request[AnswerC] | None,
    fourth: Request[AnswerD] | None,
    /,
) -> tuple[AnswerA | None, AnswerB | None, AnswerC | None, AnswerD | None]: ...


@overload
def ask_all(
    first: Request[AnswerA] | None,
    second: Request[AnswerB] | None,
    third: Request[AnswerC] | None,
    fourth: Request[AnswerD] | None,
    fifth: Request[AnswerE] | None,
    /,
) -> tuple[AnswerA | None, AnswerB | None, AnswerC | None, AnswerD | None, AnswerE | None]: ...


def ask_all(*questions: Request[Any] | None) -> tuple[Any, ...]:
    """The answers to questions that are asked at once, and None for what cannot be told now.

    For what a page can do without, which leaves a gap in it and no error page; never for commands.
    The menu and the page below it often want to know the same: it is asked once in a request. A
    service that somebody waited for in vain since the request began is not waited for again, and a
    page that has waited for ``ANSWER_WITHIN_S`` waits for the others as for one that is silent.
    """
    answers = _answers()
    now_s = time.monotonic()
    since_s: float = g.setdefault("asking_since_s", now_s)
    deadline_s = max(since_s + ANSWER_WITHIN_S, now_s + SILENT_TIMEOUT_S)
    has_waited = now_s - since_s > SILENT_TIMEOUT_S
    backend = current_backend()
    begun: dict[str, tuple[Request[Any], Callable[[], Any] | None]] = {}
    standing: list[Question] = []
    for question in questions:
        name = _name(question)
        if question is None or name in answers or name in begun:
            continue
        if backend.fell_silent_after(since_s, question.service):
            begun[name] = (question, None)
        elif isinstance(question, Question) and not has_waited:
            standing.append(question)
        else:
            begin = partial(backend.begin, question, max(deadline_s - time.monotonic(), 0))
            begun[name] = (question, _unless_it_fails(question, begin))
    for question, found in backend.standings.find(standing).items() if standing else ():
        answers[_name(question)] = _unless_it_fails(question, partial(told, found))
    for name, (question, answer) in begun.items():
        answers[name] = answer and _unless_it_fails(question, answer)
    return tuple(answers.get(_name(question)) for question in questions)


def standing_of(user_id: UUID) -> tuple[Wallet, AutoTopupState | None]:
    """Somebody's wallet, without which there is no answer, and whether auto top-up is on: asked
    together with those who ask at the same moment. Raises what the wallet raises."""
    wallet, state = GetWallet(user_id=user_id), GetAutoTopupState(user_id=user_id)
    found = current_backend().standings.find([wallet, state])
    automatic = _unless_it_fails(state, partial(told, found[state]))
    return told(found[wallet]), automatic


def forecast_charges(question: ForecastCharges) -> ChargeForecast | None:
    """:func:`ask` what is charged by itself, together with those who ask at the same moment."""
    return _unless_it_fails(question, partial(current_backend().charge_forecasts.find, question))  # type: ignore[no-any-return]


def ask_each(questions: Sequence[Request[ReplyT]]) -> list[ReplyT | None]:
    """The same of many questions of one kind."""
    answers: tuple[ReplyT | None, ...] = ask_all(*questions)
    return list(answers)


def ask(question: Request[ReplyT]) -> ReplyT | None:
    """The answer to a question that a page can do without: see :func:`ask_all`."""
    answer, _ = ask_all(question, None)
    return answer


def note(question: Request[ReplyT], answer: ReplyT) -> None:
    """Something else told the answer to this question: it is not asked any more in this request."""
    _answers()[_name(question)] = answer


def known(question: Request[ReplyT]) -> ReplyT | None:
    """The answer to a question that was asked in this request before; None if it was not."""
    return _answers().get(_name(question))


def _answers() -> dict[str, Any]:
    """What is known in this request, by the name of the question."""
    answers: dict[str, Any] = g.setdefault("answers", {})
    return answers


def _name(question: Request[Any] | None) -> str:
    """Tells one question from another."""
    if question is None:
        return ""
    return f"{question.service}.{question.method} {question.model_dump_json()}"


def _unless_it_fails(question: Request[Any], step: Callable[[], Any]) -> Any:
    try:
        return step()
    except ServiceError as error:
        log.warning(
            "an answer is given without one of its parts",
            extra={"question": f"{question.service}.{question.method}", "reason": str(error)},
        )
        return None
