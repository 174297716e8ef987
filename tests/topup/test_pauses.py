"""Which pause ends with what: one table, and one file that knows it."""

import ast
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

import services.topup
from chassis.database import Connected
from contracts.topup import TopupKind, TopupStatus
from services.topup import topups
from services.topup.automatic import pauses
from services.topup.models import AutoTopupSettings, Reversal
from tests.topup.conftest import NOON, USD, outbox

USER = UUID("00000000-0000-7000-8000-000000000001")
End = Callable[[Session, AutoTopupSettings], object]


def card_added(session: Session, settings: AutoTopupSettings) -> None:
    pauses.card_added(session, settings, "pm_new", NOON)


def saved_again(session: Session, settings: AutoTopupSettings) -> None:
    pauses.saved_again(session, settings, NOON, is_other_card=False)


def other_card_saved(session: Session, settings: AutoTopupSettings) -> None:
    pauses.saved_again(session, settings, NOON, is_other_card=True)


def dispute_closed(session: Session, settings: AutoTopupSettings) -> None:
    pauses.dispute_closed(session, settings, NOON)


def confirmed(session: Session, settings: AutoTopupSettings) -> None:
    pauses.confirmed(session, settings, NOON)


ENDS: dict[str, tuple[End, ...]] = {
    pauses.AUTHENTICATION: (card_added, other_card_saved, confirmed),
    pauses.NOT_CONFIRMED: (card_added, saved_again, other_card_saved),
    pauses.CARD_REFUSED: (card_added, other_card_saved),
    pauses.TOO_MANY_DECLINES: (card_added, saved_again, other_card_saved),
    pauses.CARD_REMOVED: (card_added, other_card_saved),
    pauses.DISPUTE: (saved_again, other_card_saved, dispute_closed),
    pauses.ACCOUNT_FROZEN: (saved_again, other_card_saved, dispute_closed),
}
EVERYTHING: tuple[End, ...] = (
    card_added,
    saved_again,
    other_card_saved,
    dispute_closed,
    confirmed,
)


def paused(session: Session, code: str) -> AutoTopupSettings:
    settings = AutoTopupSettings(
        user_id=USER, is_enabled=True, threshold_micros=10 * USD, amount_micros=25 * USD,
        payment_method_id="pm_old", settings_version=1, updated_at=NOON, declines=3,
        paused_code=code, paused_reason="x", paused_at=NOON, confirm_url="https://bank.example",
        consent_id=USER,
        cool_down_until=NOON + timedelta(hours=1), declined_payment_method_id="pm_old",
    )  # fmt: skip
    session.add(settings)
    session.flush()
    return settings


def dispute(session: Session, status: str) -> None:
    topup = topups.new(USER, TopupKind.AUTO, 25 * USD, "a key", NOON)
    topup.status = TopupStatus.CREDITED
    session.add(topup)
    session.flush()
    session.add(
        Reversal(
            reversal_id="dp_1", source_id="dp_1", topup_id=topup.topup_id, user_id=USER,
            amount_micros=25 * USD, is_dispute=True, status=status, asked_at=NOON, taken_at=NOON,
        )
    )  # fmt: skip
    session.flush()


@pytest.mark.parametrize("code", ENDS)
def test_a_pause_ends_with_what_helps_and_with_nothing_else(database: Connected, code: str) -> None:
    ended = set()
    for end in EVERYTHING:
        with database.rehearse() as session:
            settings = paused(session, code)
            end(session, settings)

            is_over = settings.paused_code == ""
            assert len(outbox(session, "auto_topup_resumed", USER)) == is_over
            assert settings.declines == (0 if is_over else 3)
            assert (settings.cool_down_until is None) is is_over
            ended |= {end} if is_over else set()

    assert ended == set(ENDS[code])


@pytest.mark.parametrize("code", [pauses.DISPUTE, pauses.ACCOUNT_FROZEN])
def test_nothing_ends_a_pause_while_a_dispute_is_open(database: Connected, code: str) -> None:
    with database.rehearse() as session:
        settings = paused(session, code)
        dispute(session, "under_review")
        for end in EVERYTHING:
            end(session, settings)

        assert settings.paused_code == code


def test_what_is_not_paused_is_not_resumed(database: Connected) -> None:
    with database.rehearse() as session:
        settings = paused(session, "")
        for end in EVERYTHING:
            end(session, settings)

        assert outbox(session, "auto_topup_resumed", USER) == []
        assert settings.payment_method_id == "pm_old"
        assert settings.declines == 3


def test_a_new_card_takes_the_place_of_the_one_that_caused_the_pause(database: Connected) -> None:
    with database.rehearse() as session:
        settings = paused(session, pauses.CARD_REFUSED)
        card_added(session, settings)

        assert settings.payment_method_id == "pm_new"


def test_no_other_file_compares_the_code_of_a_pause() -> None:
    folder = Path(services.topup.__path__[0])
    comparisons = [
        f"{path.relative_to(folder)}:{node.lineno}"
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and "paused_code" in ast.unparse(node)
    ]

    assert {place.split(":")[0] for place in comparisons} == {"automatic/pauses.py"}
