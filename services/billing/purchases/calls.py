"""Calls to the catalog and the wallet: those of the same moment go as one."""

from collections.abc import Callable, Sequence
from functools import partial

from chassis.client import RpcClient
from chassis.context import nobodys_call
from chassis.together import ALONE, Alone, Together
from contracts.catalog import GetQuote, Quote, QuoteLine
from contracts.errors import NO_ANSWER, ServiceError, with_code
from contracts.messages import ReplyT, Request
from contracts.wallet import Debit, DebitAll, DebitResult, Transaction

QUOTED_AT_ONCE_MAX = 50

Lines = tuple[QuoteLine, ...]


class Calls:
    """Asks for prices and takes money, for whoever needs it at the same moment."""

    def __init__(self, rpc: RpcClient, timeout_s: float) -> None:
        self._rpc = rpc
        self._timeout_s = timeout_s
        # A debit is made under a claim, whose length counts on no wait.
        self._debits = Together(self.debit_all, self._debit_one, turn_s=0)

    def quote(self, lines: Sequence[QuoteLine]) -> Quote:
        """The prices of now. Raises what :class:`contracts.catalog.GetQuote` does."""
        return self._rpc.call(GetQuote(lines=list(lines)), timeout_s=self._timeout_s)

    def debit(self, debit: Debit) -> Transaction:
        """Take money. Raises what :class:`contracts.wallet.Debit` does."""
        return self._debits.do(debit)

    def quote_all(self, orders: Sequence[Lines]) -> list[Quote | Exception | Alone]:
        """Orders of one line each are asked for in one question, each price once."""
        if len(orders) == 1:
            return [_or_refusal(partial(self.quote, orders[0]))]
        wanted = list(dict.fromkeys(lines[0] for lines in orders if len(lines) == 1))
        wanted = wanted[:QUOTED_AT_ONCE_MAX]
        if not wanted:
            return [ALONE] * len(orders)
        try:
            quote = self._for_all(GetQuote(lines=wanted))
        except NO_ANSWER as error:
            return [error] * len(orders)
        except ServiceError:
            # One of them cannot be had: each hears for itself.
            return [ALONE] * len(orders)
        found: dict[Lines, Quote] = {
            (line,): Quote(lines=[quoted], total_micros=quoted.amount_micros)
            for line, quoted in zip(wanted, quote.lines, strict=True)
        }
        return [found.get(lines, ALONE) for lines in orders]

    def _debit_one(self, debit: Debit) -> Transaction:
        return self._rpc.call(debit, timeout_s=self._timeout_s)

    def debit_all(self, debits: Sequence[Debit]) -> list[Transaction | Exception | Alone]:
        """What comes of each."""
        if len(debits) == 1:
            return [_or_refusal(partial(self._debit_one, debits[0]))]
        try:
            made = self._for_all(DebitAll(debits=list(debits)))
        except NO_ANSWER as error:
            return [error] * len(debits)
        except ServiceError:
            # A wallet, or a broker's table, that is older than this call.
            return [ALONE] * len(debits)
        return [_outcome(result) for result in made.results]

    def _for_all(self, request: Request[ReplyT]) -> ReplyT:
        with nobodys_call():
            return self._rpc.call(request, timeout_s=self._timeout_s)


def _or_refusal(call: Callable[[], ReplyT]) -> ReplyT | Exception:
    try:
        return call()
    except ServiceError as error:
        return error


def _outcome(result: DebitResult) -> Transaction | Exception | Alone:
    if result.error is not None:
        return with_code(result.error.code, result.error.message, *result.error.details)
    return result.transaction or ALONE
