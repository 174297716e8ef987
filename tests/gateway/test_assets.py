"""Static files are kept by browsers until they change, and texts are sent compressed."""

import gzip
import re

import pytest
import requests

from services.gateway import assets
from services.gateway.vendor import WHERE_CLASSES_STAND
from tests.gateway.conftest import Site
from tests.patience import PATIENCE_S

GATEWAY = assets.STATIC.parent


@pytest.fixture
def addresses(site: Site) -> list[str]:
    """Everything that the login page loads."""
    page = requests.get(f"{site.base_url}/login", timeout=PATIENCE_S).text
    return [site.base_url + path for path in re.findall(r'"(/static/[^"#]+)[#"]', page)]


def test_what_a_page_loads_is_kept_for_a_year(addresses: list[str]) -> None:
    kept = {
        requests.get(address, timeout=PATIENCE_S).headers["Cache-Control"]
        for address in set(addresses)
    }

    assert len(addresses) >= 6
    assert kept == {"public, max-age=31536000, immutable"}


def test_a_page_of_another_version_still_gets_its_files_but_asks_again(
    site: Site, addresses: list[str]
) -> None:
    now = next(address for address in addresses if address.endswith("site.css"))
    then = re.sub(r"/static/\w+/", "/static/0123456789ab/", now)
    answer = requests.get(then, timeout=PATIENCE_S)

    assert answer.content == requests.get(now, timeout=PATIENCE_S).content
    assert answer.headers["Cache-Control"] == "no-cache"


def test_a_file_that_is_not_there_is_not_kept(addresses: list[str]) -> None:
    answer = requests.get(f"{addresses[0].rpartition('/')[0]}/none.css", timeout=PATIENCE_S)

    assert answer.status_code == 404
    assert "max-age=31536000" not in answer.headers.get("Cache-Control", "")


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd"])
def test_pages_and_files_are_sent_compressed(site: Site, addresses: list[str], coding: str) -> None:
    style = next(address for address in addresses if address.endswith("bootstrap.min.css"))
    for address in (f"{site.base_url}/login", style):
        plain = requests.get(address, headers={"Accept-Encoding": "identity"}, timeout=PATIENCE_S)
        small = requests.get(
            address, headers={"Accept-Encoding": coding}, timeout=PATIENCE_S, stream=True
        )

        assert small.headers["Content-Encoding"] == coding
        assert len(small.raw.read()) < len(plain.content) / 2
        assert "Accept-Encoding" in small.headers["Vary"]


def classes_in(text: str) -> set[str]:
    """What stands in class attributes, without what a template puts between braces."""
    attributes = re.findall(r'class="([^"]*)"', re.sub(r"\{[{%].*?[}%]\}", " ", text))
    return {name for attribute in attributes for name in attribute.split()}


def test_no_page_uses_a_class_of_bootstrap_that_was_not_copied() -> None:
    vendored = assets.STATIC / "vendor"
    of_bootstrap = set((vendored / "bootstrap.classes").read_text().split())
    copied = set(re.findall(r"\.([a-zA-Z][\w-]*)", (vendored / "bootstrap.min.css").read_text()))
    used = set()
    for pattern in WHERE_CLASSES_STAND:
        used |= {name for path in GATEWAY.glob(pattern) for name in classes_in(path.read_text())}

    assert len(used & of_bootstrap) > 50
    assert (used & of_bootstrap) - copied == set(), "run: make vendor"


def test_styles_and_scripts_of_a_page_are_light() -> None:
    """Compressed as they travel: 25 KB of styles, 40 KB of scripts on any page."""

    def travels(*patterns: str) -> int:
        files = [path for pattern in patterns for path in assets.STATIC.glob(pattern)]
        assert files
        return sum(len(gzip.compress(path.read_bytes())) for path in files)

    assert travels("vendor/*.css", "css/*.css") <= 25_000
    assert travels("vendor/*.js", "js/*.js") <= 40_000
