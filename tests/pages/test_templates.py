"""Habits of the templates that a reader cannot see at a glance."""

import re
from pathlib import Path

import pytest

GATEWAY = Path(__file__).resolve().parents[2] / "services" / "gateway"
TEMPLATES = sorted((GATEWAY / "templates").rglob("*.html"))
MONEY_FORMS = ("purchases.start", "purchases.buy_credits", "topups.start", "auto_topup.configure",
               "auto_topup.trigger", "cards.add", "cart.check_out")  # fmt: skip
FORM = re.compile(r"<form[^>]*method=\"post\".*?</form>", re.DOTALL)


def named(path: Path) -> str:
    return str(path.relative_to(GATEWAY / "templates"))


@pytest.mark.parametrize("path", TEMPLATES, ids=named)
def test_nothing_stands_inline_that_the_policy_refuses(path: Path) -> None:
    inline = re.findall(
        r"<style|\sstyle=|\son[a-z]+=\"|<script(?![^>]*src=)|javascript:", path.read_text()
    )

    assert inline == []


@pytest.mark.parametrize("path", TEMPLATES, ids=named)
def test_no_condition_stands_inside_a_text_that_is_printed_as_it_is(path: Path) -> None:
    assert re.findall(r"\{\{[^}]*\{%.*", path.read_text()) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=named)
def test_every_form_that_changes_something_carries_the_csrf_token(path: Path) -> None:
    bare = [form for form in FORM.findall(path.read_text()) if "csrf()" not in form]

    assert bare == []


def test_every_form_that_moves_money_carries_a_key() -> None:
    forms = [form for path in TEMPLATES for form in FORM.findall(path.read_text())]
    moving = [form for form in forms if any(f"'{name}'" in form for name in MONEY_FORMS)]

    assert len(moving) >= len(MONEY_FORMS)
    assert [form for form in moving if "once(" not in form] == []


def test_pages_speak_of_credits_only() -> None:
    old_words = re.compile(r"\bTFP\b|ThreeFold Point")

    assert [named(path) for path in TEMPLATES if old_words.search(path.read_text())] == []


def test_nothing_is_loaded_from_another_site() -> None:
    loaded = re.compile(r"(?:src|href)=\"(?:https?:)?//")

    assert [named(path) for path in TEMPLATES if loaded.search(path.read_text())] == []


def test_scripts_of_ours_keep_nothing_in_the_browser() -> None:
    kept = re.compile(r"localStorage|sessionStorage|indexedDB|document\.cookie|\bcaches\b")
    scripts = sorted((GATEWAY / "static" / "js").glob("*.js"))

    assert scripts
    assert [script.name for script in scripts if kept.search(script.read_text())] == []


def test_every_icon_that_is_used_is_drawn() -> None:
    drawn = set(re.findall(r'id="([^"]+)"', (GATEWAY / "static/img/icons.svg").read_text()))
    used = {
        name
        for path in TEMPLATES
        for name in re.findall(r"\"([a-z0-9]+)\"\|icon", path.read_text())
    }

    assert used
    assert used - drawn == set()
