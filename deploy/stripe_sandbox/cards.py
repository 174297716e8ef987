"""Stripe's documented test cards and what each of them does.

Numbers, `pm_card_*` names, codes and messages are those of docs.stripe.com/testing and
docs.stripe.com/declines/codes, as of autumn 2026 (API version 2026-10-28). Where the pages say
"depending on your settings", an account's default settings are meant, and the stricter answer
where these are not told. `network_decline_code` is the two-character answer that the card
network gives for that reason.
"""

from dataclasses import dataclass
from typing import Literal

Authentication = Literal[
    "unsupported",  # 3-D Secure does not exist for the card
    "not_enrolled",  # asked for, it passes without a challenge
    "when_asked",
    "unless_set_up",
    "on_session",
    "always",
    "frictionless",  # always, and the owner notices nothing
    "lookup_fails",
    "lookup_fails_when_asked",
]
Check = Literal["pass", "fail", "unavailable"]


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
AUTHENTICATION_UNAVAILABLE = Decline(
    "card_declined",
    "authentication_not_handled",
    "Your card was declined. Its authentication could not be performed.",
    "try_again_later",
)
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
    """The name of its ready-made payment method, `pm_card_<token>`; empty: it has none."""
    says: str
    brand: str = "visa"
    funding: str = "credit"
    country: str = "US"
    decline: Decline | None = None
    attaches: bool = True
    """Whether a declined card can be saved first, and declines only when charged."""
    authentication: Authentication = "not_enrolled"
    disputes: tuple[str, ...] = ()
    """The reasons of the disputes that follow a charge, which share its amount."""
    fraud_warning: bool = False
    """Whether the network warns of fraud after a charge."""
    refund: Literal["succeeds", "pending", "fails"] = "succeeds"
    cvc_check: Check = "pass"
    line1_check: Check = "pass"
    postal_check: Check = "pass"
    risk: Literal["normal", "elevated"] = "normal"
    cobrand: str | None = None
    """A second network that the card belongs to, which is asked first in its country."""
    bypasses_pending: bool = False
    aliases: tuple[str, ...] = ()
    """Other names of its payment method, of the same page or of earlier ones."""
    shown: bool = False
    """Whether the hosted page offers it."""

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self.number[-4:]

    def asks_for_owner(self, *, forced: bool, off_session: bool, is_set_up: bool) -> bool:
        """Whether the issuer wants 3-D Secure; `forced`: the request asks for it."""
        return {
            "always": True,
            "on_session": forced or not off_session,
            "unless_set_up": forced or not off_session or not is_set_up,
            "when_asked": forced,
        }.get(self.authentication, False)

    def lookup_fails(self, *, forced: bool) -> bool:
        """Whether 3-D Secure cannot even begin."""
        return self.authentication == "lookup_fails" or (
            forced and self.authentication == "lookup_fails_when_asked"
        )


def _declining(
    number: str, token: str, says: str, why: Decline, *aliases: str, shown: bool = False
) -> TestCard:
    return TestCard(number, token, says, decline=why, attaches=False, aliases=aliases, shown=shown)


def _disputed(
    number: str, token: str, says: str, *reasons: str, brand: str = "visa", shown: bool = False
) -> TestCard:
    says = f"Succeeds, then {says}"
    return TestCard(number, token, says, brand, disputes=reasons, shown=shown)


