"""The catalog as the website shows it: what it told a moment ago, to everybody alike.

What is shown may be as old as ``CATALOG_AGE_S``. Nothing is bought by it: a purchase is priced and
set aside by the catalog itself, and the offer before it by a quote.
"""

from collections.abc import Callable, Hashable

from markupsafe import Markup

from contracts.messages import Reply, ReplyT, Request
from services.gateway.backend import ask, call, current_backend


def show(question: Request[ReplyT]) -> ReplyT:
    """The catalog's answer. Raises what :func:`services.gateway.backend.call` raises."""
    shown: ReplyT = current_backend().catalog.find(question, lambda: call(question))
    return shown


def show_if_it_answers(question: Request[ReplyT]) -> ReplyT | None:
    """The same for what a page can do without: see :func:`services.gateway.backend.ask_all`."""
    shown: ReplyT | None = current_backend().catalog.find(question, lambda: ask(question))
    return shown


def show_part(of: Reply, made_for: Hashable, render: Callable[[], str]) -> Markup:
    """A part of a page that shows an answer of the catalog, written once for all alike.

    Kept with the answer, whose id is no other's as long: it is no older than the answer is.
    """
    part: tuple[Reply, Markup] = current_backend().catalog.find(
        (id(of), made_for),
        lambda: (of, Markup(render())),  # noqa: S704 - a template has escaped it
    )
    return part[1]
