"""A day at the site of everybody with a role: by its pages, its API and the command line.

Whatever they do is noted here by hand, and the audit log has to hold just that, row by row: who did
it, when, from where, what, why, and what it was before and after.
"""

import getpass
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pyotp
import pytest
from click.testing import CliRunner
from flask import Flask, request, request_finished
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from chassis.chain import check_lines
from chassis.clock import utc_now
from chassis.database import Connected
from contracts.catalog import CreateProduct
from contracts.errors import Unavailable
from contracts.messages import Request
from contracts.wallet import GivePromotion, Promotion
from mycelium_cli import main as mycelium
from services.gateway import roles, selling
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.models import Act, ApiToken, Mail, User
from services.gateway.notifications import mails
from services.gateway.people import second_step, tokens
from services.gateway.people.tokens import Scope
from services.gateway.staff import acts, grants
from tests.contracts.golden import examples
from tests.gateway import (
    test_adjustments_page,
    test_admin_api,
    test_finance_page,
    test_operations_page,
    test_promotions_page,
    test_seller_products,
)
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_finance_page import disputed
from tests.gateway.test_operations_page import LETTER
from tests.gateway.test_roles import COMMAND, WHY, Desk, last_acts
from tests.gateway.test_routes import ROLES

USD = 1_000_000
HERE = "127.0.0.1"
BY_SELLER = "By the seller, on the website"
BY_PROGRAM = "By the seller, through the API"
NO_ACTS = {
    # They look at what is to be done, and change nothing.
    ("POST", "/admin/finance/payouts/<uuid:payout_id>/review"),
    ("POST", "/dashboard/selling/products/preview"),
    ("POST", "/dashboard/selling/products/<uuid:product_id>/review"),
    ("POST", "/dashboard/selling/profile/review"),
}
ACTS = {(route.method, route.path) for route in ROLES if route.method != "GET"} - NO_ACTS
"""Every route by which somebody with a role changes something, or says why they read it."""

Known = dict[str, Any] | None


@dataclass
class Services:
    """All of them: those that other tests of each page stand in for."""

    parts: list[Any]
    told: Any = None

    def begin(self, backend: Backend, asked: Request[Any], timeout_s: float) -> Callable[[], Any]:
        for part in self.parts:
            try:
                answer = part.begin(backend, asked, timeout_s)()
            except Unavailable:
                continue
            self.told = answer
            return lambda: answer
        raise Unavailable("It is away.")


@dataclass
class Person:
    """Somebody with a role, who sits at an address: a browser, a program, a terminal."""

    user: User
    role: str
    address: str
    desk: Desk
    program: FlaskClient
    token: str
    code: Callable[[], str]


@dataclass
class Row:
    """What should stand in the log; ``began`` and ``ended`` say when it was done."""

    actor_id: UUID | None
    actor: str
    roles: str
    origin: str
    action: str
    subject: str
    reason: str
    before: Known = None
    after: Known = None
    is_outcome: bool = False
    began: datetime = field(default_factory=utc_now)
    ended: datetime = field(default_factory=utc_now)


