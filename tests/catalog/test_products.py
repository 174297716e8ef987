from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from chassis.database import Connected
from contracts.catalog import (
    BillingPeriod,
    Category,
    CountProducts,
    ListProducts,
    ProductFilters,
    SortOrder,
)
from contracts.errors import BadRequest, NotFound
from services.catalog import counts, products
from services.catalog.models import ProductRow
from tests.catalog.conftest import NOW

AddProduct = Callable[..., UUID]


def names(database: Connected, **query: object) -> list[str]:
    with database.read() as session:
        page = products.list_products(session, ListProducts(**query))  # type: ignore[arg-type]
    return [product.name for product in page.products]


def every_page(database: Connected, sort: SortOrder, limit: int) -> list[UUID]:
    seen: list[UUID] = []
    cursor = None
    while True:
        with database.read() as session:
            page = products.list_products(
                session, ListProducts(sort=sort, limit=limit, cursor=cursor)
            )
        seen += [product.product_id for product in page.products]
        cursor = page.next_cursor
        if cursor is None:
            return seen
        assert len(seen) < 50, "the pages never end"


def test_search_finds_every_word_anywhere_in_name_summary_or_provider(
    database: Connected, add_product: AddProduct
) -> None:
    add_product(name="VM-Production", summary="Two cores.", provider_name="Example Cloud North")
    add_product(name="VM-Starter", summary="One core.", provider_name="Sample Metal")

    assert names(database, q="north  PRODUCT") == ["VM-Production"]


SHEETS = {
    "small": {"vCPU": "2 dedicated", "Memory": "8 GB", "Disk": "80 GB NVMe"},
    "node": {"CPU": "24 cores", "Memory": "256 GB ECC", "Disk": "4 × 1.9 TB NVMe"},
    "tiny": {"vCPU": "1 shared", "Memory": "512 MB", "Capacity": "250 GB"},
    "odd": {"vCPU": "as many as you like", "Memory": "", "Disk": "999999999.999 TB"},
    "none": {},
}


@pytest.mark.parametrize(
    ("least", "found"),
    [
        ({"min_vcpu": 2}, {"small", "node"}),
        ({"min_vcpu": 3}, {"node"}),
        ({"min_memory_gb": 8}, {"small", "node"}),
        ({"min_memory_gb": 1}, {"small", "node"}),
        ({"min_disk_gb": 250}, {"node", "tiny", "odd"}),
        ({"min_disk_gb": 7_600}, {"node", "odd"}),
        ({"min_disk_gb": 7_601}, {"odd"}),
        ({"min_vcpu": 2, "min_memory_gb": 9}, {"node"}),
    ],
)
def test_what_a_data_sheet_says_in_numbers_can_be_asked_for_at_least(
    database: Connected, add_product: AddProduct, least: dict[str, int], found: set[str]
) -> None:
    for name, sheet in SHEETS.items():
        lines = [{"label": label, "value": value} for label, value in sheet.items()]
        add_product(name=name, specification=lines)

    assert set(names(database, **least)) == found


def test_each_facet_is_counted_under_all_filters_but_its_own(
    database: Connected, add_product: AddProduct
) -> None:
    for provider, location, period, price in [
        ("North", "Ghent", "month", 5),
        ("North", "Ghent", "month", 50),
        ("North", "Oslo", "once", 5),
        ("South", "Ghent", "month", 5),
        ("South", None, "month", 5),
    ]:
        add_product(
            provider_name=provider,
            location=location,
            billing_period=period,
            price_micros=price * 1_000_000,
        )
    add_product(provider_name="North", location="Ghent", retired_at=NOW)

    with database.read() as session:
        facets = products.count_products(
            session,
            CountProducts(provider_name="North", location="Ghent", max_price_micros=10_000_000),
        )

    def counted(facet: str) -> dict[str, int]:
        return {one.value: one.count for one in getattr(facets, facet)}

    assert counted("provider_names") == {"North": 1, "South": 1}
    assert counted("locations") == {"Ghent": 1, "Oslo": 1}
    assert counted("billing_periods") == {"month": 1}
    assert counted("categories") == {"compute": 1}
    assert names(database, provider_name="North", location="Oslo") == ["Plain product"]
    assert names(database, billing_period=BillingPeriod.ONCE, provider_name="South") == []


