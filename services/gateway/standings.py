"""What nearly every page asks of who looks at it, the wallet and whether auto top-up is on: asked
in one call of each service about all whose pages are made at the same moment."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from chassis.context import nobodys_call
from chassis.together import ALONE, Alone, Together
from contracts.errors import NO_ANSWER, ServiceError
from contracts.messages import Reply, Request
from contracts.topup import AutoTopupStates, GetAutoTopupState, GetAutoTopupStates
from contracts.wallet import GetWallet, GetWallets, Wallets

TURN_S = 0.1
"""So long those who come meanwhile wait for the question before theirs, and no longer."""

Question = GetWallet | GetAutoTopupState
Found = Mapping[Question, Reply | ServiceError]
"""The answer to each question, or why there is none."""
Begin = Callable[[Request[Any]], Callable[[], Reply]]


class Standings:
    """Asks the wallet and the top-up service, both at once. ``begin`` begins a call, which lasts as
    long as the site waits for one; what it returns waits for the answer."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._together = Together(self.find_all, self._find, turn_s=TURN_S)

    def find(self, questions: Sequence[Question]) -> Found:
        """What is asked by one page."""
        return self._together.do(questions)

    def find_all(self, pages: Sequence[Sequence[Question]]) -> list[Found | Alone]:
        """The same of several. Who is by himself, and of whom nothing is known, asks alone."""
        if len(pages) == 1:
            return [ALONE]
        asked = {question for questions in pages for question in questions}
        with nobodys_call():
            found = self._of_many(asked)
        return [
            {question: found[question] for question in questions}
            if all(question in found for question in questions)
            else ALONE
            for questions in pages
        ]

    def _of_many(self, asked: Iterable[Question]) -> dict[Question, Reply | ServiceError]:
        """A service that does not answer is asked once for all of them."""
        wallets = [question for question in asked if isinstance(question, GetWallet)]
        states = [question for question in asked if isinstance(question, GetAutoTopupState)]
        wallets_told = self._begun(GetWallets(user_ids=_users(wallets))) if wallets else None
        states_told = self._begun(GetAutoTopupStates(user_ids=_users(states))) if states else None
        found: dict[Question, Reply | ServiceError] = {}
        if wallets_told is not None:
            told = wallets_told()
            if isinstance(told, Wallets):
                found |= {GetWallet(user_id=each.user_id): each for each in told.wallets}
            elif isinstance(told, NO_ANSWER):
                found |= dict.fromkeys(wallets, told)
        if states_told is not None:
            told = states_told()
            if isinstance(told, AutoTopupStates):
                found |= dict(zip(states, told.states, strict=True))
            elif isinstance(told, NO_ANSWER):
                found |= dict.fromkeys(states, told)
        return found

    def _find(self, questions: Sequence[Question]) -> Found:
        begun = [(question, self._begun(question)) for question in questions]
        return {question: told() for question, told in begun}

    def _begun(self, request: Request[Any]) -> Callable[[], Reply | ServiceError]:
        try:
            answer = self._begin(request)
        except ServiceError as error:
            failed = error
            return lambda: failed

        def told() -> Reply | ServiceError:
            try:
                return answer()
            except ServiceError as error:
                return error

        return told


def told(outcome: Reply | ServiceError) -> Any:
    """An answer; raises what there is instead."""
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _users(questions: Iterable[Question]) -> list[UUID]:
    return [question.user_id for question in questions]
