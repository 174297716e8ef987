"""Checkout: the hosted pages on which a person buys credits, saves a card, confirms a charge.

The return page, the webhook and the janitor all end in :func:`settle_session`, which asks the
processor what became of the page and believes nothing else.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from chassis.crash_points import crash_point
from chassis.idempotency import is_retry, request_hash
from chassis.money import format_usd, to_cents, whole_cents
from contracts.errors import (
    AccountFrozen,
    Conflict,
    IdempotencyConflict,
    NotFound,
    PaymentFailed,
    ServiceError,
    Unavailable,
)
from contracts.topup import CardSetup as CardSetupReply
from contracts.topup import StartCardSetup, StartTopup, TopupKind, TopupStatus
from contracts.topup import Topup as TopupReply
from services.topup import spent_keys, topups
from services.topup.automatic import card_changes, pages, pauses, triggers
from services.topup.cards import customers
from services.topup.charging import outcomes, saved_card
from services.topup.models import AutoTopupSettings, CardSetup, Command, Topup
from services.topup.policy import Policy
from services.topup.processor import (
    KEY_REFUSED,
    CustomerGone,
    Missing,
    Object,
    OutcomeUnknown,
    ProcessorError,
    Rejected,
)
from services.topup.till import Till

log = logging.getLogger(__name__)

ASK_AGAIN_AFTER = timedelta(seconds=3)
"""A person who waits on the return page makes us ask the processor this often at most."""
SETUPS_LIVE = timedelta(hours=24)


def start(till: Till, command: StartTopup) -> TopupReply:
    """Store a top-up, then open the page on which it is paid, or charge the card that is named.

    A replay of the key opens the same page. Errors: see :class:`contracts.topup.StartTopup`.
    """
    with till.database.read() as session:
        is_new = topups.replay(session, command) is None
    if is_new:
        topups.check_amount(command.amount_micros, till.policy)
        _refuse_frozen(till, command)
        _leave_other_charge(till, command)
        if command.purchase_id is not None:
            _close_other_page(till, command, command.purchase_id)
    if command.payment_method_id is not None:
        return saved_card.pay(till, command)
    with till.database.begin() as session:
        topup, is_new = begin(session, till.clock(), command, till.policy)
    if topup.status != TopupStatus.CREATED:
        return topups.reply(topup, replayed=True)
    crash_point("topup.before_session")

    def open_page(customer_id: str) -> Object:
        key = f"{topup.topup_id}-{customer_id}"
        return _payment_page(till, topup, customer_id, key, save_card=topup.is_card_saved)

    page = _opened(till, command, open_page)
    crash_point("topup.after_session")
    with till.database.begin() as session:
        topup = _page_opened(session, till, topup.topup_id, page)
    if topup.status == TopupStatus.CANCELLED:
        _leave_unused(till, page["id"])
    return topups.reply(topup, replayed=not is_new)


def _refuse_frozen(till: Till, command: StartTopup) -> None:
    """A frozen wallet sells no credits that cannot be spent: only those that settle its debt.

    Raises ``AccountFrozen``, and ``Unavailable`` when the wallet does not answer.
    """
    try:
        funds = till.wallet.funds(command.user_id, till.clock())
    except ServiceError as error:
        raise Unavailable(
            "Your wallet cannot be read at the moment. Nothing was charged; try again in a moment."
        ) from error
    if not funds.is_frozen:
        return
    owed_micros = -funds.available_micros
    if owed_micros <= 0:
        raise AccountFrozen(
            "Your wallet is frozen: credits bought now could not be spent. Nothing was charged."
            " Write to support to settle it."
        )
    most_micros = max(whole_cents(owed_micros), till.policy.topup_min_micros)
    if command.amount_micros > most_micros:
        raise AccountFrozen(
            f"Your wallet is frozen and {format_usd(owed_micros)} below zero. Nothing was charged."
            f" Until it is settled you can buy {format_usd(most_micros)} at most."
        )


def begin(
    session: Session, now: datetime, command: StartTopup, policy: Policy
) -> tuple[Topup, bool]:
    """Store a top-up by hand before anything is asked of the processor; (it, is it new).

    Raises ``BadRequest`` (bounds), ``IdempotencyConflict`` (the key had another body), and
    ``Conflict`` where something else pays for the purchase.
    """
    topups.lock_user(session, command.user_id)
    stored = topups.replay(session, command)
    if stored is not None:
        return stored, False
    topup = topups.by_hand(command, policy, now)
    topup.next_look_at = pages.first_look_at(topup, now)
    if command.purchase_id is not None:
        # Whoever reserves an automatic charge holds the settings: it sees this page, or we see it.
        topups.lock_settings(session, command.user_id)
        pages.refuse_second_payer(session, command.user_id, command.purchase_id)
        _give_way(session, command.user_id, command.purchase_id, now)
    session.add(topup)
    session.flush()
    return topup, True


def _give_way(session: Session, user_id: UUID, purchase_id: UUID, now: datetime) -> None:
    """One whose page nobody has seen yet gives way. Raises ``Conflict`` for one that is open."""
    other = pages.open_for(session, user_id, str(purchase_id))
    if other is None:
        return
    if topups.lock(session, other.topup_id).status != TopupStatus.CREATED:
        raise Conflict("Another card page for this purchase was opened just now. Use that one.")
    topups.cancel(other, pages.REPLACED, now)
    session.flush()


def _close_other_page(till: Till, command: StartTopup, purchase_id: UUID) -> None:
    """Close the page that is open for this purchase, unless it is being paid there.

    Raises ``Conflict``, and ``Unavailable`` when the processor does not say that it is closed.
    """
    now = till.clock()
    with till.database.begin() as session:
        topups.lock_user(session, command.user_id)
        if topups.replay(session, command) is not None:
            # The same request, at the same moment, has opened the page that is wanted.
            return
        pages.refuse_second_payer(session, command.user_id, purchase_id)
        other = pages.open_for(session, command.user_id, str(purchase_id))
        if other is None or topups.lock(session, other.topup_id).session_id is None:
            return
        other.closing_reason = other.closing_reason or pages.REPLACED
        other.next_look_at = now
    crash_point("topup.before_close")
    try:
        close_page(till, other.session_id or "")
    except ProcessorError as error:
        raise _could_not_open(error) from error


def _leave_other_charge(till: Till, command: StartTopup) -> None:
    """Cancel what the bank asked to confirm, where the person pays otherwise. Raises
    ``Unavailable`` when the processor does not say that it is."""
    if command.payment_method_id is None and command.purchase_id is None:
        return
    try:
        saved_card.leave(till, command)
    except ProcessorError as error:
        raise _could_not_open(error) from error


def close_page(till: Till, session_id: str) -> None:
    """Let nobody pay on a page any more, and record whether somebody has. Raises
    ``ProcessorError``.

    The processor alone decides between a payment and the closing at the same moment.
    """
    try:
        till.processor.expire_session(session_id)
    except Rejected:
        log.info("the payment page was closed already", extra={"session": session_id})
    crash_point("topup.after_close")
    settle_session(till, session_id)


def _leave_unused(till: Till, session_id: str) -> None:
    """Close a page that came too late to be shown to anybody: not doing so changes nothing."""
    try:
        till.processor.expire_session(session_id)
    except ProcessorError as error:
        log.info(
            "a payment page that nobody has seen stays open",
            extra={"session": session_id, "reason": error.message},
        )


def _opened(
    till: Till, command: StartTopup | StartCardSetup, open_page: Callable[[str], Object]
) -> Object:
    """A page for this user's customer; for another one if the processor has deleted that."""
    try:
        customer_id = customers.ensure(till, command.user_id, command.email)
        try:
            return open_page(customer_id)
        except CustomerGone:
            with till.database.begin() as session:
                card_changes.forget_customer(session, customer_id, till.clock())
            return open_page(customers.ensure(till, command.user_id, command.email))
    except ProcessorError as error:
        raise _could_not_open(error) from error


