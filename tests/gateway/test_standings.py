"""Wallets and the state of auto top-up are asked about all whose pages are made at the same moment,
and each page gets its own answers."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from chassis.together import ALONE
from contracts.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable
from contracts.messages import Request
from contracts.topup import (
    AutoTopupState,
    AutoTopupStates,
    GetAutoTopupState,
    GetAutoTopupStates,
)
from contracts.wallet import AccountStatus, GetWallet, GetWallets, Wallet, Wallets
from services.gateway.standings import Question, Standings, told

OFF = AutoTopupState(enabled=False, state="off")


class Services:
    """A wallet and a top-up service. ``owners`` have a wallet, ``active`` an auto top-up that is
    on; what stands in ``fails`` raises, when it is asked or when its answer is waited for."""

    def __init__(self, *owners: UUID, active: UUID | None = None) -> None:
        self.owners, self.active = owners, active
        self.fails: dict[type, Exception] = {}
        self.is_away = False
        self.asked: list[Request[Any]] = []

    def begin(self, request: Request[Any]) -> Callable[[], Any]:
        self.asked.append(request)
        error = self.fails.get(type(request))
        if error is not None and self.is_away:
            raise error
        return lambda: self.answer(request, error)

    def answer(self, request: Any, error: Exception | None) -> Any:
        if error is not None:
            raise error
        if isinstance(request, GetWallets):
            # In an order of its own.
            found = [each for each in self.owners if each in request.user_ids]
            return Wallets(wallets=[wallet(each) for each in found])
        if isinstance(request, GetAutoTopupStates):
            return AutoTopupStates(states=[self.state(each) for each in request.user_ids])
        if isinstance(request, GetAutoTopupState):
            return self.state(request.user_id)
        if request.user_id not in self.owners:
            raise NotFound("This user has no wallet.")
        return wallet(request.user_id)

    def state(self, user_id: UUID) -> AutoTopupState:
        return AutoTopupState(enabled=True, state="active") if user_id == self.active else OFF


def wallet(user_id: UUID) -> Wallet:
    return Wallet(
        user_id=user_id,
        account_id=1,
        balance_micros=user_id.int % 1_000,
        held_micros=0,
        available_micros=0,
        status=AccountStatus.OPEN,
        opened_at=datetime(2026, 11, 29, tzinfo=UTC),
    )


def page_of(user_id: UUID) -> list[Question]:
    return [GetWallet(user_id=user_id), GetAutoTopupState(user_id=user_id)]


def test_pages_of_a_moment_ask_each_service_once_and_get_their_own_answers() -> None:
    ada, ben, cleo = uuid4(), uuid4(), uuid4()
    services = Services(cleo, ben, ada, active=ben)
    pages = [page_of(ada), page_of(ben), [GetWallet(user_id=cleo)], page_of(ada)]

    found = Standings(services.begin).find_all(pages)

    assert found == [
        dict(zip(page_of(ada), [wallet(ada), OFF], strict=True)),
        dict(zip(page_of(ben), [wallet(ben), services.state(ben)], strict=True)),
        {GetWallet(user_id=cleo): wallet(cleo)},
        dict(zip(page_of(ada), [wallet(ada), OFF], strict=True)),
    ]
    wallets, states = services.asked
    assert isinstance(wallets, GetWallets)
    assert sorted(wallets.user_ids) == sorted([ada, ben, cleo])
    assert isinstance(states, GetAutoTopupStates)
    assert sorted(states.user_ids) == sorted([ada, ben])


def test_a_page_by_itself_asks_about_one() -> None:
    ada = uuid4()
    services = Services(ada, active=ada)

    found = Standings(services.begin).find(page_of(ada))

    assert list(found.values()) == [wallet(ada), services.state(ada)]
    assert services.asked == page_of(ada)


def test_who_has_no_wallet_asks_alone_and_hears_it() -> None:
    ada, nobody = uuid4(), uuid4()
    standings = Standings(Services(ada).begin)

    assert standings.find_all([page_of(ada), page_of(nobody)])[1] is ALONE
    found = standings.find(page_of(nobody))
    with pytest.raises(NotFound):
        told(found[GetWallet(user_id=nobody)])
    assert told(found[GetAutoTopupState(user_id=nobody)]) == OFF


@pytest.mark.parametrize("is_away", [False, True])
@pytest.mark.parametrize("error", [Unavailable("Away."), DeadlineExceeded("Silent.")])
def test_a_service_that_does_not_answer_is_asked_once_and_costs_no_answer_of_the_other(
    error: Exception, is_away: bool
) -> None:
    ada, ben = uuid4(), uuid4()
    services = Services(ada, ben)
    services.fails, services.is_away = {GetAutoTopupStates: error}, is_away

    found = Standings(services.begin).find_all([page_of(ada), page_of(ben)])

    assert found == [
        dict(zip(page_of(each), [wallet(each), error], strict=True)) for each in (ada, ben)
    ]
    assert len(services.asked) == 2


@pytest.mark.parametrize("question", [GetWallets, GetAutoTopupStates])
def test_where_the_question_about_several_is_not_known_each_asks_for_itself(
    question: type,
) -> None:
    ada, ben = uuid4(), uuid4()
    services = Services(ada, ben)
    services.fails = {question: ServiceError("gateway may not call it; nothing was done.")}

    found = Standings(services.begin).find_all([page_of(ada), page_of(ben)])

    assert found == [ALONE, ALONE]
