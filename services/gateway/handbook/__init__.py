"""The documentation at /docs: Markdown in ``texts``, with this site's own figures.

Each text is a Jinja template first, so that a page names the settings that are in force and not
what somebody once wrote down. All are made when the first is asked for, and kept: settings do not
change while a process lives.
"""

import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.deflist import deflist_plugin

from chassis.money import format_usd
from services.gateway.settings import GatewaySettings

TEXTS = Path(__file__).resolve().parent / "texts"

CONTENTS: dict[str, dict[str, str]] = {
    "Start": {
        "index": "Overview",
        "getting-started": "Getting started",
        "credits": "USD Credits",
        "concepts": "Core concepts",
    },
    "Marketplace": {
        "compute": "Compute",
        "3nodes": "3Nodes",
        "gateways": "Gateways",
        "applications": "Applications",
        "services": "Services",
    },
    "Money": {"billing": "Billing", "refunds": "Refund rule"},
    "Programs": {"api": "API", "webhooks": "Webhooks", "messaging": "Messaging"},
    "Rules": {"terms": "Terms", "privacy": "Privacy", "support": "Support"},
}
"""The sidebar: the pages of each group, by the last part of their address."""

NAMES = {slug: name for group in CONTENTS.values() for slug, name in group.items()}

REFERENCES = frozenset({"api", "messaging"})
"""Made of the code, and not of a text."""

_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False})
    .enable("table")
    .use(anchors_plugin, max_level=3)
    .use(deflist_plugin)
)
_SPANS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
_WORD = re.compile(r"\w+")
FOUND_MAX = 20


@dataclass(frozen=True)
class Heading:
    level: int
    anchor: str
    text: str


@dataclass(frozen=True)
class Section:
    """What stands below one heading, as plain text, to be searched."""

    heading: Heading
    text: str


@dataclass(frozen=True)
class Page:
    slug: str
    title: str
    html: Markup
    sections: Sequence[Section]

    @property
    def headings(self) -> list[Heading]:
        """The second level: what is on this page."""
        return [one.heading for one in self.sections if one.heading.level == 2]


@dataclass(frozen=True)
class Found:
    """A section in which all words stand; in ``excerpt`` they are marked."""

    slug: str
    anchor: str
    page: str
    heading: str
    excerpt: Markup


def span(seconds: int) -> str:
    """``3 days``, ``15 minutes``: the largest unit of which it is a whole number."""
    unit_s, unit = next(one for one in _SPANS if seconds % one[0] == 0)
    number = seconds // unit_s
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


class Handbook:
    """All pages, with the figures of ``settings``."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._searching = threading.Lock()

    @cached_property
    def pages(self) -> dict[str, Page]:
        texts = Environment(  # noqa: S701 - what it makes is Markdown, which lets no HTML through
            loader=FileSystemLoader(TEXTS), undefined=StrictUndefined, trim_blocks=True
        )
        texts.filters |= {"span": span, "usd": format_usd}
        figures = {
            name: getattr(self._settings, name) for name in type(self._settings).model_fields
        }
        figures["seller_lines"] = self._settings.seller_lines
        return {
            slug: _page(slug, texts.get_template(f"{slug}.md").render(figures))
            for slug in NAMES
            if slug not in REFERENCES
        }

    def search(self, typed: str) -> list[Found]:
        """The sections that hold every word, or words that begin like it; the best ones first."""
        words = " ".join(f'"{word}"*' for word in _WORD.findall(typed)[:10])
        if not words:
            return []
        with self._searching:
            rows = self._index.execute(
                "SELECT slug, anchor, page, heading,"
                " snippet(sections, 4, char(1), char(2), '…', 24)"
                " FROM sections WHERE sections MATCH ?"
                " ORDER BY bm25(sections, 0, 0, 8, 6, 1) LIMIT ?",
                (words, FOUND_MAX),
            ).fetchall()
        return [
            Found(slug, anchor, page, heading, _marked(text))
            for slug, anchor, page, heading, text in rows
        ]

    @cached_property
    def _index(self) -> sqlite3.Connection:
        """SQLite's full-text search, in memory."""
        index = sqlite3.connect(":memory:", check_same_thread=False)
        index.execute(
            "CREATE VIRTUAL TABLE sections USING fts5"
            " (slug UNINDEXED, anchor UNINDEXED, page, heading, text,"
            " tokenize = 'porter unicode61')"
        )
        index.executemany(
            "INSERT INTO sections VALUES (?, ?, ?, ?, ?)",
            (
                (page.slug, one.heading.anchor, page.title, one.heading.text, one.text)
                for page in self.pages.values()
                for one in page.sections
            ),
        )
        return index


def as_html(text: str) -> Markup:
    """Markdown of our own as HTML; what looks like HTML in it is shown as it is written."""
    # A table that is wider than a phone is scrolled by itself, by keyboard as well.
    html = _MARKDOWN.render(text).replace("</table>", "</table></div>")
    html = html.replace("<table>", '<div class="table-scroll" tabindex="0"><table class="table">')
    return Markup(html)  # noqa: S704 - see above


def _page(slug: str, text: str) -> Page:
    sections = list(_sections(_MARKDOWN.parse(text)))
    return Page(slug, sections[0].heading.text, as_html(text), sections)


def _sections(tokens: Sequence[Token]) -> Iterator[Section]:
    heading = Heading(1, "", "")
    words: list[str] = []
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            if heading.text:
                yield Section(heading, " ".join(words))
            anchor = str(token.attrs.get("id", ""))
            heading = Heading(int(token.tag[1:]), anchor, _plain(tokens[at + 1]))
            words = []
        elif token.type == "inline" and tokens[at - 1].type != "heading_open":
            words.append(_plain(token))
    yield Section(heading, " ".join(words))


def _plain(inline: Token) -> str:
    return "".join(
        " " if child.type == "softbreak" else child.content for child in inline.children or ()
    )


def _marked(excerpt: str) -> Markup:
    """The words that were found, marked; SQLite put control characters around them."""
    return Markup(str(escape(excerpt)).replace("\x01", "<mark>").replace("\x02", "</mark>"))  # noqa: S704 - escaped


@cache
def handbook(settings: GatewaySettings) -> Handbook:
    """The one with these settings."""
    return Handbook(settings)
