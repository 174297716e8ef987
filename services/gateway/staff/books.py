"""What finance looks at of the books: for the page and the API alike."""

from collections.abc import Sequence
from datetime import date

from contracts.billing import GetSalesSums, ListPayouts, PayoutPage, PayoutStatus
from contracts.topup import BookDifference, GetPaymentBooks, PaymentBooks
from contracts.wallet import Books, GetBooks
from services.gateway.backend import ask_all

SHOWN = 100
DUE = [PayoutStatus.HELD, PayoutStatus.PAYING, PayoutStatus.REFUSING]


def ask() -> tuple[Books | None, PaymentBooks | None, PayoutPage | None]:
    """The books, those of payments, and the payouts to make; None for what cannot be told now."""
    return ask_all(GetBooks(), GetPaymentBooks(limit=SHOWN), ListPayouts(statuses=DUE, limit=SHOWN))


def sold(since: date, until: date) -> GetSalesSums:
    """What everybody who sells sold in these days, the most first."""
    return GetSalesSums(since=since, until=until, limit=SHOWN)


def by_day(differences: Sequence[BookDifference]) -> list[tuple[date, list[BookDifference]]]:
    """The newest day first."""
    days: dict[date, list[BookDifference]] = {}
    for each in sorted(differences, key=lambda each: each.occurred_at, reverse=True):
        days.setdefault(each.occurred_at.date(), []).append(each)
    return list(days.items())
