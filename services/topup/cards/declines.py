"""What a decline means: a sentence for the person, and whether trying again makes sense.

Codes: Stripe's ``code``, ``decline_code`` and ``advice_code``
(docs.stripe.com/declines/codes). Fraud is told as a plain decline, as Stripe asks.
"""

from enum import StrEnum

from services.topup.processor import KEY_REFUSED, Declined


class Verdict(StrEnum):
    """What automatic top-up does about a decline."""

    RETRY_LATER = "retry_later"
    NEEDS_PERSON = "needs_person"
    """The bank wants its customer to confirm."""
    TERMINAL = "terminal"
    """This card will not work again."""


AUTHENTICATION = "authentication_required"

_TERMINAL = frozenset(
    {
        "do_not_try_again", "expired_card", "fraudulent", "incorrect_number", "invalid_account",
        "invalid_number", "lost_card", "merchant_blacklist", "new_account_information_available",
        "pickup_card", "restricted_card", "revocation_of_all_authorizations",
        "revocation_of_authorization", "security_violation", "stolen_card",
        "stop_payment_order", "transaction_not_allowed", "card_not_supported",
        "currency_not_supported", "invalid_expiry_month", "invalid_expiry_year",
        "payment_method_unactivated", "resource_missing", "payment_method_customer_decline",
    }
)  # fmt: skip
_TERMINAL_ADVICE = frozenset({"do_not_try_again", "confirm_card_data"})

_PLAIN = "Your bank declined the card. Use another card, or ask your bank why."
_SENTENCES = {
    AUTHENTICATION: "Your bank asks you to confirm this payment yourself.",
    "payment_intent_authentication_failure": "Your bank did not get the confirmation that it asked"
    " for. Try again, or use another card.",
    "insufficient_funds": "The card has insufficient funds.",
    "withdrawal_count_limit_exceeded": "The card has reached its limit.",
    "card_velocity_exceeded": "The card was used too often or has reached its limit.",
    "expired_card": "The card has expired. Add one that is valid.",
    "incorrect_cvc": "The card's security code was wrong. Add the card again.",
    "invalid_cvc": "The card's security code was wrong. Add the card again.",
    "incorrect_number": "The card's number is wrong. Add the card again.",
    "invalid_number": "The card's number is wrong. Add the card again.",
    "invalid_expiry_month": "The card's expiry date is wrong. Add the card again.",
    "invalid_expiry_year": "The card's expiry date is wrong. Add the card again.",
    "processing_error": "Your bank could not process the payment. It is tried again later.",
    "issuer_not_available": "Your bank could not be reached. It is tried again later.",
    "reenter_transaction": "Your bank could not process the payment. It is tried again later.",
    "try_again_later": "Your bank asks to try again later.",
    "card_not_supported": "The card does not support this kind of payment. Use another card.",
    "currency_not_supported": "The card does not support US dollars. Use another card.",
    "resource_missing": "The card is no longer known to the card processor. Add it again.",
    KEY_REFUSED: "Card payments are not available at present. We were told.",
}
NO_CHARGE_WAS_MADE = "The payment did not reach the card processor."


def verdict(code: str, decline_code: str = "", advice_code: str = "") -> Verdict:
    """Whether the same card may be tried again, and by whom."""
    if AUTHENTICATION in (code, decline_code):
        return Verdict.NEEDS_PERSON
    if advice_code in _TERMINAL_ADVICE or not _TERMINAL.isdisjoint((code, decline_code)):
        return Verdict.TERMINAL
    return Verdict.RETRY_LATER


def sentence(code: str, decline_code: str = "") -> str:
    """The reason, for the card's owner."""
    return _SENTENCES.get(decline_code) or _SENTENCES.get(code) or _PLAIN


def by_hand(code: str, decline_code: str = "") -> str:
    """The same for somebody who has just pressed a button: nothing is tried again by itself."""
    if AUTHENTICATION in (code, decline_code):
        return "Your bank wants you to confirm payments with this card. Use another card."
    return sentence(code, decline_code).replace(
        "It is tried again later.", "Try again in a moment."
    )


def code_of(decline: Declined) -> str:
    """The most exact of the processor's codes."""
    return decline.decline_code or decline.code
