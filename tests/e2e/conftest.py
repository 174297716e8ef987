"""A headless browser that finds Debian's Chromium, and visitors who use it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from sqlalchemy import select

from chassis.clock import utc_now
from chassis.database import connect
from services.gateway.access import STAFF, Role
from services.gateway.models import RoleGrant, User
from tests.e2e.visitor import PATIENCE_MS, Visitor
from tests.system import System

expect.set_options(timeout=PATIENCE_MS)

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

NewVisitor = Callable[..., Visitor]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, or the one that Playwright has installed where there is none.

    Its headless shell draws the same with less than half of the processor time.
    """
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, BROWSERS)), None),
            args=FLAGS,
        )
        yield chromium
        chromium.close()


@contextmanager
def visiting(browser: Browser, system: System) -> Iterator[NewVisitor]:
    """Makes visitors, and sees them out. No page may have made the browser complain."""
    visitors: list[Visitor] = []

    def make(window: dict[str, int] = DESKTOP, *, javascript: bool = True) -> Visitor:
        context = browser.new_context(
            viewport=window,  # type: ignore[arg-type]
            java_script_enabled=javascript,
            color_scheme="light",
        )
        context.set_default_timeout(PATIENCE_MS)
        visitor = Visitor(context, context.new_page(), system.base_url, system.sandbox_url)
        visitors.append(visitor)
        return visitor

    yield make
    for visitor in visitors:
        visitor.context.close()
    complaints = [complaint for visitor in visitors for complaint in visitor.complaints]
    assert complaints == []


@pytest.fixture
def new_visitor(browser: Browser, system: System) -> Iterator[NewVisitor]:
    """``new_visitor(PHONE, javascript=False)``, for one test."""
    with visiting(browser, system) as make:
        yield make


@pytest.fixture
def visitor(new_visitor: NewVisitor) -> Visitor:
    """Somebody who has just registered, at a desk."""
    someone = new_visitor()
    someone.register()
    return someone


def give_roles(system: System, visitor: Visitor) -> None:
    """Let somebody who has registered open all pages for roles."""
    database = connect(system.database_url("gateway"), pool_size=1)
    with database.begin() as session:
        user = session.scalars(select(User).where(User.email == visitor.email)).one()
        user.second_step_since = utc_now()
        for role in (*STAFF, Role.SELLER):
            session.add(RoleGrant(user_id=user.user_id, role=role, granted_at=utc_now()))
    database.engine.dispose()