def _payment_page(
    till: Till, topup: Topup, customer_id: str, key: str, *, save_card: bool
) -> Object:
    """The one page on which this top-up can be paid. Raises ``ProcessorError``.

    One that a 500 has made, and that nobody has seen, is found and taken; should it be paid all the
    same, its metadata lead to the top-up.
    """
    topup_id = str(topup.topup_id)

    def create(idempotency_key: str) -> Object:
        return till.processor.create_payment_session(
            customer_id=customer_id,
            amount_cents=to_cents(topup.amount_micros),
            topup_id=topup_id,
            user_id=str(topup.user_id),
            save_card=save_card,
            success_url=till.address(topup.return_path, topup=topup_id),
            cancel_url=till.address(topup.return_path, topup=topup_id, cancelled="1"),
            idempotency_key=idempotency_key,
        )

    return spent_keys.make(
        till, key, create, lambda: till.processor.find_open_session(customer_id, topup_id)
    )


def _page_opened(session: Session, till: Till, topup_id: UUID, page: Object) -> Topup:
    topup = topups.lock(session, topup_id)
    now = till.clock()
    if topup.status == TopupStatus.CREATED and topup.closing_reason:
        topups.cancel(topup, topup.closing_reason, now)
    elif topup.status == TopupStatus.CREATED:
        topups.move(topup, TopupStatus.PROCESSING, now)
        topup.customer_id = page.get("customer")
        topup.session_id = page["id"]
        topup.checkout_url = page["url"]
        topup.sent_at = now
        topup.next_look_at = now + till.policy.check_again_after(1)
    return topup