@dataclass
class Day:
    app: Flask
    database: Connected
    site_url: str
    services: Services
    folder: Path
    rows: list[Row] = field(default_factory=list)
    by: str = ""
    driven: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def comes(self, role: Role | None, number: int) -> Person:
        user = add_user(self.database, has_wallet=True)
        with self.database.begin() as session:
            secret = second_step.begin(session, user.user_id, self.app.config["SECRET_KEY"])
            if role:
                grants.grant(session, utc_now(), COMMAND, user.user_id, role, WHY)
            token = tokens.issue(session, utc_now(), user.user_id, "t", (*Scope,))
        desk = Desk(self.app, self.database, user)
        program = self.app.test_client(use_cookies=False)
        address = f"192.0.2.{number}"
        for client in (desk.client, program):
            client.environ_base["REMOTE_ADDR"] = address
        return Person(
            user, role or "", address, desk, program, token, lambda: pyotp.TOTP(secret).now()
        )

    @contextmanager
    def time(self) -> Iterator[list[Row]]:
        rows: list[Row] = []
        began = utc_now()
        yield rows
        for row in rows:
            row.began, row.ended = began, utc_now()
        self.rows += rows

    def acts(
        self,
        who: Person,
        action: str,
        subject: object,
        reason: str,
        do: Callable[[], Any],
        *,
        before: Callable[[], Known] | Known = None,
        after: Callable[[], Known] | Known = None,
        elsewhere: bool = False,
        origin: str | None = None,
    ) -> None:
        """One act: a row, or two where another service carries it out, and says what came of it."""
        with self.time() as rows:
            do()
            at_first = before() if callable(before) else before
            then = after() if callable(after) else after
            about = str(subject() if callable(subject) else subject)
            told = (who.user.user_id, "", who.role, origin or who.address, action, about)
            if elsewhere:
                done = {"outcome": "done", **(then or {})}
                rows += [
                    Row(*told, reason, before=at_first),
                    Row(*told, reason, after=done, is_outcome=True),
                ]
            else:
                rows.append(Row(*told, reason, before=at_first, after=then))

    def page(self, who: Person, path: str, status: int = 303, **fields: Any) -> None:
        self.by = "page"
        answer = who.desk.post(path, **fields)
        assert answer.status_code == status, f"{path} {answer.status_code} {answer.text[:3000]}"

    def api(self, who: Person, path: str, body: Any, method: str = "POST") -> None:
        self.by = "api"
        headers = {"Authorization": f"Bearer {who.token}", "Idempotency-Key": str(uuid4())}
        answer = who.program.open(path, method=method, json=body, headers=headers)
        assert answer.status_code < 300, f"{path} {answer.status_code} {answer.text[:1000]}"

    def types(self, who: Person, *words: str) -> None:
        self.by = "terminal"
        given = {"MYCELIUM_SITE": self.site_url, "MYCELIUM_TOKEN": who.token}
        done = CliRunner().invoke(mycelium, words, env=given)
        assert done.exit_code == 0, done.output

    def by_program(
        self,
        who: Person,
        path: str,
        body: dict[str, Any],
        words: list[str],
        action: str,
        subject: object,
        **row: Any,
    ) -> None:
        """The same twice: by a program, and in a terminal, which is on this machine."""
        reason = body["reason"]
        said = ["admin", *words, "--reason", reason]
        self.acts(who, action, subject, reason, lambda: self.api(who, path, body), **row)
        do: Callable[[], None] = lambda: self.types(who, *said)  # noqa: E731
        self.acts(who, action, subject, reason, do, origin=HERE, **row)

    def note(self, _sender: Flask, response: Response, **_: Any) -> None:
        if request.url_rule is not None and response.status_code < 400:
            way = self.driven.setdefault(self.by, set())
            way.add((request.method, request.url_rule.rule))


