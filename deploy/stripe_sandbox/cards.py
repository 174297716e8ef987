"""Stripe's documented test cards and what each of them does.

Numbers, `pm_card_*` names, codes and messages are those of Stripe's testing and decline pages.
`network_decline_code` is the two-character answer that the card network gives for that reason.
"""

from dataclasses import dataclass
from typing import Literal

Authentication = Literal["never", "optional", "unless_set_up", "on_session", "always"]


@dataclass(frozen=True)
class Decline:
    """Why an issuer says no, in the words of the API."""

    code: str
    decline_code: str | None
    message: str
    advice_code: str | None = None
    network_decline_code: str | None = None
    param: str | None = None
    """The field of a card form that the reason belongs to."""


DECLINED = "Your card was declined."
GENERIC = Decline("card_declined", "generic_decline", DECLINED, "try_again_later", "05")
INSUFFICIENT_FUNDS = Decline(
    "card_declined",
    "insufficient_funds",
    "Your card has insufficient funds.",
    "try_again_later",
    "51",
)
LOST = Decline("card_declined", "lost_card", DECLINED, "do_not_try_again", "41")
STOLEN = Decline("card_declined", "stolen_card", DECLINED, "do_not_try_again", "43")
EXPIRED = Decline(
    "expired_card",
    "expired_card",
    "Your card has expired.",
    "confirm_card_data",
    "54",
    "exp_month",
)
INCORRECT_CVC = Decline(
    "incorrect_cvc",
    "incorrect_cvc",
    "Your card's security code is incorrect.",
    "confirm_card_data",
    "N7",
    "cvc",
)
PROCESSING_ERROR = Decline(
    "processing_error",
    "processing_error",
    "An error occurred while processing your card. Try again in a little bit.",
    "try_again_later",
    "96",
)
INCORRECT_NUMBER = Decline(
    "incorrect_number", None, "Your card number is incorrect.", None, None, "number"
)
VELOCITY = Decline(
    "card_declined",
    "card_velocity_exceeded",
    "Your card was declined for making repeated attempts too frequently or exceeding its amount"
    " limit.",
    "try_again_later",
    "61",
)
FRAUDULENT = Decline("card_declined", "fraudulent", DECLINED, "do_not_try_again", "59")
DO_NOT_HONOR = Decline("card_declined", "do_not_honor", DECLINED, "try_again_later", "05")
AUTHENTICATION_REQUIRED = Decline(
    "authentication_required",
    "authentication_required",
    "Your card was declined. This transaction requires authentication.",
    None,
    "1A",
)


@dataclass(frozen=True)
class TestCard:
    """One documented card: what it is and how it behaves."""

    number: str
    token: str
    """The name of its ready-made payment method: `pm_card_<token>`."""
    says: str
    brand: str = "visa"
    funding: str = "credit"
    country: str = "US"
    decline: Decline | None = None
    attaches: bool = True
    """Whether a declined card can be saved first, and declines only when charged."""
    authentication: Authentication = "optional"
    dispute: str | None = None
    """The reason of the dispute that follows a charge at once."""
    refund: Literal["succeeds", "pending", "fails"] = "succeeds"
    shown: bool = False
    """Whether the hosted page offers it."""

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self.number[-4:]


def _declining(
    number: str, token: str, says: str, why: Decline, *, shown: bool = False
) -> TestCard:
    return TestCard(number, token, says, decline=why, attaches=False, shown=shown)


