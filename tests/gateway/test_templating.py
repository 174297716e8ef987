"""Values stand in pages as Jinja would write them, and templates know the names of all."""

from decimal import Decimal
from typing import Any

import pytest
from flask import Flask, render_template_string
from jinja2 import Undefined
from markupsafe import escape

from services.gateway.templating import Environment

NASTY = "<a href=\"x\" id='y'>&amp;"


class Link:
    def __html__(self) -> str:
        return "<b>bold</b>"


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.jinja_environment = Environment
    return app


@pytest.mark.parametrize(
    "value",
    [NASTY, escape(NASTY), Link(), 7, 1.5, Decimal("1.50"), True, None, [NASTY], Undefined()],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_written_as_markupsafe_escapes_it(app: Flask, value: Any) -> None:
    with app.app_context():
        page = render_template_string(
            "{{ value }}{% for one in [value] %}, {{ one }}{% endfor %}", value=value
        )

    assert page == f"{escape(value)}, {escape(value)}"


def test_what_was_written_once_is_not_escaped_twice(app: Flask) -> None:
    template = (
        "{% macro bold(text) %}<b>{{ text }}</b>{% endmacro %}"
        "{% set shown %}{{ bold(value) }}{% endset %}{{ shown }}{{ bold(shown) }}"
    )

    with app.app_context():
        page = render_template_string(template, value="<")

    assert page == "<b>&lt;</b><b><b>&lt;</b></b>"


def test_a_text_that_was_declared_safe_stays_as_it_is_and_one_beside_it_does_not(
    app: Flask,
) -> None:
    with app.app_context():
        page = render_template_string("{{ value|safe }}{{ value ~ value|e }}", value="<i>")

    assert page == "<i>&lt;i&gt;&lt;i&gt;"


def test_an_imported_macro_knows_what_all_templates_know(app: Flask) -> None:
    app.jinja_env.globals["shop"] = "Mycelium"
    template = app.jinja_env.from_string("{% macro name() %}{{ shop }}{% endmacro %}")

    with app.app_context():
        page = render_template_string("{% from other import name %}{{ name() }}", other=template)

    assert page == "Mycelium"


def test_an_address_with_nothing_of_the_page_in_it_is_made_when_the_template_is_read(
    app: Flask,
) -> None:
    made: list[dict[str, Any]] = []

    def url_for(endpoint: str, **values: Any) -> str:
        made.append(values)
        return f"/{endpoint}?{values}"

    app.jinja_env.globals["url_for"] = url_for
    template = app.jinja_env.from_string(
        "{{ url_for('cart', of='<') }} {{ url_for('cart', of=one) }} {{ url_for('cart', **all) }}"
    )
    pages = [template.render(one=number, all={"also": number}) for number in (1, 2)]

    assert made == [{"of": "<"}, {"of": 1}, {"also": 1}, {"of": 2}, {"also": 2}]
    assert pages == [
        " ".join(escape(f"/cart?{values}") for values in (made[0], *each))
        for each in (made[1:3], made[3:])
    ]
