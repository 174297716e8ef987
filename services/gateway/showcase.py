"""The catalog as the website shows it: what it told a moment ago, to everybody alike.

What is shown may be as old as ``CATALOG_AGE_S``. Nothing is bought by it: a purchase is priced and
set aside by the catalog itself, and the offer before it by a quote.
"""

from collections.abc import Callable, Hashable
from uuid import UUID

from markupsafe import Markup

from contracts.catalog import ListProducts, Product, SortOrder
from contracts.messages import Reply, ReplyT, Request
from services.gateway.backend import ask, call, current_backend

NAMES_MAX = 200
SIZES_MAX = 20


def show(question: Request[ReplyT]) -> ReplyT:
    """The catalog's answer. Raises what :func:`services.gateway.backend.call` raises."""
    shown: ReplyT = current_backend().catalog.find(question, lambda: call(question))
    return shown


def show_if_it_answers(question: Request[ReplyT]) -> ReplyT | None:
    """The same for what a page can do without: see :func:`services.gateway.backend.ask_all`."""
    shown: ReplyT | None = current_backend().catalog.find(question, lambda: ask(question))
    return shown


def product_names() -> dict[UUID, str]:
    """Of what is sold; empty where the catalog does not answer."""
    page = show_if_it_answers(ListProducts(limit=NAMES_MAX))
    return {product.product_id: product.name for product in page.products} if page else {}


def sizes_of(product: Product) -> list[Product]:
    """What is sold in its family, the cheapest first; empty where it has none, and where the
    catalog does not answer."""
    if product.family is None:
        return []
    page = show_if_it_answers(
        ListProducts(family=product.family, sort=SortOrder.PRICE, limit=SIZES_MAX)
    )
    return page.products if page else []


def show_part(of: Reply, made_for: Hashable, render: Callable[[], str]) -> Markup:
    """A part of a page that shows an answer of the catalog, written once for all alike.

    Kept with the answer, whose id is no other's as long: it is no older than the answer is.
    """
    part: tuple[Reply, Markup] = current_backend().catalog.find(
        (id(of), made_for),
        lambda: (of, Markup(render())),  # noqa: S704 - a template has escaped it
    )
    return part[1]
