"""How Lighthouse judges the five main pages, as a phone on a slow line sees them.

Its own simulation of that phone is what its scores mean elsewhere, so nothing of it is changed.
Figures of performance mean something on a quiet machine only.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from playwright.sync_api import Browser

from benchmarks.conftest import Record
from deploy.parts import PROCESSES
from tests.conftest import StackFactory
from tests.e2e.conftest import FLAGS, browser, visiting
from tests.system import System

__all__ = ["browser"]

ROOT = Path(__file__).resolve().parents[1]
LIGHTHOUSE = ROOT / "node_modules" / "lighthouse" / "cli" / "index.js"
PUBLIC = {
    "the landing page": "/",
    "the marketplace": "/marketplace",
    "a product": "/marketplace/vm-starter",
}
OWN = {"the dashboard": "/dashboard", "the wallet": "/dashboard/wallet"}
CATEGORIES = ("performance", "accessibility", "best-practices", "seo")
ROUNDS = 3
PERFORMANCE_MIN = 98
LCP_S_MAX = 1.8


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    return service_stack(*PROCESSES)


@pytest.fixture(scope="module")
def cookies(stack: System, browser: Browser) -> Iterator[str]:
    """Of somebody with credits and something that runs, so that pages are not empty."""
    with visiting(browser, stack) as new_visitor:
        someone = new_visitor()
        someone.register()
        someone.buy_credits(50)
        someone.buy_now("vm-starter")
        someone.expect_purchase("completed")
        found = someone.context.cookies()
        yield "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in found)


def measure_what_lighthouse_thinks_of_the_main_pages(
    stack: System, cookies: str, record: Record, tmp_path: Path
) -> None:
    for name, path in (PUBLIC | OWN).items():
        seen_by = cookies if name in OWN else ""
        reports = [judged(stack.base_url + path, seen_by, tmp_path) for _ in range(ROUNDS)]
        scores = {each: median(score(report, each) for report in reports) for each in CATEGORIES}
        lcp_s = median(
            report["audits"]["largest-contentful-paint"]["numericValue"] / 1_000
            for report in reports
        )
        performance, *others = (f"{scores[each]:.0f}" for each in CATEGORIES)
        lacking = sorted({audit for report in reports for audit in failed(report)})
        record(
            f"Lighthouse, {name} on a phone: performance",
            performance,
            at_least=PERFORMANCE_MIN,
            detail=f"accessibility {others[0]}, best practices {others[1]}, SEO {others[2]};"
            f" largest paint after {lcp_s:.1f} s, aim: ≤ {LCP_S_MAX} s; median of {ROUNDS}"
            + (f"; not passed: {', '.join(lacking)}" if lacking else ""),
        )


def judged(url: str, cookies: str, tmp_path: Path) -> dict[str, Any]:
    """Lighthouse's report about a page, for who has these cookies."""
    headers, report = tmp_path / "headers.json", tmp_path / "report.json"
    headers.write_text(json.dumps({"Cookie": cookies} if cookies else {}))
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or not LIGHTHOUSE.exists():
        raise RuntimeError("Lighthouse needs Chromium, node and `npm ci`; `make bench` has them.")
    subprocess.run(
        [
            "node",
            str(LIGHTHOUSE),
            url,
            "--quiet",
            "--output=json",
            f"--output-path={report}",
            f"--only-categories={','.join(CATEGORIES)}",
            f"--extra-headers={headers}",
            f"--chrome-flags={' '.join(('--headless=new', *FLAGS))}",
        ],
        check=True,
        timeout=180,
        env={**os.environ, "CHROME_PATH": chromium},
    )
    found: dict[str, Any] = json.loads(report.read_text())
    if found["finalDisplayedUrl"] != url:
        raise RuntimeError(f"{url} led to {found['finalDisplayedUrl']}, which was not asked about.")
    return found


def score(report: dict[str, Any], category: str) -> float:
    """From 0 to 100; 0 where Lighthouse could not tell."""
    return 100 * (report["categories"][category]["score"] or 0)


def failed(report: dict[str, Any]) -> Iterator[str]:
    """The audits, beside those of performance, that cost a score."""
    for category in CATEGORIES[1:]:
        for part in report["categories"][category]["auditRefs"]:
            found = report["audits"][part["id"]]["score"]
            if part["weight"] and found is not None and found < 1:
                yield part["id"]