_BRANDS = (
    TestCard("4242424242424242", "visa", "Visa, succeeds", shown=True, aliases=("us",)),
    TestCard("4000056655665556", "visa_debit", "Succeeds", funding="debit"),
    TestCard(
        "5555555555554444", "mastercard", "Mastercard, succeeds", brand="mastercard", shown=True
    ),
    TestCard("2223003122003222", "mastercard_series2", "Succeeds", brand="mastercard"),
    TestCard("5200828282828210", "mastercard_debit", "Succeeds", "mastercard", "debit"),
    TestCard("5105105105105100", "mastercard_prepaid", "Succeeds", "mastercard", "prepaid"),
    TestCard("378282246310005", "amex", "American Express, succeeds", "amex",
             authentication="unsupported", aliases=("amex_threeDSecureNotSupported",),
             shown=True),
    TestCard("371449635398431", "amex2", "Succeeds", "amex", authentication="unsupported"),
    TestCard("6011111111111117", "discover", "Discover, succeeds", "discover",
             authentication="unsupported"),
    TestCard("6011000990139424", "", "Discover, succeeds", "discover",
             authentication="unsupported"),
    TestCard("6011981111111113", "", "Discover, succeeds", "discover", "debit",
             authentication="unsupported"),
    TestCard("3056930009020004", "diners", "Diners Club, succeeds", "diners",
             authentication="unsupported"),
    TestCard("36227206271667", "", "Diners Club with 14 digits, succeeds", "diners",
             authentication="unsupported"),
    TestCard("3566002020360505", "jcb", "JCB, succeeds", "jcb", country="JP",
             authentication="unsupported"),
    TestCard("3530111333300000", "", "JCB, succeeds", "jcb", country="JP",
             authentication="unsupported"),
    TestCard("6200000000000005", "unionpay", "UnionPay, succeeds", "unionpay", country="CN",
             authentication="unsupported"),
    TestCard("6200000000000047", "", "UnionPay, succeeds", "unionpay", "debit", "CN",
             authentication="unsupported"),
    TestCard("6205500000000000004", "", "UnionPay with 19 digits, succeeds", "unionpay",
             country="CN", authentication="unsupported"),
    TestCard("4000002500001001", "visa_cartesBancaires", "Cartes Bancaires and Visa, succeeds",
             country="FR", cobrand="cartes_bancaires"),
    TestCard("5555552500001001", "mastercard_cartesBancaires",
             "Cartes Bancaires and Mastercard, succeeds", "mastercard", country="FR",
             cobrand="cartes_bancaires"),
    TestCard("4000050360000001", "visa_debit_eftposAuCoBranded",
             "eftpos Australia and Visa, succeeds", funding="debit", country="AU",
             cobrand="eftpos_au"),
    TestCard("5555050360000080", "mastercard_debit_eftposAuCoBranded",
             "eftpos Australia and Mastercard, succeeds", "mastercard", "debit", "AU",
             cobrand="eftpos_au"),
)  # fmt: skip
_AUTHENTICATION = (
    TestCard("4000002760003184", "authenticationRequired", "Always asks for 3-D Secure",
             country="IE", authentication="always", shown=True),
    TestCard("4000002500003155", "authenticationRequiredOnSetup",
             "Asks for 3-D Secure once, then works by itself", country="IE",
             authentication="unless_set_up", shown=True),
    TestCard("4000003800000446", "authenticationRequiredSetupForOffSession",
             "Asks for 3-D Secure, already set up for later", country="IE",
             authentication="on_session"),
    TestCard("4000008260003178", "authenticationRequiredChargeDeclinedInsufficientFunds",
             "Asks for 3-D Secure, then has no funds", country="GB",
             decline=INSUFFICIENT_FUNDS, authentication="unless_set_up"),
    TestCard("4000000000003220", "threeDSecure2Required", "Asks for 3-D Secure",
             country="IE", authentication="always"),
    TestCard("4000008400000027", "", "Asks for 3-D Secure", authentication="always"),
    TestCard("4000008400001629", "threeDSecureRequiredChargeDeclined",
             "Asks for 3-D Secure, then is declined", decline=GENERIC, authentication="always"),
    TestCard("4000008400001280", "threeDSecureRequiredProcessingError",
             "Needs 3-D Secure, which fails", authentication="lookup_fails"),
    TestCard("4000000000003055", "threeDSecureOptional", "3-D Secure only when asked for",
             authentication="when_asked"),
    TestCard("4000000000003097", "threeDSecureOptionalProcessingError",
             "3-D Secure fails when asked for", authentication="lookup_fails_when_asked"),
    TestCard("4000000032200000", "", "3-D Secure that its owner does not notice",
             authentication="frictionless"),
)  # fmt: skip
_DECLINES = (
    _declining("4000000000000002", "visa_chargeDeclined", "Is declined", GENERIC,
               "chargeDeclined", shown=True),
    _declining("4000000000009995", "visa_chargeDeclinedInsufficientFunds", "Has no funds",
               INSUFFICIENT_FUNDS, "chargeDeclinedInsufficientFunds", shown=True),
    _declining("4000000000009987", "visa_chargeDeclinedLostCard", "Reported lost", LOST,
               "chargeDeclinedLostCard"),
    _declining("4000000000009979", "visa_chargeDeclinedStolenCard", "Reported stolen", STOLEN,
               "chargeDeclinedStolenCard"),
    _declining("4000000000000069", "chargeDeclinedExpiredCard", "Has expired", EXPIRED,
               "visa_chargeDeclinedExpiredCard", shown=True),
    _declining("4000000000000127", "chargeDeclinedIncorrectCvc", "Wrong security code",
               INCORRECT_CVC, "visa_chargeDeclinedIncorrectCvc"),
    _declining("4000000000000119", "chargeDeclinedProcessingError", "Processing error",
               PROCESSING_ERROR, "visa_chargeDeclinedProcessingError"),
    _declining("4242424242424241", "chargeDeclinedIncorrectNumber", "Wrong number",
               INCORRECT_NUMBER),
    _declining("4000000000006975", "visa_chargeDeclinedVelocityLimitExceeded",
               "Used too often", VELOCITY, "chargeDeclinedVelocityLimitExceeded"),
    TestCard("4000000000000341", "chargeCustomerFail", "Can be saved, then is declined",
             decline=GENERIC, aliases=("visa_chargeCustomerFail",), shown=True),
)  # fmt: skip
_FRAUD = (
    _declining("4100000000000019", "radarBlock", "Blocked as fraudulent", FRAUDULENT),
    TestCard("4000000000004954", "riskLevelHighest", "Can be saved, then is blocked",
             decline=FRAUDULENT),
    TestCard("4000000000009235", "riskLevelElevated", "Succeeds, with an elevated risk",
             risk="elevated"),
    TestCard("4000008400000407", "highFraudDisputeScore", "Succeeds, likely to be disputed"),
    TestCard("4000008400000159", "highEfwScore", "Succeeds, likely to be warned of"),
    TestCard("4000008400001017", "radarDynamicRiskThreshold", "Succeeds by default"),
    TestCard("4000008405600003", "adaptive3dsChallenge", "Succeeds by default"),
    TestCard("4000000000000101", "cvcCheckFail", "Succeeds, the code's check fails",
             cvc_check="fail"),
    TestCard("4000058400307872", "cvcCheckFailElevatedRisk",
             "Succeeds, the code's check fails, elevated risk", cvc_check="fail",
             risk="elevated"),
    TestCard("4000000000000036", "avsZipFail", "Succeeds, the postal code's check fails",
             postal_check="fail"),
    TestCard("4000058400306072", "avsZipFailElevatedRisk",
             "Succeeds, the postal code's check fails, elevated risk", postal_check="fail",
             risk="elevated"),
    TestCard("4000000000000028", "avsLine1Fail", "Succeeds, the address's check fails",
             line1_check="fail"),
    TestCard("4000000000000010", "avsFail", "Succeeds, both checks of the address fail",
             line1_check="fail", postal_check="fail"),
    TestCard("4000000000000044", "avsUnchecked", "Succeeds, the address cannot be checked",
             line1_check="unavailable", postal_check="unavailable"),
)  # fmt: skip
_DISPUTES = (
    _disputed("4000000000000259", "createDispute", "disputed as fraud", "fraudulent",
              shown=True),
    _disputed("4000000000002685", "createDisputeProductNotReceived", "disputed as not received",
              "product_not_received"),
    _disputed("4000000000001976", "createDisputeInquiry", "an inquiry", "inquiry"),
    TestCard("4000000000005423", "createIssuerFraudRecord", "Succeeds, with a fraud warning",
             fraud_warning=True),
    _disputed("4000000404000079", "createMultipleDisputes", "disputed twice, half each time",
              "fraudulent", "product_not_received"),
    _disputed("4000000404000038", "createCe3EligibleDispute", "disputed as fraud",
              "fraudulent"),
    _disputed("4000008400000779", "createComplianceDispute", "disputed for its rules",
              "noncompliant"),
    _disputed("5105008400000002", "createMastercardComplianceDispute", "disputed for its rules",
              "noncompliant", brand="mastercard"),
    _disputed("4000000001000043", "createAutoRepresentmentEligibleDispute",
              "disputed as fraud", "fraudulent"),
    _disputed("4000000404004816", "createRapidDisputeResolutionDispute", "disputed as fraud",
              "fraudulent"),
    _disputed("4000000404005649", "createCe3BlockDispute", "disputed as fraud", "fraudulent"),
    _disputed("5105000300000018", "createEthocaAlert", "disputed as fraud", "fraudulent",
              brand="mastercard"),
)  # fmt: skip
_MONEY = (
    TestCard("4000000000007726", "pendingRefund", "Refunds are pending, then succeed",
             refund="pending"),
    TestCard("4000000000005126", "refundFail", "Refunds succeed, then fail", refund="fails"),
    TestCard("4000000000000077", "bypassPending", "Succeeds, funds available at once",
             bypasses_pending=True),
    TestCard("4000003720000278", "bypassPendingInternational",
             "Succeeds, funds available at once", country="IE", bypasses_pending=True),
)  # fmt: skip

CARDS = (*_BRANDS, *_AUTHENTICATION, *_DECLINES, *_FRAUD, *_DISPUTES, *_MONEY)
BY_NUMBER = {card.number: card for card in CARDS}
BY_TOKEN = {
    f"pm_card_{name}": card for card in CARDS for name in (card.token, *card.aliases) if name
}


def luhn_valid(number: str) -> bool:
    """Whether the last digit is right; ISO/IEC 7812's check."""
    digits = [int(digit) for digit in reversed(number)]
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[1::2]]
    return (sum(digits[0::2]) + sum(doubled)) % 10 == 0
