"""What the pages' forms accept."""

from uuid import UUID

import pytest
from flask import Flask

from chassis.money import InvalidAmount
from services.gateway.pages import forms

USER = UUID(int=7)


def posted(**fields: str):  # type: ignore[no-untyped-def]  # Flask's own context type is private
    return Flask("forms").test_request_context("/", method="POST", data=fields)


@pytest.mark.parametrize(
    ("typed", "micros"),
    [
        ("25", 25_000_000),
        ("$25.00", 25_000_000),
        (" $ 0.05 ", 50_000),
        (" 1,250.5 ", 1_250_500_000),
        ("1,000,000.00", 10**12),
        ("", None),
    ],
)
def test_an_amount_is_read_as_people_write_it(typed: str, micros: int | None) -> None:
    assert forms.optional_money(typed, "Amount") == micros


@pytest.mark.parametrize(
    "typed",
    [
        "12,50",
        "0,5",
        "1,250",
        "1.250",
        "12,50.00",
        "1,2345.00",
        ",5",
        "1_0",
        "1e2",
        "１２",
        "+5",
        "5.",
        ".5",
        "1 250",
        "$$5",
        "5$",
        "€5",
    ],
)
def test_what_could_be_another_amount_is_refused_with_how_to_write_it(typed: str) -> None:
    with pytest.raises(InvalidAmount, match=r"^Daily limit: write dollars with a point"):
        forms.optional_money(typed, "Daily limit")


@pytest.mark.parametrize("typed", ["", "1_0", "１", " 1", "+1", "-1", "1.0", "1e1", "9" * 19])
def test_a_whole_number_is_written_in_digits(typed: str) -> None:
    with posted(quantity=typed), pytest.raises(ValueError, match="whole number"):
        forms.whole_number_field("quantity", otherwise=1)


@pytest.mark.parametrize(
    "typed", ["", "7", f"{{{USER}}}", USER.hex, f"urn:uuid:{USER}", str(USER).replace("0", "_")]
)
def test_an_id_has_one_spelling(typed: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        forms.read_id(typed)


@pytest.mark.parametrize("typed", ["-1", "NaN", "inf", "abc", "1.2345678", "9999999999"])
def test_an_impossible_amount_is_refused_under_the_name_of_its_field(typed: str) -> None:
    with pytest.raises(InvalidAmount, match=r"^Daily limit: "):
        forms.optional_money(typed, "Daily limit")


def test_a_custom_amount_is_taken_from_its_own_field() -> None:
    with posted(amount="custom", custom_amount="12.50"):
        assert forms.chosen_credits() == 12_500_000


def test_the_same_form_has_the_same_key_and_another_user_another() -> None:
    key = forms.new_key()
    with posted(key=key):
        keys = [forms.command_key(user, "purchase") for user in (USER, USER, UUID(int=8))]

    assert keys[0] == keys[1] != keys[2]


def test_a_form_without_a_usable_key_is_a_request_of_its_own() -> None:
    with posted(key="not a key"):
        assert forms.command_key(USER, "purchase") != forms.command_key(USER, "purchase")


@pytest.mark.parametrize(
    "wanted", ["https://elsewhere.example", "//elsewhere.example", "/\\elsewhere", "/a b", "x"]
)
def test_a_form_leads_to_no_other_site(wanted: str) -> None:
    with posted(next=wanted):
        assert forms.return_path("/dashboard") == "/dashboard"


@pytest.mark.parametrize(
    ("shortfall_micros", "amounts"),
    [
        (0, [10, 25, 50]),
        (5_000_000, [5, 10, 25, 50]),
        (4_990_000, [5, 10, 25, 50]),
        (10_000_000, [10, 25, 50]),
        (10_000_001, [10.01, 25, 50]),
        (50_000_001, [50.01]),
        (60_000_000, [60]),
        (60_000_001, []),
    ],
)
def test_the_amounts_to_choose_from_all_cover_what_is_lacking_and_one_does_to_the_cent(
    shortfall_micros: int, amounts: list[float]
) -> None:
    found = forms.amounts_for(shortfall_micros, 5_000_000, 60_000_000)

    assert found == [round(amount * 1_000_000) for amount in amounts]


def test_an_unknown_bound_is_none() -> None:
    assert forms.amounts_for(3_000_000_001, 0, 0) == [3_000_010_000]


def test_terms_of_auto_topup_that_were_refused_are_shown_again_once() -> None:
    app = Flask(__name__)
    app.secret_key = "for a test only"
    app.add_url_rule("/kept", view_func=lambda: forms.keep_terms() or "", methods=["POST"])
    app.add_url_rule("/shown", view_func=forms.typed_terms)
    browser = app.test_client()
    browser.post("/kept", data={"threshold": "12,5", "topup_amount": "9" * 100})

    # A part of a page takes no message away.
    part = browser.get("/shown", headers={"HX-Request": "true"}).json
    shown = [browser.get("/shown").json for _ in range(2)]

    assert part == {}
    assert shown == [{"threshold": "12,5", "topup_amount": "9" * forms.TYPED_LENGTH_MAX}, {}]