@pytest.fixture
def day(
    alone: Flask, database: Connected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Day]:
    services = Services([])
    answers_with(monkeypatch, services)
    server = make_server("127.0.0.1", 0, alone, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    day = Day(alone, database, f"http://127.0.0.1:{server.server_port}", services, tmp_path)
    with request_finished.connected_to(day.note):
        yield day
    server.shutdown()
    thread.join()
    server.server_close()


def support_s(day: Day, ann: Person) -> None:
    sue = day.comes(Role.SUPPORT, 1)
    them, reason = ann.user.user_id, "Case 17: they ask"
    path = f"/admin/users/{them}"
    purchase = day.services.parts[0].purchase
    bought = f"purchases/{purchase.purchase_id}/refund"
    refunded = {
        "before": {"purchase_id": str(purchase.purchase_id), "refunded_micros": 0},
        "after": {"refunded_micros": 5 * USD},
        "elsewhere": True,
    }
    day.acts(
        sue, "user.read", them, reason,
        lambda: day.page(sue, "/admin/users", whom=ann.user.email, reason=f" {reason}\n"),
    )  # fmt: skip
    day.acts(
        sue, "user.end_logins", them, "They lost the laptop",
        lambda: day.page(sue, f"{path}/logins", reason="They lost the laptop"),
        before={"sessions": 1, "tokens": 1}, after={"sessions": 0, "tokens": 0},
    )  # fmt: skip
    day.acts(
        sue, "user.end_second_step", them, "They lost the phone",
        lambda: day.page(sue, f"{path}/second-step", reason="They lost the phone"),
        before={"second_step": "on"}, after={"second_step": "off"},
    )  # fmt: skip
    mail_id = _refused_mail(day.database, ann.user)
    day.acts(
        sue, "mail.send_again", them, "Their server was full",
        lambda: day.page(sue, f"{path}/mails/{mail_id}", reason="Their server was full"),
        before={"mail_id": str(mail_id), "outcome": "refused"},
        after=lambda: {"mail_id": str(_waiting_mail(day.database, ann.user)), "outcome": "waits"},
    )  # fmt: skip
    day.acts(
        sue, "purchase.refund", them, "It never ran",
        lambda: day.page(sue, f"{path}/{bought}", reason="It never ran", key=str(uuid4())),
        **refunded,
    )  # fmt: skip
    day.by_program(
        sue, "/api/admin/users", {"whom": ann.user.email, "reason": reason},
        ["user", "find", ann.user.email], "user.read", them,
    )  # fmt: skip
    _ends_logins_by_program(day, sue)
    line = {**refunded["before"], "line": 0}
    day.by_program(
        sue, f"/api{path}/{bought}", {"line": 0, "reason": "It never ran"},
        ["refund", str(them), str(purchase.purchase_id), "--line", "0", "--yes"],
        "purchase.refund", them, **{**refunded, "before": line},
    )  # fmt: skip
    _gives(day, sue, ann)
    _makes_a_token(day, sue)


def _ends_logins_by_program(day: Day, sue: Person) -> None:
    """Of somebody else each time, who has a session and a second step: the first act ends both."""
    for way in ("api", "terminal"):
        bob = day.comes(None, 10)
        them, why = bob.user.user_id, "They lost all of it"
        mail_id = _refused_mail(day.database, bob.user)
        path = f"/api/admin/users/{them}"
        origin = None if way == "api" else HERE

        def do(
            address: str, body: dict[str, str], *words: str, way: str = way
        ) -> Callable[[], None]:
            if way == "api":
                return lambda: day.api(sue, address, body)
            return lambda: day.types(sue, "admin", "user", *words, "--reason", body["reason"])

        told = {"whom": bob.user.email, "reason": why}
        day.acts(
            sue, "user.read", them, why,
            do("/api/admin/users", told, "find", bob.user.email), origin=origin,
        )  # fmt: skip
        day.acts(
            sue, "user.end_logins", them, why,
            do(f"{path}/logins", {"reason": why}, "end-logins", str(them), "--yes"), origin=origin,
            before={"sessions": 1, "tokens": 1}, after={"sessions": 0, "tokens": 0},
        )  # fmt: skip
        day.acts(
            sue, "user.end_second_step", them, why,
            do(f"{path}/second-step", {"reason": why}, "end-second-step", str(them), "--yes"),
            origin=origin, before={"second_step": "on"}, after={"second_step": "off"},
        )  # fmt: skip
        day.acts(
            sue, "mail.send_again", them, why,
            do(f"{path}/mails/{mail_id}", {"reason": why}, "send-again", str(them), str(mail_id)),
            origin=origin, before={"mail_id": str(mail_id), "outcome": "refused"},
            after=lambda user=bob.user: {
                "mail_id": str(_waiting_mail(day.database, user)), "outcome": "waits"
            },
        )  # fmt: skip


def _makes_a_token(day: Day, sue: Person) -> None:
    form = {"name": "desk", "scopes": "admin", "expires_in_days": "30", "code": sue.code()}
    day.acts(
        sue, "token.make", sue.user.user_id, "for a program of their own",
        lambda: day.page(sue, "/dashboard/account/tokens", 200, **form),
        after=lambda: {"token_id": _newest_token(day.database, sue.user), "scopes": ["admin"]},
    )  # fmt: skip


def _gives(day: Day, who: Person, ann: Person) -> None:
    """Promotional credit."""
    told = {"whom": ann.user.email, "amount": "5.25", "last_day": "2999-03-01", "reason": "Sorry!"}
    given = {
        "before": lambda: {
            "amount_micros": 5_250_000,
            "expires_at": "2999-03-02T00:00:00+00:00",
            "key": _given(day.services)[-1].idempotency_key,
        },
        "after": lambda: {"promotion_id": str(_promotion(day.services).promotion_id)},
        "elsewhere": True,
    }
    act = ("promotion.give", ann.user.user_id)
    key = str(uuid4())
    day.acts(
        who, *act, "Sorry!", lambda: day.page(who, "/admin/promotions", **told, key=key), **given
    )
    day.by_program(
        who, "/api/admin/promotions", {**told, "amount": 5.25},
        ["promotions", "give", ann.user.email, "5.25", "--last-day", "2999-03-01", "--yes"],
        *act, **given,
    )  # fmt: skip


def finance_s(day: Day, ann: Person) -> None:
    fin, eve = day.comes(Role.FINANCE, 2), day.comes(Role.FINANCE, 3)
    verification = examples("wallet")["Verification"]["verification_id"]
    verified = {"before": {}, "after": {"verification_id": verification}, "elsewhere": True}
    reason = "The month's end"
    day.acts(
        fin, "ledger.verify", "ledger", reason,
        lambda: day.page(fin, "/admin/finance/verify", reason=reason, key=str(uuid4())),
        **verified,
    )  # fmt: skip
    day.by_program(
        fin, "/api/admin/finance/verify", {"reason": reason}, ["finance", "verify"],
        "ledger.verify", "ledger", **verified,
    )  # fmt: skip
    file = "/admin/finance/disputes/du_1/payment.csv"
    day.acts(
        fin, "dispute.read", ann.user.user_id, "The bank asks",
        lambda: day.page(fin, file, 200, reason="The bank asks"), before={"dispute_id": "du_1"},
    )  # fmt: skip
    day.by_program(
        fin, "/api/admin/finance/disputes/du_1/payment", {"reason": "The bank asks"},
        ["finance", "payment", "du_1"], "dispute.read", ann.user.user_id,
        before={"dispute_id": "du_1"},
    )  # fmt: skip
    _pays_out(day, fin, ann)
    _adjust(day, fin, eve, ann)
    _gives(day, fin, ann)


def _pays_out(day: Day, fin: Person, ann: Person) -> None:
    finance = day.services.parts[3]
    payout, them, reason = finance.payout.payout_id, ann.user.user_id, "The run of Monday"
    before = {"payout_id": str(payout), "amount_micros": finance.payout.amount_micros}
    for verb, word, status, more in (
        ("pay", "paid", "paying", {"reference": "SEPA 7"}),
        ("refuse", "refused", "refusing", {}),
    ):
        after = {"status": status, "reference": more.get("reference", "")}
        told = {"before": before, "after": after, "elsewhere": True}
        form = {**more, "reason": reason}
        path = f"/admin/finance/payouts/{payout}/{word}"
        words = ["payouts", word, str(payout), *more.values(), "--yes"]
        day.acts(
            fin, f"payout.{verb}", them, reason,
            lambda path=path, form=form: day.page(fin, path, **form, key=str(uuid4())), **told,
        )  # fmt: skip
        day.by_program(
            fin, f"/api/admin/payouts/{payout}/{word}", form, words, f"payout.{verb}", them, **told
        )


def _adjust(day: Day, fin: Person, eve: Person, ann: Person) -> None:
    """What one proposes and the other decides."""
    page, them = "/admin/adjustments", ann.user.user_id
    form = {"whom": ann.user.email, "direction": "debit", "amount": "5.25", "reason": "Twice paid"}

    def known(status: str) -> dict[str, Any]:
        [made] = day.services.parts[1].adjustments[-1:]
        return {
            "adjustment_id": str(made.adjustment_id),
            "user_id": str(them),
            "amount_micros": -5_250_000,
            "proposed_by": str(fin.user.user_id),
            "status": status,
            "transaction_id": "",
        }

    proposed = {
        "before": {"amount_micros": -5_250_000},
        "after": lambda: known("proposed"),
        "elsewhere": True,
    }
    for verb, status in (("approve", "posted"), ("reject", "rejected")):
        day.acts(
            fin, "adjustment.propose", them, "Twice paid",
            lambda: day.page(fin, page, **form, key=str(uuid4())), **proposed,
        )  # fmt: skip
        made = day.services.parts[1].adjustments[-1].adjustment_id
        decided = {
            "before": {"status": "proposed"},
            "after": lambda status=status: known(status),
            "elsewhere": True,
        }
        path, act = f"{page}/{made}/{verb}", (f"adjustment.{verb}", made)
        words = ["adjustments", verb, str(made), *(["--yes"] if verb == "approve" else [])]
        day.acts(
            eve, *act, "Seen the invoices",
            lambda path=path: day.page(eve, path, reason="Seen the invoices", key=str(uuid4())),
            **decided,
        )  # fmt: skip
        day.by_program(
            fin, f"/api{page}", {**form, "amount": 5.25},
            ["adjustments", "propose", ann.user.email, "debit", "5.25"],
            "adjustment.propose", them, **proposed,
        )  # fmt: skip
        day.by_program(
            eve, f"/api{path}", {"reason": "Seen the invoices"},
            words, *act, **decided,
        )  # fmt: skip


def operator_s(day: Day, ann: Person) -> None:
    oli = day.comes(Role.OPERATOR, 4)
    known = {"is_stopped": False, "reason": "", "by": ""}
    reason = "Charged twice?"
    for by in ("page", "program"):
        for verb, word in (("stop", "stop"), ("release", "go")):
            after = {"is_stopped": verb == "stop", "reason": reason, "by": str(oli.user.user_id)}
            act = (f"charges.{verb}", "automatic charges")
            if by == "page":
                path = f"/admin/charges/{verb}"
                day.acts(
                    oli, *act, reason, lambda path=path: day.page(oli, path, reason=reason),
                    before=known, after=after, elsewhere=True,
                )  # fmt: skip
                known = after
                continue
            body = {"reason": reason}
            path = f"/api/admin/charges/{verb}"
            for do, origin in (
                (lambda path=path, body=body: day.api(oli, path, body), None),
                (
                    lambda word=word: day.types(oli, "admin", "charges", word, "--reason", reason),
                    "127.0.0.1",
                ),
            ):
                day.acts(
                    oli, *act, reason, do, before=known, after=after, elsewhere=True, origin=origin
                )
                known = after
    _deal_with_letters(day, oli)
    _changes_roles(day, oli, ann)
    body = {"name": "ops", "scopes": ["admin"], "expires_in_days": 7, "code": oli.code()}
    day.acts(
        oli, "token.make", oli.user.user_id, "for a program of their own",
        lambda: day.api(oli, "/api/tokens", body),
        after=lambda: {"token_id": _newest_token(day.database, oli.user), "scopes": ["admin"]},
    )  # fmt: skip


def _changes_roles(day: Day, oli: Person, ann: Person) -> None:
    form = {"whom": ann.user.email, "role": "support", "reason": "She joins support"}
    day.acts(
        oli, "role.grant", ann.user.user_id, form["reason"],
        lambda: day.page(oli, "/admin/roles/grant", **form),
        before={"roles": ""}, after={"roles": "support"},
    )  # fmt: skip
    day.acts(
        oli, "role.take", ann.user.user_id, form["reason"],
        lambda: day.page(oli, "/admin/roles/take", **form),
        before={"roles": "support"}, after={"roles": ""},
    )  # fmt: skip
    for do, origin in (
        (lambda verb: day.api(oli, f"/api/admin/roles/{verb}", form), None),
        (
            lambda verb: day.types(
                oli, "admin", "roles", verb, ann.user.email, "support", "--reason", form["reason"]
            ),
            HERE,
        ),
    ):
        for verb, before, after in (("grant", "", "support"), ("take", "support", "")):
            day.acts(
                oli, f"role.{verb}", ann.user.user_id, form["reason"],
                lambda do=do, verb=verb: do(verb), origin=origin,
                before={"roles": before}, after={"roles": after},
            )  # fmt: skip


def _deal_with_letters(day: Day, oli: Person) -> None:
    letter = f"wallet/{LETTER.message}"
    dealt = {
        "before": {"queue": LETTER.queue, "attempts": 6, "error": "KeyError"},
        "after": {"count": 1},
        "elsewhere": True,
    }
    for verb, sure in (("replay", ()), ("discard", ("--yes",))):
        act = (f"dead_letter.{verb}", f"wallet {LETTER.message}")
        path = f"/admin/operations/{letter}/{verb}"
        day.acts(
            oli, *act, "It is mended",
            lambda path=path: day.page(oli, path, reason="It is mended"), **dealt,
        )  # fmt: skip
        day.by_program(
            oli, f"/api/admin/dead-letters/{letter}/{verb}", {"reason": "It is mended"},
            ["dead-letters", verb, "wallet", LETTER.message, *sure], *act, **dealt,
        )  # fmt: skip


def the_owner_s(day: Day, ann: Person) -> None:
    """At the machine itself."""
    login = f"{getpass.getuser()}@{socket.gethostname()}"
    for verb, before, after in (("grant", "", "auditor"), ("take", "auditor", "")):
        with day.time() as rows:
            said = ["--by", "the owner", "--reason", "For a year"]
            assert roles.main([verb, ann.user.email, "auditor", *said]) == 0
            them = str(ann.user.user_id)
            row = Row(None, "the owner", "", login, f"role.{verb}", them, "For a year")
            row.before, row.after = {"roles": before}, {"roles": after}
            rows.append(row)


def sellers_(day: Day) -> None:
    new = day.comes(None, 5)
    fee_bps = day.app.extensions["mycelium"].settings.marketplace_fee_bps
    terms = {"terms": selling.TERMS_VERSION, "fee_bps": fee_bps}
    day.acts(
        new, "seller.join", new.user.user_id, "Became a seller and agreed to the terms",
        lambda: day.page(new, "/dashboard/selling/join", agree="yes", **terms),
        before={"roles": ""}, after={"roles": "seller", **terms},
    )  # fmt: skip
    sel = day.comes(Role.SELLER, 6)
    catalog = test_seller_products.Services(sel.user.user_id)
    day.services.parts.insert(0, catalog)
    path, key = "/dashboard/selling/products", str(uuid4())
    mine = catalog.mine
    known = {"price_micros": mine.price_micros, "stock": 5}
    made = {"after": {"product_id": str(mine.product_id), **known}, "elsewhere": True}
    day.acts(
        sel, "product.create", f"hill-vm-{key[-6:]}", BY_SELLER,
        lambda: day.page(sel, path, **test_seller_products.FORM, key=key),
        before={"name": "Hill-VM", "price_micros": 12_500_000}, **made,
    )  # fmt: skip
    for act, action in (("price", "price"), ("stock", "change"), ("retire", "retire")):
        form = {"act": act, "price": "9", "stock": "7", "seen": "5", "key": str(uuid4())}
        day.acts(
            sel, f"product.{action}", mine.product_id, BY_SELLER,
            lambda form=form: day.page(sel, f"{path}/{mine.product_id}", **form),
            before=known, **made,
        )  # fmt: skip
    day.acts(
        sel, "seller.profile", sel.user.user_id, BY_SELLER,
        lambda: day.page(sel, "/dashboard/selling/profile", name="Hilltop", key=str(uuid4())),
        before={}, after={"name": "Hilltop"}, elsewhere=True,
    )  # fmt: skip

    _sells_by_program(day, sel, catalog)


def _sells_by_program(day: Day, sel: Person, catalog: test_seller_products.Services) -> None:
    """The same by a program, and in a terminal."""
    mine, path = catalog.mine, "/api/selling/products"
    one = f"{path}/{mine.product_id}"
    known = {"price_micros": mine.price_micros, "stock": 5}
    made = {"after": {"product_id": str(mine.product_id), **known}, "elsewhere": True}
    product = {
        "name": "Hill-VM", "category": "compute", "summary": "A machine.", "price_usd": 12.5,
        "billing_period": "month",
    }  # fmt: skip
    file = day.folder / "product.json"
    file.write_text(json.dumps(product))
    put_up = {"before": {"name": "Hill-VM", "price_micros": 12_500_000}, **made}
    named = lambda: catalog.of(CreateProduct)[-1].slug  # noqa: E731
    for act, before, subject, api, words in (
        ("product.create", put_up["before"], named, ("POST", path, product), ["add", str(file)]),
        (
            "product.price", known, mine.product_id, ("PATCH", one, {"price_usd": 9}),
            ["product", str(mine.product_id), "price", "9", "--yes"],
        ),
        (
            "product.change", known, mine.product_id, ("PATCH", one, {"stock_change": 2}),
            ["product", str(mine.product_id), "stock", "--add", "2"],
        ),
        (
            "product.retire", known, mine.product_id, ("POST", f"{one}/retire", None),
            ["product", str(mine.product_id), "retire", "--yes"],
        ),
        (
            "seller.profile", {}, sel.user.user_id,
            ("PUT", "/api/selling/profile", {"name": "Hilltop"}), ["profile", "write", "Hilltop"],
        ),
    ):  # fmt: skip
        method, address, body = api
        then = {"name": "Hilltop"} if act == "seller.profile" else made["after"]
        told = {"before": before, "after": then, "elsewhere": True}
        day.acts(
            sel, act, subject, BY_PROGRAM,
            lambda address=address, body=body, method=method: day.api(sel, address, body, method),
            **told,
        )  # fmt: skip
        day.acts(
            sel, act, subject, BY_PROGRAM,
            lambda words=words: day.types(sel, "selling", *words), origin=HERE, **told,
        )  # fmt: skip


def _refused_mail(database: Connected, user: User) -> UUID:
    told = ("purchase_completed", "It is paid", "It is paid.", "/dashboard")
    with database.begin() as session:
        mails.queue(session, utc_now(), [(user.user_id, *told)])
        row = _last_mail(session, user)
        row.outcome, row.due_at = "refused", None
        return row.mail_id


def _waiting_mail(database: Connected, user: User) -> UUID:
    with database.read() as session:
        return _last_mail(session, user).mail_id


def _last_mail(session: Session, user: User) -> Mail:
    row = session.scalars(
        select(Mail)
        .where(Mail.user_id == user.user_id, Mail.kind == "purchase_completed")
        .order_by(Mail.mail_id.desc())
    ).first()
    assert row
    return row


def _newest_token(database: Connected, user: User) -> str:
    with database.read() as session:
        query = select(ApiToken.token_id).where(ApiToken.user_id == user.user_id)
        return str(session.scalars(query.order_by(ApiToken.token_id.desc())).first())


def _given(services: Services) -> list[GivePromotion]:
    [wallet] = [each for each in services.parts if isinstance(each, test_promotions_page.Wallet)]
    return wallet.given


def _promotion(services: Services) -> Promotion:
    assert isinstance(services.told, Promotion)
    return services.told


def logged(database: Connected, after: int) -> list[Act]:
    with database.read() as session:
        rows = select(Act).where(Act.position > after).order_by(Act.position)
        return list(session.scalars(rows))


@pytest.fixture
def lived(day: Day, database: Connected, monkeypatch: pytest.MonkeyPatch) -> tuple[Day, list[Act]]:
    """Everything was done that a role does; and what the log has of it, but for the roles that
    people came with."""
    ann = day.comes(None, 9)
    url = database.engine.url.render_as_string(hide_password=False)
    # Not by the environment: the settings are read once, and another test may have read them.
    monkeypatch.setattr(roles, "service_settings", lambda: SimpleNamespace(database_url=url))
    finance = test_finance_page.Services(ann.user)
    finance.disputes = [disputed(ann.user, "needs_response")]
    day.services.parts = [
        test_admin_api.Services(),
        test_adjustments_page.Wallet(),
        test_promotions_page.Wallet(),
        finance,
        test_operations_page.Services(),
    ]
    before = last_acts(database, 1)
    support_s(day, ann)
    finance_s(day, ann)
    operator_s(day, ann)
    the_owner_s(day, ann)
    sellers_(day)
    found = logged(database, before[0].position if before else 0)
    return day, [act for act in found if act.origin != COMMAND.origin]


def test_every_act_of_a_day_stands_in_the_log_as_it_was_noted_by_hand(
    lived: tuple[Day, list[Act]], database: Connected
) -> None:
    day, log = lived

    assert [_said(act) for act in log] == [
        (
            row.actor_id, row.actor, row.roles, row.origin, row.action, row.subject, row.reason,
            row.before, row.after, row.is_outcome,
        )
        for row in day.rows
    ]  # fmt: skip
    assert [
        row.action
        for row, act in zip(day.rows, log, strict=True)
        if not row.began <= act.occurred_at <= row.ended
    ] == []
    # An outcome names the act that it tells of: the one before it.
    positions = [act.position for act in log]
    assert [act.completes for act in log if act.completes is not None] == [
        positions[place - 1] for place, row in enumerate(day.rows) if row.is_outcome
    ]
    # No route that changes something for a role is left out, nor a way to it.
    pages = {name for name in ACTS if not name[1].startswith("/api/")}
    assert day.driven["page"] & ACTS == pages
    assert day.driven["api"] & ACTS == day.driven["terminal"] & ACTS == ACTS - pages


def test_the_chain_over_a_day_holds_and_breaks_wherever_a_row_is_changed(
    lived: tuple[Day, list[Act]], database: Connected
) -> None:
    _, log = lived
    with database.read() as session:
        head = acts.head(session)
        assert check_lines(acts.lines(session), acts.flaw, head.digest) == (None, head)

    changes = (
        "actor_id = gen_random_uuid()", "occurred_at = occurred_at + interval '1 s'",
        "origin = 'elsewhere'", "action = 'user.read'", "reason = 'Another one'",
        "subject = 'somebody else'", "before = '{\"roles\": \"operator\"}'",
        "after = '{\"roles\": \"operator\"}'", "completes = 1",
    )  # fmt: skip
    for number, change in enumerate(changes):
        position = log[number * (len(log) - 1) // len(changes)].position
        with database.rehearse() as session:
            # The database may be cleaning this table up, and gives way after a while.
            session.execute(text("SET LOCAL lock_timeout = '1min'"))
            session.execute(text("ALTER TABLE acts DISABLE TRIGGER append_only"))
            changed = f"UPDATE acts SET {change} WHERE position = :position"  # noqa: S608
            session.execute(text(changed), {"position": position})
            difference, last = check_lines(acts.lines(session), acts.flaw)
        assert f"position {position}" in (difference or "nothing was noticed"), change
        assert last.position == position - 1


def _said(act: Act) -> tuple[Any, ...]:
    return (
        act.actor_id, act.actor, act.roles, act.origin, act.action, act.subject, act.reason,
        act.before, act.after, act.completes is not None,
    )  # fmt: skip