def never_opened(session: Session, topup: Topup, now: datetime) -> None:
    """Whoever began this locked top-up is gone, and its page was shown to nobody."""
    topups.cancel(topup, topup.closing_reason or "The payment was never begun.", now)
    triggers.card_page_closed(session, topup.user_id, topup.purchase_id, now)


def _could_not_open(error: ProcessorError) -> Exception:
    log.error("the card processor opened no page", extra={"reason": error.message})
    if isinstance(error, OutcomeUnknown):
        return Unavailable(
            "The card processor does not answer. Nothing was charged; try again in a moment."
        )
    return PaymentFailed(
        "The card processor refused to begin the payment. Nothing was charged.", error.code
    )


def start_card_setup(till: Till, command: StartCardSetup) -> CardSetupReply:
    """Open the page on which a card is saved. A replay of the key gives the same page."""
    key = (command.user_id, command.method, command.idempotency_key)
    once_hashed = command.model_dump(
        mode="json", include={"idempotency_key", "user_id", "return_path"}
    )
    with till.database.read() as session:
        stored = session.get(Command, key)
    if stored is not None:
        if not is_retry(stored.request_hash, command, once_hashed):
            raise IdempotencyConflict("This idempotency key was used with another request.")
        return CardSetupReply(checkout_url=stored.outcome["checkout_url"])

    def open_page(customer_id: str) -> Object:
        return _setup_page(till, command, customer_id)

    page = _opened(till, command, open_page)
    with till.database.begin() as session:
        _remember_setup(session, command, page, till.clock())
    return CardSetupReply(checkout_url=page["url"])


def _setup_page(till: Till, command: StartCardSetup, customer_id: str) -> Object:
    """A page that saves a card. One more than was asked for takes no money, so none is looked
    for. Raises ``ProcessorError``."""

    def create(idempotency_key: str) -> Object:
        return till.processor.create_setup_session(
            customer_id=customer_id,
            user_id=str(command.user_id),
            success_url=till.address(command.return_path, card_setup="done"),
            cancel_url=till.address(command.return_path, card_setup="cancelled"),
            idempotency_key=idempotency_key,
        )

    key = f"setup-{customer_id}-{command.idempotency_key}"
    return spent_keys.make(till, key, create, lambda: None)


def _remember_setup(session: Session, command: StartCardSetup, page: Object, now: datetime) -> None:
    topups.lock_user(session, command.user_id)
    session.merge(CardSetup(session_id=page["id"], user_id=command.user_id, created_at=now))
    session.merge(
        Command(
            user_id=command.user_id,
            method=command.method,
            idempotency_key=command.idempotency_key,
            request_hash=request_hash(command).hex(),
            outcome={"checkout_url": page["url"]},
            created_at=now,
        )
    )


