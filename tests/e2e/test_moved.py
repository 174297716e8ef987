"""Who comes from the old system: an invitation, what was brought along, a first purchase."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import expect
from sqlalchemy import select

from chassis.clock import utc_now
from chassis.database import connect
from services.legacy import move
from services.legacy.models import PlanRow
from services.legacy.settings import LegacySettings
from tests.e2e.conftest import NewVisitor
from tests.e2e.test_account import log_in, mailbox, mailed_link  # noqa: F401 - a fixture
from tests.e2e.visitor import PASSWORD
from tests.system import System


def old_file(email: str) -> str:
    return json.dumps(
        {
            "user_email": email,
            "wallet_balance": "150.5",
            "transactions": [
                {
                    "id": "0123456789abcdef",
                    "transaction_type": {"TopUp": {"amount": "200.25"}},
                    "status": "Completed",
                    "created_at": "2025-06-03T10:05:07.123456789Z",
                }
            ],
            "services": [
                {
                    "name": "Old faithful",
                    "category": "compute",
                    "price_per_month": "30",
                    "status": "Running",
                    "next_renewal": f"{utc_now() + timedelta(days=20):%Y-%m-%d}",
                }
            ],
        }
    )


@pytest.fixture
def moved_email(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_visitor: NewVisitor
) -> str:
    """The address of somebody whom the operator's command has moved."""
    email = new_visitor().email
    own = {"DATABASE_URL": system.database_url("legacy")}
    system.start("legacy", own)
    settings = LegacySettings(amqp_uri=system.vhost.uri("legacy"), database_url=own["DATABASE_URL"])
    monkeypatch.setattr(move, "get_settings", lambda: settings)
    (tmp_path / "somebody.json").write_text(old_file(email))
    assert move.main(["plan", str(tmp_path), "--rate", "0.1"]) == 0
    with connect(settings.database_url, pool_size=1).read() as session:
        plan_id = session.scalars(select(PlanRow.plan_id)).one()
    assert move.main(["run", str(plan_id)]) == 0
    return email


def test_who_was_moved_finds_everything_and_buys_something(
    system: System,
    moved_email: str,
    new_visitor: NewVisitor,
    mailbox: str,  # noqa: F811
) -> None:
    someone = new_visitor()
    someone.email = moved_email
    page = someone.page

    page.goto(mailed_link(mailbox, moved_email, "Your account has moved: choose a password"))
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_role("button", name="Change the password").click()
    log_in(someone, PASSWORD)
    expect(page).to_have_url(re.compile("/dashboard$"))
    someone.expect_balance("$15.05")

    someone.open("/dashboard/wallet/transactions")
    row = "Moved from the old system: 150.5 TFP at 0.10 = $15.05"
    expect(page.get_by_text(row)).to_be_visible()
    page.get_by_role("link", name="Old history").click()
    expect(page.get_by_text("200.25 TFP")).to_be_visible()
    expect(page.get_by_text("$20.02")).to_be_visible()
    expect(page.get_by_role("rowheader", name="Old faithful")).to_be_visible()

    someone.expect_on("/dashboard/deployments", "main", "Old faithful")
    page.get_by_role("link", name="Old faithful", exact=True).click()
    expect(page.get_by_text("$3.00").first).to_be_visible()

    someone.buy_now("vm-starter")
    someone.expect_purchase("completed")
    someone.expect_balance("$10.05")