@pytest.mark.usefixtures("looked")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Straße 7", "STRASSE"),
        ("STRASSE 7", "straße"),
        ("İstanbul", "İstanbul"),
        ("İstanbul", "istanbul"),
        ("ISTANBUL", "İstanbul"),
        ("cafe\u0301 au lait", "caf\u00e9"),
        ("caf\u00e9 au lait", "CAFE\u0301"),
        ("caf\u00e9 au lait", "cafe"),
        ("ΟΔΟΣ", "οδός"),
        ("οδοσήμανση", "ΟΔΟΣ"),
        ("ＶＭ－Ｓｔａｒｔｅｒ", "vm-starter"),
        ("ﬁber link", "FIBER"),
        ("हिन्दी", "हिन्दी"),
        ("\uac01\uac02", "\u1100\u1161\u11a8"),
    ],
    ids=ascii,
)
def test_search_finds_a_word_in_each_of_its_spellings(
    database: Connected, add_product: AddProduct, name: str, wanted: str
) -> None:
    add_product(name=name)
    add_product(name="Something else")

    assert names(database, q=wanted) == [name]


def test_names_are_sorted_by_their_letters_whatever_their_case_and_accents(
    database: Connected, add_product: AddProduct
) -> None:
    for name in ("Zebra", "\u00c9mile", "adam", "e\u0301tage"):
        add_product(name=name)

    expected = ["adam", "\u00c9mile", "e\u0301tage", "Zebra"]
    assert names(database, sort=SortOrder.NAME) == expected


@pytest.mark.parametrize("field", ["slug", "name", "provider_name", "location"])
@pytest.mark.parametrize("value", ["x" * 201, "  "])
def test_a_name_is_bounded_and_not_blank(add_product: AddProduct, field: str, value: str) -> None:
    with pytest.raises(IntegrityError, match=f"{field}_is_bounded"):
        add_product(**{field: value})


@pytest.mark.usefixtures("looked")
@pytest.mark.parametrize("word", ["%", "_", "\\", "'", '"; DROP TABLE products; --'])
def test_search_takes_every_character_as_itself(
    database: Connected, add_product: AddProduct, word: str
) -> None:
    add_product(name="Plain")

    assert names(database, q=word) == []


def test_a_category_filters(database: Connected, add_product: AddProduct) -> None:
    add_product(name="A machine", category="compute")
    add_product(name="An entrance", category="gateways")

    assert names(database, category=Category.GATEWAYS) == ["An entrance"]


def test_the_highest_price_is_included(database: Connected, add_product: AddProduct) -> None:
    add_product(name="Exactly", price_micros=5_000_000)
    add_product(name="More", price_micros=5_000_001)

    assert names(database, max_price_micros=5_000_000) == ["Exactly"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (SortOrder.FEATURED, ["b", "C", "a"]),
        (SortOrder.NAME, ["a", "b", "C"]),
        (SortOrder.PRICE, ["a", "C", "b"]),
        (SortOrder.PRICE_DESCENDING, ["b", "C", "a"]),
        (SortOrder.NEWEST, ["C", "a", "b"]),
    ],
)
def test_each_sort_order(
    database: Connected, add_product: AddProduct, sort: SortOrder, expected: list[str]
) -> None:
    days = timedelta(days=1)
    add_product(name="a", price_micros=1, featured_rank=3, created_at=NOW + days)
    add_product(name="b", price_micros=3, featured_rank=1, created_at=NOW)
    add_product(name="C", price_micros=2, featured_rank=2, created_at=NOW + 2 * days)

    assert names(database, sort=sort) == expected


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is asked meanwhile, in whatever database."""
    sent: list[str] = []

    def note(_connection: object, cursor: Any, *_: object) -> None:
        sent.append(cursor.query.decode())

    event.listen(Engine, "after_cursor_execute", note)
    yield sent
    event.remove(Engine, "after_cursor_execute", note)


@pytest.fixture(params=["in the order of the list", "by the index"])
def looked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How words are looked for."""
    if request.param == "by the index":
        monkeypatch.setattr(products, "WALKED_MAX", 0)
    return str(request.param)