def settle_session(till: Till, session_id: str) -> None:
    """Ask the processor about a page and record it. Raises ``ProcessorError``.

    Triggers that a new card makes due are left to the sweeper, which is never far.
    """
    try:
        page = till.processor.get_session(session_id)
    except Missing:
        _page_is_gone(till, session_id)
        return
    now = till.clock()
    with till.database.begin() as session:
        if page["mode"] == "setup":
            _settle_setup(session, page, now)
        else:
            _settle_payment(session, till, page, now)


def _page_is_gone(till: Till, session_id: str) -> None:
    """The processor knows of no such page, so that nobody can pay on it."""
    log.warning("the card processor does not know this payment page", extra={"session": session_id})
    with till.database.begin() as session:
        topup_id = session.scalar(select(Topup.topup_id).where(Topup.session_id == session_id))
        if topup_id is not None:
            settings, topup = outcomes.lock_both(session, topup_id)
            _give_up(session, settings, topup, topup.closing_reason or pages.GONE, till.clock())


def _settle_setup(session: Session, page: Object, now: datetime) -> None:
    if page["status"] == "open":
        return
    session.execute(update(CardSetup).where(CardSetup.session_id == page["id"]).values(done_at=now))
    setup = page.get("setup_intent") or {}
    if page["status"] == "complete" and setup.get("status") == "succeeded":
        card_changes.keep(session, setup["payment_method"], now)


def _settle_payment(session: Session, till: Till, page: Object, now: datetime) -> None:
    try:
        topup_id = UUID(page["metadata"].get("topup_id", ""))
        settings, topup = outcomes.lock_both(session, topup_id)
    except (ValueError, NotFound):
        log.warning("the payment page belongs to no top-up of ours", extra={"session": page["id"]})
        return
    payment = page.get("payment_intent")
    if page["payment_status"] == "paid" and payment is not None:
        outcomes.settle(session, till.policy, settings, topup, payment, now)
        card_changes.keep_of(session, payment, now)
    elif page["status"] == "expired" and topup.session_id == page["id"]:
        _give_up(session, settings, topup, topup.closing_reason or pages.NOT_USED, now)


def _give_up(
    session: Session, settings: AutoTopupSettings | None, topup: Topup, reason: str, now: datetime
) -> None:
    """There is no page any more on which this top-up could be paid."""
    if topup.status not in (TopupStatus.PROCESSING, TopupStatus.ACTION_REQUIRED):
        return
    topups.cancel(topup, reason, now)
    triggers.card_page_closed(session, topup.user_id, topup.purchase_id, now)
    if topup.kind == TopupKind.AUTO and settings is not None:
        pauses.stop_waiting_for_person(session, settings, now)


def ask_person(till: Till, topup_id: UUID) -> None:
    """Open a page for a charge that the bank wants its customer to confirm, and send the link.

    The intent that the bank stopped is cancelled first: nobody can complete it beside the page.
    """
    with till.database.read() as session:
        topup = topups.find(session, topup_id)
    if topup.status != TopupStatus.ACTION_REQUIRED or topup.session_id is not None:
        return
    try:
        if topup.payment_id is not None and _was_paid_after_all(till, topup):
            return
        if topup.closing_reason:
            _close_unasked(till, topup_id)
            return
        crash_point("topup.before_confirm_page")
        key = f"{topup_id}-confirm"
        page = _payment_page(till, topup, topup.customer_id or "", key, save_card=True)
    except ProcessorError as error:
        log.warning(
            "the card processor opened no page to confirm a charge on",
            extra={"topup": str(topup_id), "reason": error.message},
        )
        _go_on_without_link(till, topup, error)
        return
    crash_point("topup.after_confirm_page")
    with till.database.begin() as session:
        _send_link(session, topup_id, page, till)


def _close_unasked(till: Till, topup_id: UUID) -> None:
    """What the charge was for has ended before its owner could be asked to confirm it."""
    with till.database.begin() as session:
        settings, topup = outcomes.lock_both(session, topup_id)
        _give_up(session, settings, topup, topup.closing_reason, till.clock())


def _go_on_without_link(till: Till, topup: Topup, error: ProcessorError) -> None:
    """The link follows when the processor answers; that it is paused is said at once.

    A page that the processor will not open, as for a deleted customer, is waited for no longer.
    """
    with till.database.begin() as session:
        settings, topup = outcomes.lock_both(session, topup.topup_id)
        now = till.clock()
        if topup.session_id is not None:
            return  # somebody else has opened the page, and sent the link
        if isinstance(error, Rejected) and error.code != KEY_REFUSED:
            _give_up(session, settings, topup, "It could not be confirmed with the bank.", now)
        elif topup.looks == 0:
            pauses.ask_to_confirm(session, settings, None, now)


