"""What buying will do, worked out before it is pressed: for Buy Now and for the cart."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from pydantic import TypeAdapter

from chassis.money import bps_of, whole_cents
from contracts.billing import GetDiscounts
from contracts.catalog import GetQuote, Meter, Product, QuoteLine
from contracts.topup import (
    AutoTopupPreview,
    AutoTopupStatus,
    ChargeForecast,
    ForecastCharges,
    GetTopupOverview,
    PaymentMethod,
    PlannedCharge,
    PreviewAutoTopup,
    RefusalCode,
    TopupOverview,
)
from contracts.wallet import AccountStatus, Affordability, CheckAffordability
from services.gateway.backend import ask, ask_all, call, call_and_ask
from services.gateway.pages.forms import (
    CREDIT_CHOICES_MICROS,
    amounts_for,
    charged_micros,
)


@dataclass(frozen=True)
class ByCard:
    """What a card can pay towards a shortfall; 0: credits without one. ``card`` is the saved one
    that one click charges, and ``paid_topups`` what that click has seen. A bound of 0 is unknown.
    """

    shortfall_micros: int = 0
    card: PaymentMethod | None = None
    paid_topups: int = 0
    least_micros: int = 0
    most_micros: int = 0
    auto_topup: AutoTopupStatus | None = None

    @property
    def amounts(self) -> list[int]:
        return amounts_for(self.shortfall_micros, self.least_micros, self.most_micros)

    @property
    def chosen_micros(self) -> int | None:
        """What is chosen unless the person chooses otherwise: as little as covers it."""
        if not self.shortfall_micros:
            return CREDIT_CHOICES_MICROS[1]
        return self.amounts[0] if self.amounts else None

    @property
    def custom_micros(self) -> int:
        """What stands in the field for an own amount; 0 for nothing."""
        lacking = max(whole_cents(self.shortfall_micros), self.least_micros)
        if not self.shortfall_micros:
            return 0
        return min(lacking, self.most_micros) if self.most_micros else lacking


def by_card(overview: TopupOverview | None, shortfall_micros: int = 0) -> ByCard:
    """The default card; none where nobody could say what is saved."""
    if overview is None:
        return ByCard(shortfall_micros)
    status, cards = overview.auto_topup, overview.payment_methods.payment_methods
    return ByCard(
        shortfall_micros=shortfall_micros,
        card=cards[0] if cards else None,
        paid_topups=overview.paid_topups,
        least_micros=status.topup_amount_min_micros,
        most_micros=status.topup_amount_max_micros,
        auto_topup=status,
    )


@dataclass(frozen=True)
class Payment:
    """How so much would be paid. ``auto_topup`` is what would be charged by itself, now or when
    what is in its way has passed; None where nothing would be. ``forecast`` is every charge that
    buying sets off, also below the threshold afterwards; None where nobody could say."""

    total_micros: int
    balance_micros: int
    shortfall_micros: int
    auto_topup: AutoTopupPreview | None
    auto_topup_refusal: str
    forecast: ChargeForecast | None
    is_frozen: bool
    by_card: ByCard

    @property
    def needs_credits(self) -> bool:
        """Whether the person must buy credits by hand for this."""
        return self.shortfall_micros > 0 and self.auto_topup is None

    @property
    def is_being_confirmed(self) -> bool:
        """Whether a payment is under way that may cover this, so that none is asked for."""
        return self.auto_topup is not None and self.auto_topup.refusal_code is RefusalCode.IN_FLIGHT

    @property
    def charges(self) -> list[PlannedCharge]:
        """What pressing Buy Now sets off."""
        if self.forecast is None or self.is_frozen or self.needs_credits:
            return []
        return self.forecast.charges

    @property
    def others_micros(self) -> int:
        """What purchases that wait already take of the credits that come."""
        if self.forecast is None or not self.charges:
            return 0
        arriving_micros = self.forecast.in_flight_micros + charged_micros(self.charges)
        came_micros = self.balance_micros + arriving_micros
        return came_micros - self.total_micros - self.balance_after_micros

    @property
    def balance_after_micros(self) -> int:
        """Balance + automatic top-ups − price: what is left when all went through."""
        if self.forecast is not None and self.forecast.is_covered:
            return self.forecast.balance_after_micros
        topup_micros = self.auto_topup.amount_micros if self.auto_topup else 0
        return self.balance_micros + topup_micros - self.total_micros


@dataclass(frozen=True)
class Offer:
    """A product, so many of it, and how they would be paid."""

    product: Product
    quantity: int
    unit_price_micros: int
    unit_discount_micros: int
    payment: Payment

    @property
    def list_price_micros(self) -> int:
        """What all of it costs by the catalog."""
        return self.unit_price_micros * self.quantity

    @property
    def discount_micros(self) -> int:
        return self.unit_discount_micros * self.quantity

    @property
    def meters_said(self) -> str:
        """What is charged by use, as the form carries it."""
        return TypeAdapter(list[Meter]).dump_json(self.product.meters).decode()


def make_offer(user_id: UUID, product: Product, quantity: int) -> Offer:
    """Ask the catalog for the price, what is taken off it, and how it would be paid.

    Raises ``OutOfStock`` and ``NotFound`` of the catalog.
    """
    quote, discounts = call_and_ask(
        GetQuote(lines=[QuoteLine(product_id=product.product_id, quantity=quantity)]),
        GetDiscounts(user_id=user_id, provider_ids=[product.provider_id]),
    )
    line = quote.lines[0]
    off_micros = 0
    if discounts is not None:
        off_micros = bps_of(line.unit_price_micros, discounts.discounts_bps[0])
    payment = make_payment(user_id, quote.total_micros - off_micros * quantity)
    return Offer(line.product, quantity, line.unit_price_micros, off_micros, payment)


def make_payment(user_id: UUID, total_micros: int) -> Payment:
    """Ask the wallet for cover, and auto top-up for its help."""
    cover = _cover(user_id, total_micros)
    lacking = cover.shortfall_micros
    preview, forecast = ask_all(
        PreviewAutoTopup(user_id=user_id, shortfall_micros=lacking) if lacking else None,
        ForecastCharges(user_id=user_id, spend_micros=total_micros),
    )
    will_topup = preview is not None and (
        preview.amount_micros > 0 or preview.refusal_code is RefusalCode.IN_FLIGHT
    )
    pays_card = lacking > 0 and not will_topup
    overview = ask(GetTopupOverview(user_id=user_id)) if pays_card else None
    return Payment(
        total_micros=total_micros,
        balance_micros=cover.available_micros,
        shortfall_micros=cover.shortfall_micros,
        auto_topup=preview if will_topup else None,
        auto_topup_refusal=_refusal(preview),
        forecast=forecast,
        is_frozen=cover.status is AccountStatus.FROZEN,
        by_card=by_card(overview, lacking),
    )


def charges_of(user_id: UUID, spend_micros: int) -> Sequence[PlannedCharge]:
    """What buying for so much sets off as things are now; nothing where that cannot be told."""
    forecast = ask(ForecastCharges(user_id=user_id, spend_micros=spend_micros))
    return forecast.charges if forecast else ()


def _refusal(preview: AutoTopupPreview | None) -> str:
    """Why auto top-up will not help; not worth a word where it was never switched on."""
    if preview is None or preview.refusal_code in (None, RefusalCode.DISABLED):
        return ""
    return preview.reason


def _cover(user_id: UUID, total_micros: int) -> Affordability:
    """The wallet's answer; what costs nothing is asked about as the smallest amount."""
    cover = call(CheckAffordability(user_id=user_id, amount_micros=max(total_micros, 1)))
    if total_micros == 0:
        return cover.model_copy(update={"shortfall_micros": 0})
    return cover