def test_rare_words_are_found_by_the_index_alone(
    database: Connected, add_product: AddProduct
) -> None:
    for _ in range(3):
        add_product()

    with database.begin() as session:
        index, table = scans(session, "products_by_pieces"), scans(session, "products")
        found = session.scalars(text("SELECT products_with(ARRAY['plain', 'product'])")).all()
        assert len(found) == 3
        assert scans(session, "products_by_pieces") == index + 1
        assert scans(session, "products") == table


def scans(session: Session, name: str) -> int:
    """How often this connection has gone through an index, or through a table as a whole."""
    asked = text("SELECT pg_stat_get_xact_numscans(CAST(:name AS regclass))")
    return int(session.scalar(asked, {"name": name}))


@pytest.mark.parametrize("sort", list(SortOrder))
def test_rare_words_are_counted_paged_and_filtered_as_common_ones(
    database: Connected, add_product: AddProduct, sort: SortOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        add_product(
            name=f"{'Wanted' if number % 3 else 'Other'} {number}",
            category="compute" if number < 5 else "gateways",
            price_micros=number,
            featured_rank=number,
            created_at=NOW + timedelta(days=number),
        )

    def listed() -> list[tuple[list[str], int]]:
        pages: list[tuple[list[str], int]] = []
        cursor = None
        while not pages or cursor:
            question = ListProducts(
                q="WANT", category=Category.COMPUTE, sort=sort, limit=1, cursor=cursor
            )
            with database.read() as session:
                page = products.list_products(session, question)
            pages.append(([each.name for each in page.products], page.total))
            cursor = page.next_cursor
        return pages

    common = listed()
    monkeypatch.setattr(products, "WALKED_MAX", 0)
    add_product(name="Unlike")

    assert listed() == common
    assert [total for _, total in common] == [3, 3, 3]


@pytest.mark.usefixtures("looked")
@pytest.mark.parametrize("wanted", ["j", "j7", "j7\u00e4", "m-j", "7a", "\U0001f600"])
def test_a_word_of_any_length_is_found(
    database: Connected, add_product: AddProduct, wanted: str
) -> None:
    add_product(name="VM-J7\u00c4 \U0001f600")
    add_product(name="VM-Y7")

    assert names(database, q=wanted) == ["VM-J7\u00c4 \U0001f600"]


@pytest.mark.usefixtures("looked")
@pytest.mark.parametrize("wanted", ["abcde", "de abd"])
def test_the_pieces_of_a_word_are_not_the_word(
    database: Connected, add_product: AddProduct, wanted: str
) -> None:
    add_product(name="abcd bcde cde")

    assert names(database, q=wanted) == []


def test_a_page_reads_one_product_more_than_it_shows(
    database: Connected, add_product: AddProduct
) -> None:
    for _ in range(5):
        add_product()
    read: list[int] = []

    def note(_connection: object, cursor: Any, *_: object) -> None:
        read.append(cursor.rowcount)

    event.listen(Engine, "after_cursor_execute", note)
    names(database, limit=2)
    event.remove(Engine, "after_cursor_execute", note)

    assert max(read) == 3


def test_a_page_after_the_last_product_still_has_the_total(
    database: Connected, add_product: AddProduct
) -> None:
    first, last = (add_product(featured_rank=rank) for rank in (1, 2))
    with database.read() as session:
        page = products.list_products(session, ListProducts(limit=1))
    with database.begin() as session:
        session.execute(delete(ProductRow).where(ProductRow.product_id == last))

    with database.read() as session:
        after = products.list_products(session, ListProducts(cursor=page.next_cursor))

    assert ([product.product_id for product in page.products], page.total) == ([first], 2)
    assert (after.products, after.next_cursor, after.total) == ([], None, 1)


@pytest.mark.parametrize("sort", list(SortOrder))
def test_pages_hold_every_product_once_even_where_sort_keys_are_equal(
    database: Connected, add_product: AddProduct, sort: SortOrder
) -> None:
    everything = {add_product() for _ in range(7)}

    pages = every_page(database, sort, limit=2)

    assert (len(pages), set(pages)) == (7, everything)


@pytest.mark.parametrize("sort", list(SortOrder))
def test_pages_hold_every_product_once_where_all_sort_keys_differ(
    database: Connected, add_product: AddProduct, sort: SortOrder
) -> None:
    everything = {
        add_product(
            name=f"Product {n}",
            price_micros=n,
            featured_rank=n,
            created_at=NOW + timedelta(days=n),
        )
        for n in (4, 1, 7, 2, 6, 3, 5)
    }

    pages = every_page(database, sort, limit=2)

    assert (len(pages), set(pages)) == (7, everything)


ANY_NAME = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200
).filter(str.strip)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    written=st.lists(
        ANY_NAME | st.sampled_from(["漢" * 200, "\ufdfa" * 200, "😀" * 200]), min_size=3, max_size=5
    )
)
def test_products_of_every_name_are_paged_through(
    database: Connected, add_product: AddProduct, written: list[str]
) -> None:
    with database.begin() as session:
        session.execute(delete(ProductRow))
    everything = {add_product(name=name) for name in written}

    pages = every_page(database, SortOrder.NAME, limit=1)

    assert (len(pages), set(pages)) == (len(written), everything)