def _was_paid_after_all(till: Till, topup: Topup) -> bool:
    """Cancel the intent that the bank stopped; True when it turns out to be paid."""
    payment = till.processor.get_payment(topup.payment_id or "")
    if payment["status"] == "succeeded":
        with till.database.begin() as session:
            outcomes.record(session, till.policy, topup.topup_id, payment, till.clock())
        return True
    if payment["status"] != "canceled":
        till.processor.cancel_payment(payment["id"])
    return False


def _send_link(session: Session, topup_id: UUID, page: Object, till: Till) -> None:
    settings, topup = outcomes.lock_both(session, topup_id)
    now = till.clock()
    if topup.status != TopupStatus.ACTION_REQUIRED or topup.session_id is not None:
        return
    topup.session_id = page["id"]
    topup.checkout_url = page["url"]
    topup.next_look_at = now if topup.closing_reason else now + till.policy.check_again_after(2)
    pauses.ask_to_confirm(session, settings, page["url"], now)


def refresh(till: Till, user_id: UUID, topup_id: UUID) -> Topup:
    """The user's top-up; while its page is open, as the processor sees it by now.

    The webhook may come later than the person: so the return page asks, rarely.
    Raises ``NotFound``.
    """
    with till.database.begin() as session:
        topup = topups.get(session, user_id, topup_id)
        is_claimed = _claim_question(session, topup, till.clock())
    if not is_claimed:
        return topup
    if topup.session_id is not None:
        _settle_if_answered(till, topup.session_id)
    else:
        saved_card.look_for_person(till, topup)
    with till.database.read() as session:
        return topups.get(session, user_id, topup_id)


def _settle_if_answered(till: Till, session_id: str) -> None:
    """What the processor does not say now is asked again by the next look."""
    try:
        settle_session(till, session_id)
    except ProcessorError as error:
        log.info(
            "the card processor did not say what became of a page",
            extra={"session": session_id, "reason": error.message},
        )


def _claim_question(session: Session, topup: Topup, now: datetime) -> bool:
    waits = (TopupStatus.PROCESSING, TopupStatus.UNKNOWN, TopupStatus.ACTION_REQUIRED)
    has_place = topup.session_id is not None or topups.is_by_saved_card(topup)
    if topup.status not in waits or not has_place:
        return False
    claimed = session.scalar(
        update(Topup)
        .where(
            Topup.topup_id == topup.topup_id,
            or_(Topup.asked_at.is_(None), Topup.asked_at < now - ASK_AGAIN_AFTER),
        )
        .values(asked_at=now)
        .returning(Topup.topup_id)
        .execution_options(synchronize_session=False)
    )
    return claimed is not None


def refresh_setups(till: Till, user_id: UUID) -> None:
    """Ask about this user's pages for saving a card, so that a new card is there on return."""
    now = till.clock()
    to_ask = (
        CardSetup.user_id == user_id,
        CardSetup.done_at.is_(None),
        CardSetup.created_at > now - SETUPS_LIVE,
        or_(CardSetup.asked_at.is_(None), CardSetup.asked_at < now - ASK_AGAIN_AFTER),
    )
    with till.database.read() as session:
        # Hardly ever there is one, and looking costs a fraction of a transaction that writes.
        if session.scalar(select(CardSetup.session_id).where(*to_ask).limit(1)) is None:
            return
    with till.database.begin() as session:
        open_setups = session.scalars(
            update(CardSetup).where(*to_ask).values(asked_at=now).returning(CardSetup.session_id)
        ).all()
    for session_id in open_setups[:5]:
        _settle_if_answered(till, session_id)


def close_setups(session: Session, now: datetime) -> None:
    """Forget pages for saving a card that nobody can use any more."""
    session.execute(
        update(CardSetup)
        .where(CardSetup.done_at.is_(None), CardSetup.created_at <= now - SETUPS_LIVE)
        .values(done_at=now)
    )
