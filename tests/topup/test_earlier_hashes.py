"""Retries of commands whose hash was stored before all services shared one."""

import hashlib
import json
from typing import Any

import pytest
from sqlalchemy import select

from contracts.topup import StartCardSetup
from services.topup.charging import checkout
from services.topup.models import Command, Topup
from tests.topup.conftest import USD, Desk


def stored_before(desk: Desk, table: type[Topup] | type[Command], **body: Any) -> None:
    """Give the key's row the hash that the version before stored for this body."""
    once = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    with desk.till.database.begin() as session:
        row = session.scalars(select(table).filter_by(idempotency_key="key")).one()
        row.request_hash = once


@pytest.mark.parametrize("given", [{}, {"save_card": True}])
def test_a_top_up_is_begun_once(desk: Desk, given: dict[str, Any]) -> None:
    customer = desk.customer(enabled=False)
    first = customer.start_topup(idempotency_key="key", **given)
    stored_before(
        desk,
        Topup,
        idempotency_key="key",
        user_id=str(customer.user_id),
        amount_micros=25 * USD,
        save_card=given.get("save_card", False),
        return_path="/dashboard/wallet",
    )

    again = customer.start_topup(idempotency_key="key", **given)

    assert again.topup_id == first.topup_id


def test_a_page_to_save_a_card_on_is_opened_once(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    command = StartCardSetup(idempotency_key="key", user_id=customer.user_id, email="a@example.com")
    first = checkout.start_card_setup(desk.till, command)
    stored_before(
        desk,
        Command,
        idempotency_key="key",
        user_id=str(customer.user_id),
        return_path="/dashboard/wallet",
    )

    assert checkout.start_card_setup(desk.till, command) == first


def test_settings_are_saved_once(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.configure(idempotency_key="key", daily_limit_micros=None)
    stored_before(
        desk,
        Command,
        idempotency_key="key",
        user_id=str(customer.user_id),
        enabled=True,
        threshold_micros=10 * USD,
        topup_amount_micros=25 * USD,
        consent=True,
        daily_limit_micros=None,
    )

    customer.configure(idempotency_key="key", daily_limit_micros=None)

    assert customer.settings().settings_version == 1