def test_a_product_added_while_paging_moves_nothing_already_shown(
    database: Connected, add_product: AddProduct
) -> None:
    for price_micros in (10, 20, 30, 40):
        add_product(name=str(price_micros), price_micros=price_micros)
    query = ListProducts(sort=SortOrder.PRICE, limit=2)
    with database.read() as session:
        first = products.list_products(session, query)

    add_product(name="5", price_micros=5)

    assert names(database, sort=SortOrder.PRICE, limit=2, cursor=first.next_cursor) == ["30", "40"]


def test_total_counts_every_match_on_every_page(
    database: Connected, add_product: AddProduct
) -> None:
    for _ in range(5):
        add_product(name="wanted")
    add_product(name="other")
    query = ListProducts(q="wanted", limit=2)
    with database.read() as session:
        first = products.list_products(session, query)
        second = products.list_products(
            session, query.model_copy(update={"cursor": first.next_cursor})
        )

    assert (first.total, second.total) == (5, 5)


def total(database: Connected, **filters: Any) -> int:
    with database.read() as session:
        return products.list_products(session, ListProducts(**filters)).total


MATCHING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "category": ({"category": "gateways"}, {"category": "gateways"}),
    "q": ({"q": "wanted"}, {"name": "Wanted"}),
    "q in the summary": ({"q": "wanted"}, {"summary": "Wanted"}),
    "max_price_micros": ({"max_price_micros": 1}, {"price_micros": 1}),
    "family": ({"family": "sizes"}, {"family": "sizes"}),
    "provider_name": ({"provider_name": "North"}, {"provider_name": "North"}),
    "location": ({"location": "Ghent"}, {"location": "Ghent"}),
    "billing_period": ({"billing_period": "once"}, {"billing_period": "once"}),
    "min_vcpu": ({"min_vcpu": 2}, {"specification": [{"label": "CPU", "value": "2"}]}),
    "min_memory_gb": ({"min_memory_gb": 2}, {"specification": [{"label": "Memory", "value": "2"}]}),
    "min_disk_gb": ({"min_disk_gb": 2}, {"specification": [{"label": "Disk", "value": "2"}]}),
}
"""By what it is counted, and what makes a product match."""


def test_each_filter_is_tried() -> None:
    # Whose a product is does not change, and what is retired is found or not: see test_providers.
    others = {"provider_id", "with_retired"}

    assert {name.split()[0] for name in MATCHING} | others == set(ProductFilters.model_fields)


@pytest.mark.parametrize("name", MATCHING)
def test_a_change_of_what_a_product_is_found_by_is_counted_at_once(
    database: Connected, add_product: AddProduct, name: str
) -> None:
    filters, change = MATCHING[name]
    product_id = add_product()
    before = total(database, **filters)

    with database.begin() as session:
        session.execute(
            update(ProductRow).where(ProductRow.product_id == product_id).values(**change)
        )

    assert (before, total(database, **filters)) == (0, 1)