CARDS: tuple[TestCard, ...] = (
    TestCard("4242424242424242", "visa", "Visa, succeeds", shown=True),
    TestCard("4000056655665556", "visa_debit", "Succeeds", funding="debit"),
    TestCard(
        "5555555555554444", "mastercard", "Mastercard, succeeds", brand="mastercard", shown=True
    ),
    TestCard("2223003122003222", "mastercard_series2", "Succeeds", brand="mastercard"),
    TestCard("5200828282828210", "mastercard_debit", "Succeeds", "mastercard", "debit"),
    TestCard("5105105105105100", "mastercard_prepaid", "Succeeds", "mastercard", "prepaid"),
    TestCard(
        "378282246310005",
        "amex",
        "American Express, succeeds",
        brand="amex",
        authentication="never",
        shown=True,
    ),
    TestCard("371449635398431", "amex2", "Succeeds", brand="amex", authentication="never"),
    TestCard("6011111111111117", "discover", "Succeeds", "discover", authentication="never"),
    TestCard("3056930009020004", "diners", "Succeeds", "diners", authentication="never"),
    TestCard("3566002020360505", "jcb", "Succeeds", "jcb", authentication="never"),
    TestCard("6200000000000005", "unionpay", "Succeeds", "unionpay", authentication="never"),
    TestCard("4000002760003184", "authenticationRequired", "Always asks for 3-D Secure",
             country="IE", authentication="always", shown=True),
    TestCard("4000002500003155", "authenticationRequiredOnSetup",
             "Asks for 3-D Secure once, then works by itself", country="IE",
             authentication="unless_set_up", shown=True),
    TestCard("4000003800000446", "authenticationRequiredSetupForOffSession",
             "Asks for 3-D Secure, already set up for later", country="IE",
             authentication="on_session"),
    TestCard("4000008260003178", "authenticationRequiredChargeDeclinedInsufficientFunds",
             "Asks for 3-D Secure, then has no funds", country="IE",
             decline=INSUFFICIENT_FUNDS, authentication="unless_set_up"),
    TestCard("4000000000003220", "threeDSecure2Required", "Asks for 3-D Secure",
             authentication="always"),
    TestCard("4000008400001629", "threeDSecureRequiredChargeDeclined",
             "Asks for 3-D Secure, then is declined", decline=GENERIC, authentication="always"),
    TestCard("4000000000003055", "threeDSecureOptional", "3-D Secure only when asked for"),
    TestCard("4000000000009995", "chargeDeclinedInsufficientFunds", "Has no funds",
             decline=INSUFFICIENT_FUNDS, attaches=False, shown=True),
    _declining("4000000000000002", "chargeDeclined", "Is declined", GENERIC, shown=True),
    _declining("4000000000009987", "chargeDeclinedLostCard", "Reported lost", LOST),
    _declining("4000000000009979", "chargeDeclinedStolenCard", "Reported stolen", STOLEN),
    _declining("4000000000000069", "chargeDeclinedExpiredCard", "Has expired", EXPIRED,
               shown=True),
    _declining("4000000000000127", "chargeDeclinedIncorrectCvc", "Wrong security code",
               INCORRECT_CVC),
    _declining("4000000000000119", "chargeDeclinedProcessingError", "Processing error",
               PROCESSING_ERROR),
    _declining("4242424242424241", "chargeDeclinedIncorrectNumber", "Wrong number",
               INCORRECT_NUMBER),
    _declining("4000000000006975", "chargeDeclinedVelocityLimitExceeded",
               "Used too often", VELOCITY),
    _declining("4100000000000019", "radarBlock", "Blocked as fraudulent", FRAUDULENT),
    TestCard("4000000000000341", "chargeCustomerFail", "Can be saved, then is declined",
             decline=GENERIC, shown=True),
    TestCard("4000000000000259", "createDispute", "Succeeds, then disputed as fraud",
             dispute="fraudulent", shown=True),
    TestCard("4000000000002685", "createDisputeProductNotReceived",
             "Succeeds, then disputed as not received", dispute="product_not_received"),
    TestCard("4000000000001976", "createDisputeInquiry", "Succeeds, then an inquiry",
             dispute="inquiry"),
    TestCard("4000000000005423", "createIssuerFraudRecord", "Succeeds, with a fraud warning"),
    TestCard("4000000000007726", "pendingRefund", "Refunds start pending", refund="pending"),
    TestCard("4000000000005126", "refundFail", "Refunds fail afterwards", refund="fails"),
    TestCard("4000000000000077", "bypassPending", "Succeeds, funds available at once"),
)  # fmt: skip

BY_NUMBER = {card.number: card for card in CARDS}
BY_TOKEN = {f"pm_card_{card.token}": card for card in CARDS}


def luhn_valid(number: str) -> bool:
    """Whether the last digit is right; ISO/IEC 7812's check."""
    digits = [int(digit) for digit in reversed(number)]
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[1::2]]
    return (sum(digits[0::2]) + sum(doubled)) % 10 == 0
