"""The whole product of one tree of files, on servers of its own, with people who can buy.

``python -P product.py`` in a tree, which may be that of an earlier commit: the product, its servers
and its words are all that tree's own, and only what every commit has is used of it. It says in
one line of JSON where it is and who its people are, and ends when its input does.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests

from chassis.client import RpcClient
from chassis.identifiers import new_id
from contracts.wallet import Credit, TransactionKind
from deploy.local.broker import start_node
from deploy.local.postgres import start
from tests.system import System

BUYERS = 20
VISITORS = 3
SHORT_OF_FUNDS = int(os.environ.get("SITE_SHORT_OF_FUNDS", "40"))
BOUGHT_BY_A_VISITOR = 10
FUNDS_MICROS = 10**12
PASSWORD = "correct horse battery staple"
SETTINGS = {
    "RATE_LIMIT_DEFAULT": "9999999 per minute",
    "SYSTEM_CHARGES_PER_HOUR_MAX": "100000",
}


class People:
    """Those who register, by the HTTP API and the website."""

    def __init__(self, system: System, product: dict[str, Any]) -> None:
        self._base_url = system.base_url
        self._sandbox_url = system.sandbox_url
        self._product = product
        self._rpc = RpcClient(system.vhost.admin_uri, name="operator")

    def buyer(self) -> str:
        """Somebody with funds: their token."""
        user_id, _, token = self._register()
        self._credit(user_id)
        return token

    def visitor(self) -> dict[str, str]:
        """Somebody with funds and a few purchases: their token, and their browser's cookies."""
        user_id, email, token = self._register()
        self._credit(user_id)
        for _ in range(BOUGHT_BY_A_VISITOR):
            self._command(token, "instant-purchase", {"product_id": self._product["product_id"]})
        browser = requests.Session()
        page = browser.get(f"{self._base_url}/login").text
        found = re.search(r'name="csrf[-_]token"[^>]*?(?:value|content)="([^"]+)"', page)
        assert found, page[:500]
        form = {"email": email, "password": PASSWORD, "csrf_token": found[1]}
        entered = browser.post(f"{self._base_url}/login", data=form, allow_redirects=False)
        assert entered.status_code == 303, entered.text[:500]
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.cookies)
        return {"token": token, "cookies": cookies}

    def short_of_funds(self) -> str:
        """Somebody without funds, with a card and auto top-up: their token."""
        _, _, token = self._register()
        setup = self._command(token, "payment-methods")
        session = re.search(r"cs_\w+", setup["checkout_url"])
        assert session, setup
        paid = requests.post(
            f"{self._sandbox_url}/_sandbox/checkout/{session[0]}/pay",
            json={"number": "4242424242424242"},
            timeout=20,
        )
        assert paid.ok, paid.text
        headers = {"Authorization": f"Bearer {token}"}
        saved = requests.get(
            f"{self._base_url}/api/wallet/payment-methods", headers=headers, timeout=20
        ).json()["payment_methods"]
        settings = {
            "enabled": True,
            "threshold_amount": 0,
            "topup_amount": 25,
            "payment_method_id": saved[0]["payment_method_id"],
            "consent": True,
        }
        self._command(token, "auto-topup/configure", settings)
        return token

    def _register(self) -> tuple[str, str, str]:
        email = f"{new_id()}@example.com"
        answer = requests.post(
            f"{self._base_url}/api/auth/register",
            json={"email": email, "password": PASSWORD},
            timeout=20,
        )
        assert answer.ok, answer.text
        return answer.json()["user_id"], email, answer.json()["token"]

    def _credit(self, user_id: str) -> None:
        self._rpc.call(
            Credit(
                idempotency_key=str(new_id()),
                user_id=user_id,
                amount_micros=FUNDS_MICROS,
                kind=TransactionKind.TOPUP,
                description="For a benchmark",
            )
        )

    def _command(self, token: str, path: str, body: object = None) -> Any:
        answer = requests.post(
            f"{self._base_url}/api/wallet/{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}", "Idempotency-Key": str(new_id())},
            timeout=20,
        )
        assert answer.ok, answer.text
        return answer.json()


def product_without_end(system: System) -> dict[str, Any]:
    """The cheapest that costs something and never runs out."""
    listed = requests.get(f"{system.base_url}/api/products?limit=100", timeout=20).json()
    endless = [item for item in listed["products"] if item["stock"] is None and item["price_usd"]]
    return min(endless, key=lambda item: item["price_usd"])


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mycelium-bench-") as name:
        directory = Path(name)
        # PostgreSQL runs as another user when we are root, and must get in there.
        directory.chmod(0o711)
        postgres, broker = start(directory / "postgres"), start_node(directory / "rabbitmq")
        system = System(postgres, broker, directory, settings=SETTINGS)
        try:
            system.start_all()
            product = product_without_end(system)
            people = People(system, product)
            told = {
                "base_url": system.base_url,
                "sandbox_url": system.sandbox_url,
                "product_id": product["product_id"],
                "buyers": [people.buyer() for _ in range(BUYERS)],
                "visitors": [people.visitor() for _ in range(VISITORS)],
                "short_of_funds": [people.short_of_funds() for _ in range(SHORT_OF_FUNDS)],
            }
            print(json.dumps(told), flush=True)
            sys.stdin.read()
        finally:
            system.end_processes()
            broker.kill()
            postgres.stop()


if __name__ == "__main__":
    main()