def test_a_product_that_comes_is_retired_or_goes_is_counted_at_once(
    database: Connected, add_product: AddProduct
) -> None:
    totals = [total(database)]
    first = add_product()
    totals.append(total(database))
    add_product()
    totals.append(total(database))
    with database.begin() as session:
        session.get_one(ProductRow, first).retired_at = NOW
    totals.append(total(database))
    with database.begin() as session:
        session.execute(delete(ProductRow))
    totals.append(total(database))

    assert totals == [0, 1, 2, 1, 0]


def test_what_is_not_committed_is_not_counted(database: Connected, add_product: AddProduct) -> None:
    add_product()
    with database.rehearse() as session:
        session.execute(delete(ProductRow))
        meanwhile = total(database)

    assert (meanwhile, total(database)) == (1, 1)


def test_what_was_counted_is_known_until_a_product_changes(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=5)
    add_product()

    def counts() -> int:
        with statements() as sent, database.read() as session:
            first = products.list_products(session, ListProducts(limit=1))
            products.list_products(session, ListProducts(limit=1, cursor=first.next_cursor))
            products.count_products(session, CountProducts())
        return sum("count(" in each for each in sent)

    anew, known = counts(), counts()
    with database.begin() as session:
        session.get_one(ProductRow, product_id).stock = 4
    sold = counts()
    add_product()

    assert (anew, known, sold, counts()) == (2, 0, 0, 2)


def test_no_more_counts_are_kept_than_some_hundreds_and_none_of_before_a_change(
    database: Connected, add_product: AddProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "_known", {})
    monkeypatch.setattr(counts, "KNOWN_MAX", 3)
    kept = []
    for _ in range(2):
        add_product()
        for max_price in range(4):
            with database.read() as session:
                products.count_products(session, CountProducts(max_price_micros=max_price))
            kept.append(sum(map(len, counts._known.values())))

    assert kept == [1, 2, 3, 1] * 2


def test_a_later_page_is_found_without_those_before_it(
    database: Connected, add_product: AddProduct
) -> None:
    for rank in range(3):
        add_product(featured_rank=rank)
    with database.read() as session:
        first = products.list_products(session, ListProducts(limit=1))
    with statements() as sent:
        names(database, limit=1, cursor=first.next_cursor)
    (page,) = [each for each in sent if "LIMIT" in each]

    with database.begin() as session:
        session.connection().exec_driver_sql("SET LOCAL enable_seqscan = off")
        session.connection().exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        plan = "".join(session.connection().exec_driver_sql(f"EXPLAIN {page}").scalars())

    assert "Index Cond: (ROW(featured_rank, product_id) >" in plan


@pytest.mark.parametrize("cursor", ["nonsense", "!!!", "WyJwcmljZSIsMSwieCJd", "W10", "bnVsbA"])
def test_a_cursor_that_we_did_not_make_is_refused(
    database: Connected, add_product: AddProduct, cursor: str
) -> None:
    add_product()

    with pytest.raises(BadRequest):
        names(database, sort=SortOrder.PRICE, cursor=cursor)


def test_a_cursor_of_another_sort_order_is_refused(
    database: Connected, add_product: AddProduct
) -> None:
    add_product()
    add_product()
    with database.read() as session:
        page = products.list_products(session, ListProducts(sort=SortOrder.PRICE, limit=1))

    with pytest.raises(BadRequest):
        names(database, sort=SortOrder.FEATURED, cursor=page.next_cursor)


def test_a_product_is_found_by_its_id_and_by_its_slug(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(slug="vm-starter")

    with database.read() as session:
        by_id = products.get_product(session, str(product_id))
        by_slug = products.get_product(session, "vm-starter")

    assert by_id == by_slug


UNKNOWN_ID = "0fffffff-0000-4000-8000-000000000000"


@pytest.mark.parametrize("wanted", [UNKNOWN_ID, "no-such-slug", "../etc", "é"])
def test_an_unknown_product_is_not_found(database: Connected, wanted: str) -> None:
    with database.read() as session, pytest.raises(NotFound):
        products.get_product(session, wanted)
