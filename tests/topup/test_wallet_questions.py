"""What is asked of the wallet at the same moment goes as one question."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any
from uuid import UUID

import pytest

from chassis.identifiers import new_id
from contracts.errors import Unavailable
from contracts.wallet import AccountStatus, GetWallets, Wallet, Wallets
from services.topup.wallet_questions import Funds, WalletQuestions
from tests.patience import PATIENCE_S, eventually
from tests.topup.conftest import NOON, USD

RICH, FROZEN, NOBODY = (new_id() for _ in range(3))
STATUSES = {RICH: AccountStatus.OPEN, FROZEN: AccountStatus.FROZEN}


def wallet(user_id: UUID) -> Wallet:
    return Wallet(
        user_id=user_id,
        account_id=1,
        balance_micros=30 * USD,
        held_micros=5 * USD,
        available_micros=25 * USD,
        status=STATUSES[user_id],
        opened_at=NOON,
    )


class SlowWallet:
    """Answers the first question when it may; ``is_away`` from the second on."""

    def __init__(self, *, is_away: bool = False) -> None:
        self.asked: list[GetWallets] = []
        self.is_free = Event()
        self._is_away = is_away

    def call(self, request: Any, timeout_s: float = 0) -> Any:  # noqa: ARG002 - the protocol's
        self.asked.append(request)
        if len(self.asked) == 1:
            self.is_free.wait(PATIENCE_S)
        elif self._is_away:
            raise Unavailable("The wallet service is not running; nothing was done.")
        return Wallets(wallets=[wallet(who) for who in request.user_ids if who in STATUSES])


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def asked_behind(
    slow: SlowWallet, pool: ThreadPoolExecutor, *user_ids: UUID
) -> list[Callable[..., Funds]]:
    """Answers for these users, who ask while another question is under way."""
    questions = WalletQuestions(slow)
    first = pool.submit(questions.balance, RICH)
    assert eventually(lambda: bool(slow.asked))
    others = [pool.submit(questions.balance, user_id) for user_id in user_ids]
    assert eventually(lambda: len(questions._balances._questions._waiting) == len(user_ids))
    slow.is_free.set()
    assert first.result(PATIENCE_S).available_micros == 25 * USD
    return [other.result for other in others]


def test_wallets_are_asked_about_together(pool: ThreadPoolExecutor) -> None:
    slow = SlowWallet()

    rich, frozen, nobody = asked_behind(slow, pool, RICH, FROZEN, NOBODY)

    assert rich(PATIENCE_S) == Funds(available_micros=25 * USD)
    assert frozen(PATIENCE_S) == Funds(available_micros=25 * USD, is_frozen=True)
    assert nobody(PATIENCE_S) == Funds(available_micros=0)
    assert [len(question.user_ids) for question in slow.asked] == [1, 3]


def test_all_hear_that_the_wallet_is_away(pool: ThreadPoolExecutor) -> None:
    slow = SlowWallet(is_away=True)

    for answer in asked_behind(slow, pool, RICH, FROZEN):
        with pytest.raises(Unavailable):
            answer(PATIENCE_S)

    assert len(slow.asked) == 2
