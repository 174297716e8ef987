"""/admin/finance: the books, what does not agree in them, and a journal as a file."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask

from chassis.clock import utc_now
from chassis.database import Connected
from chassis.identifiers import new_id
from contracts.billing import (
    GetSalesSums,
    ListPayouts,
    MarkPayoutPaid,
    Payout,
    PayoutPage,
    PayoutStatus,
    ProviderSales,
    RefusePayout,
    SalesSum,
    SalesSums,
)
from contracts.errors import Conflict, DeadlineExceeded, ServiceError, Unavailable
from contracts.topup import (
    DisputeDetails,
    DisputeRecord,
    GetConsent,
    GetPaymentBooks,
    GetReceipt,
    PaymentBooks,
)
from contracts.wallet import (
    AskVerification,
    Books,
    GetBooks,
    GetJournal,
    Journal,
    Statement,
    StatementPage,
    Transaction,
)
from services.gateway import spreadsheets
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.models import User
from services.gateway.staff import payment_evidence
from tests.contracts.golden import examples
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_roles import Desk, last_acts
from tests.gateway.test_support import clerk

USD = 1_000_000


class Services:
    """What they tell; ``fails`` is what asking for a verification raises."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.asked: list[Any] = []
        self.fails: ServiceError | None = None
        self.away: set[str] = set()
        self.difference_micros = 0
        self.disputes: list[DisputeRecord] = []
        told = {"status": "held", "amount_micros": 40 * USD, "user_id": user.user_id}
        self.payout = Payout.model_validate({**examples("billing")["Payout"], **told})

    def closed(self, request: MarkPayoutPaid | RefusePayout) -> Callable[[], Payout]:
        if self.fails:
            raise self.fails
        told: dict[str, Any] = {"status": PayoutStatus.REFUSING, "reference": ""}
        if isinstance(request, MarkPayoutPaid):
            told = {"status": PayoutStatus.PAYING, "reference": request.reference}
        return lambda: self.payout.model_copy(update=told)

    def begin(  # noqa: C901 - one line for each question
        self, _backend: Backend, request: Any, _timeout_s: float
    ) -> Callable[[], Any]:
        self.asked.append(request)
        if request.service in self.away:
            raise Unavailable("It is away.")
        match request:
            case GetBooks():
                return self.books
            case GetPaymentBooks():
                return self.payments
            case ListPayouts():
                return lambda: PayoutPage(payouts=[self.payout])
            case MarkPayoutPaid() | RefusePayout():
                return self.closed(request)
            case GetReceipt() | GetConsent():
                kind = type(request).reply
                told = kind.model_validate(examples("topup")[kind.__name__])
                return lambda: told
            case Statement():
                return lambda: self.spent(request)
            case GetJournal():
                return lambda: self.journal(request)
            case AskVerification():
                if self.fails:
                    raise self.fails
                told = examples("wallet")["Verification"]
                return lambda: AskVerification.reply.model_validate(told)
        raise Unavailable("It is away.")

    def books(self) -> Books:
        told = examples("wallet")["Books"]
        found = Books.model_validate({**told, "difference_micros": self.difference_micros})
        owing = found.negative[0].model_copy(
            update={"user_id": self.user.user_id, "balance_micros": -7 * USD}
        )
        return found.model_copy(update={"negative": [owing]})

    def payments(self) -> PaymentBooks:
        found = PaymentBooks.model_validate(examples("topup")["PaymentBooks"])
        [difference] = found.differences
        old = {"occurred_at": utc_now() - timedelta(days=3, hours=1), "gone_at": None}
        stands = difference.model_copy(update={**old, "message": "=taken, and no top-up"})
        return found.model_copy(
            update={
                "differences": [stands, difference],
                "disputes": self.disputes or found.disputes,
            }
        )

    def spent(self, request: Statement) -> StatementPage:
        """On two pages."""
        told = {**examples("wallet")["Transaction"], "kind": "purchase", "description": "=Machine"}
        cursor = examples("wallet")["StatementPage"]["next_cursor"]
        return StatementPage(
            transactions=[Transaction.model_validate(told)],
            next_cursor=None if request.cursor else cursor,
        )

    def journal(self, request: GetJournal) -> Journal:
        line = Journal.model_validate(examples("wallet")["Journal"]).lines[0]
        return Journal(lines=[line.model_copy(update={"day": request.since})])


@pytest.fixture
def services(database: Connected, monkeypatch: pytest.MonkeyPatch) -> Services:
    add_user(database, has_wallet=True)
    stand_in = Services(add_user(database, "owes@example.com", has_wallet=True))
    answers_with(monkeypatch, stand_in)
    return stand_in


@pytest.fixture
def desk(alone: Flask, database: Connected) -> Desk:
    return clerk(alone, database, Role.FINANCE)


def test_the_books_are_on_one_page(desk: Desk, services: Services) -> None:
    page = desk.get("/admin/finance").text

    for told in ("Comes to zero", "Card receipts", "−$7.00", "owes@example.com", "3 d old", "Gone"):
        assert told in page


def disputed(user: User, status: str, url: str = "", **details: Any) -> DisputeRecord:
    now = utc_now()
    told = {
        "reason": "product_not_received",
        "network_reason_code": "13.1",
        "fee_micros": 15 * USD,
        "due_at": now + timedelta(days=9),
        "is_past_due": False,
        "has_evidence": False,
        "submission_count": 0,
        "was_submitted_late": False,
        "opened_at": now,
        "closed_at": None,
    }
    return DisputeRecord(
        dispute_id="du_1",
        topup_id=new_id(),
        user_id=user.user_id,
        amount_micros=25 * USD,
        status=status,
        taken_at=now,
        asked_at=now,
        restored_at=None,
        details=DisputeDetails.model_validate(told | details),
        url=url,
    )


@pytest.mark.parametrize(
    ("status", "details", "words"),
    [
        ("needs_response", {}, ["Needs evidence", "Evidence due by", "none submitted"]),
        ("needs_response", {"is_past_due": True}, ["Past due"]),
        ("needs_response", {"due_at": None}, ["No date for evidence"]),
        ("warning_needs_response", {"has_evidence": True}, ["Inquiry", "drafted, not submitted"]),
        ("under_review", {"submission_count": 1}, ["The bank decides", "submitted"]),
        (
            "under_review",
            {"submission_count": 2, "was_submitted_late": True},
            ["2 times, too late"],
        ),
        ("lost", {"closed_at": utc_now()}, ["Lost", "seen closed"]),
        ("a_new_word", {}, ["A new word"]),
    ],
)
def test_a_dispute_is_told_in_words(
    desk: Desk, services: Services, status: str, details: dict[str, Any], words: list[str]
) -> None:
    services.disputes = [disputed(services.user, status, **details)]
    page = desk.get("/admin/finance").text

    for told in (*words, "$15.00</span> fee", "Reason: product not received (13.1)"):
        assert told in page
    assert ("Past due" in page) is ("Past due" in words)


def test_a_dispute_leads_to_the_processors_dashboard_where_it_has_a_page(
    desk: Desk, services: Services
) -> None:
    url = "https://dashboard.stripe.com/disputes/du_1"
    services.disputes = [disputed(services.user, "needs_response", url)]
    with_page = desk.get("/admin/finance").text
    services.disputes = [disputed(services.user, "needs_response")]

    assert f'href="{url}"' in with_page
    assert "dashboard.stripe.com" not in desk.get("/admin/finance").text


def test_a_dispute_from_before_says_what_is_not_known(desk: Desk, services: Services) -> None:
    assert "From before these details were kept" in desk.get("/admin/finance").text


EVIDENCE = "/admin/finance/disputes/du_1/payment.csv"


def test_what_is_known_of_a_disputed_payment_is_a_file_and_reading_it_is_recorded(
    database: Connected, desk: Desk, services: Services
) -> None:
    dispute = disputed(services.user, "needs_response")
    services.disputes = [dispute]
    answer = desk.post(EVIDENCE, reason="Case 7")

    [act] = last_acts(database, 1)
    assert (answer.status_code, answer.mimetype) == (200, "text/csv")
    assert (act.action, act.subject, act.reason) == (
        "dispute.read",
        str(services.user.user_id),
        "Case 7",
    )
    assert act.before == {"dispute_id": dispute.dispute_id}
    consent = examples("topup")["ConsentBehind"]["consent"]
    for told in (
        "owes@example.com",
        consent["text"],
        consent["client_address"],
        "consent terms",
        "example ending in example",
        "'=Machine",
        "purchase",
    ):
        assert told in answer.text
    assert [
        each.user_id
        for each in services.asked
        if isinstance(each, GetReceipt | GetConsent | Statement)
    ] == [services.user.user_id] * 4
    assert EVIDENCE in desk.get("/admin/finance").text


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/admin/finance/disputes/du_2/payment.csv", {}),
        (EVIDENCE, {"taken_at": None}),
    ],
    ids=["no such dispute", "a payment that was never credited"],
)
def test_what_is_no_dispute_of_credits_opens_nothing(
    database: Connected, desk: Desk, services: Services, path: str, change: dict[str, Any]
) -> None:
    dispute = disputed(services.user, "needs_response").model_copy(update=change)
    services.disputes = [dispute]
    before = last_acts(database, 1)

    assert desk.post(path, reason="Case 7").status_code == 404
    assert [each.position for each in last_acts(database, 1)] == [e.position for e in before]


def test_a_file_that_is_cut_says_so(
    desk: Desk, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.disputes = [disputed(services.user, "needs_response")]
    lasts = []
    for pages in (1, 2):
        monkeypatch.setattr(payment_evidence, "PAGES_MAX", pages)
        lasts.append(desk.post(EVIDENCE, reason="Case 7").text.splitlines()[-1].split(",")[0])

    assert lasts == ["not listed", "purchase"]


def test_without_a_reason_or_an_answer_there_is_no_file(desk: Desk, services: Services) -> None:
    services.disputes = [disputed(services.user, "needs_response")]
    unsaid = desk.post(EVIDENCE, reason="no")
    asked = [each for each in services.asked if isinstance(each, GetReceipt)]
    services.away = {"wallet"}
    partly = desk.post(EVIDENCE, reason="Case 7")

    assert (unsaid.status_code, asked) == (303, [])
    assert (partly.status_code, partly.mimetype) == (503, "text/html")


def test_books_that_are_off_say_by_how_much(desk: Desk, services: Services) -> None:
    services.difference_micros = 3 * USD

    assert "Off by +$3.00" in desk.get("/admin/finance").text


@pytest.mark.parametrize("away", ["wallet", "topup", "billing"])
def test_what_a_service_that_is_away_would_tell_is_left_out(
    desk: Desk, services: Services, away: str
) -> None:
    services.away = {away}
    answer = desk.get("/admin/finance")

    assert answer.status_code == 200
    assert "Cannot be shown at the moment" in answer.text


def test_a_journal_of_any_range_comes_a_month_at_a_time_and_each_day_once(
    desk: Desk, services: Services
) -> None:
    answer = desk.get("/admin/finance/journal.csv?since=2026-01-01&until=2026-03-04")
    head, *lines = answer.text.splitlines()

    asked = [each for each in services.asked if isinstance(each, GetJournal)]
    assert [(each.since, each.until) for each in asked] == [
        (date(2026, 1, 1), date(2026, 2, 1)),
        (date(2026, 2, 1), date(2026, 3, 4)),
        (date(2026, 3, 4), date(2026, 3, 5)),
    ]
    assert head == "day,house_account,kind,transactions,received_usd,given_usd,net_usd"
    assert [line.split(",")[0] for line in lines] == ["2026-01-01", "2026-02-01", "2026-03-04"]
    assert "journal-2026-01-01-2026-03-04.csv" in answer.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("since", "until", "status"),
    [
        ("2026-03-01", "2026-03-01", 200),
        ("2026-03-02", "2026-03-01", 422),
        ("2016-01-01", "2026-01-07", 200),
        ("2016-01-01", "2026-01-08", 422),
        ("", "2026-03-01", 422),
        ("2026-03-01", "9999-12-31", 422),
    ],
)
def test_a_range_is_a_day_to_ten_years(
    desk: Desk, services: Services, since: str, until: str, status: int
) -> None:
    answer = desk.get(f"/admin/finance/journal.csv?since={since}&until={until}")

    assert answer.status_code == status


def test_a_journal_that_cannot_be_told_is_no_file(desk: Desk, services: Services) -> None:
    services.away = {"wallet"}
    answer = desk.get("/admin/finance/journal.csv?since=2026-03-01&until=2026-03-01")

    assert (answer.status_code, answer.mimetype) == (503, "text/html")


def test_a_file_that_cannot_be_told_to_its_end_is_an_error(alone: Flask) -> None:
    def parts() -> Iterator[str]:
        yield "day"
        raise Unavailable("It is away.")

    with alone.test_request_context(), pytest.raises(Unavailable):
        spreadsheets.download("journal.csv", parts())


def test_who_has_the_ledger_verified_and_why_is_recorded(
    database: Connected, desk: Desk, services: Services
) -> None:
    answer = desk.post("/admin/finance/verify", reason="The month's end")

    begun, ended = last_acts(database, 2)
    [asked] = [each for each in services.asked if isinstance(each, AskVerification)]
    assert (answer.status_code, asked.asked_by) == (303, begun.actor_id)
    assert [(act.action, act.reason) for act in (begun, ended)] == [
        ("ledger.verify", "The month's end")
    ] * 2
    assert (ended.after or {})["outcome"] == "done"


@pytest.mark.parametrize(
    ("fails", "status", "after"),
    [
        (Conflict("Not now."), 409, {"outcome": "conflict"}),
        (DeadlineExceeded("No answer."), 504, None),
    ],
    ids=["refused", "lost"],
)
def test_a_verification_that_was_not_begun_is_not_recorded_as_begun(
    database: Connected,
    desk: Desk,
    services: Services,
    fails: ServiceError,
    status: int,
    after: dict[str, str] | None,
) -> None:
    services.fails = fails
    answer = desk.post("/admin/finance/verify", reason="The month's end")

    assert (answer.status_code, last_acts(database, 1)[0].after) == (status, after)


def test_without_a_reason_nothing_is_verified(desk: Desk, services: Services) -> None:
    answer = desk.post("/admin/finance/verify", reason="no")

    assert answer.status_code == 422
    assert not [each for each in services.asked if isinstance(each, AskVerification)]


def test_an_auditor_reads_all_of_it_and_has_no_button(
    alone: Flask, database: Connected, services: Services
) -> None:
    page = clerk(alone, database, Role.AUDITOR).get("/admin/finance").text

    assert "Trial balance" in page
    assert "Verify now" not in page


class Sellers(Services):
    """The same, and two who sold in the days that are asked for."""

    def __init__(self, user: User) -> None:
        super().__init__(user)
        names = ("gross_micros", "refunded_micros", "fee_micros", "net_micros")
        self.sold = [
            ProviderSales(provider_id=who, **dict(zip(names, micros, strict=True)))
            for who, micros in (
                (user.user_id, (30 * USD, 2 * USD, 3 * USD, 25 * USD)),
                (uuid4(), (10 * USD, 10 * USD, 0, 0)),
            )
        ]

    def begin(self, backend: Backend, request: Any, timeout_s: float) -> Callable[[], Any]:
        if isinstance(request, GetSalesSums) and "billing" not in self.away:
            self.asked.append(request)
            total = {
                name: sum(getattr(each, name) for each in self.sold)
                for name in SalesSum.model_fields
            }
            sums = SalesSums(total=SalesSum(**total), providers=self.sold)
            return lambda: sums
        return super().begin(backend, request, timeout_s)


def test_finance_sees_what_all_sellers_sold_and_earned(
    alone: Flask, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = add_user(database, has_wallet=True)
    stand_in = Sellers(ann)
    answers_with(monkeypatch, stand_in)
    desk = clerk(alone, database, Role.AUDITOR)
    days, too_long = "since=2026-11-01&until=2026-11-30", "since=2025-11-01&until=2026-11-02"

    page = desk.get(f"/admin/finance/sellers?{days}").text
    wrong = [
        desk.get(f"/admin/finance/sellers?{days}").status_code for days in ("", "since=x", too_long)
    ]
    stand_in.away = {"billing"}
    away = desk.get(f"/admin/finance/sellers?{days}")

    asked = next(each for each in stand_in.asked if isinstance(each, GetSalesSums))
    assert (asked.user_id, f"{asked.since}", f"{asked.until}") == (None, "2026-11-01", "2026-11-30")
    assert (ann.email in page, str(stand_in.sold[1].provider_id) in page) == (True, True)
    assert ["$40.00" in page, "$12.00" in page, "+$25.00" in page] == [True] * 3
    assert wrong == [422, 422, 422]
    assert (away.status_code, "Cannot be shown" in away.text) == (200, True)


PAID = {"reference": "SEPA 7", "reason": "The run of Monday"}


@pytest.fixture
def seller(database: Connected) -> User:
    return add_user(database, has_wallet=True)


@pytest.fixture
def paying(alone: Flask, seller: User, monkeypatch: pytest.MonkeyPatch) -> Services:
    stand_in = Services(seller)
    answers_with(monkeypatch, stand_in)
    return stand_in


def marked(paying: Services) -> list[MarkPayoutPaid]:
    return [each for each in paying.asked if isinstance(each, MarkPayoutPaid)]


def test_finance_reviews_a_payout_and_says_once_that_it_was_sent(
    alone: Flask, database: Connected, seller: User, paying: Services
) -> None:
    desk = clerk(alone, database, Role.FINANCE)
    path = f"/admin/finance/payouts/{paying.payout.payout_id}"
    key = "01890a5d-ac96-774b-bcce-b302099a8057"

    shown = desk.get("/admin/finance").text
    review = desk.post(f"{path}/review", **PAID, key=key)
    marked_by_review = marked(paying)
    done = [desk.post(f"{path}/paid", **PAID, key=key).status_code for _ in range(2)]
    [begun, ended] = last_acts(database, 2)

    assert (f'action="{path}/review' in shown, f'action="{path}/paid' in shown) == (True, False)
    assert (review.status_code, marked_by_review) == (200, [])
    for text in ("$40.00", seller.email, "SEPA 7", "The run of Monday", key, f'"{path}/paid'):
        assert text in review.text
    first, again = marked(paying)
    assert (done, first) == ([303, 303], again)
    assert (first.reference, first.payout_id) == ("SEPA 7", paying.payout.payout_id)
    assert (begun.action, begun.subject, begun.reason) == (
        "payout.pay", str(seller.user_id), "The run of Monday",
    )  # fmt: skip
    assert begun.before == {
        "payout_id": str(paying.payout.payout_id), "amount_micros": 40 * USD,
    }  # fmt: skip
    assert ended.after == {"outcome": "done", "status": "paying", "reference": "SEPA 7"}


def test_a_payout_of_which_no_answer_came_is_marked_by_the_same_form(
    alone: Flask, database: Connected, paying: Services
) -> None:
    desk = clerk(alone, database, Role.FINANCE)
    path = f"/admin/finance/payouts/{paying.payout.payout_id}/paid"
    key = "01890a5d-ac96-774b-bcce-b302099a8057"
    paying.fails = DeadlineExceeded("No answer came in time.")

    lost = desk.post(path, **PAID, key=key)

    assert (lost.status_code, "Pressing again is safe" in lost.text) == (504, True)
    for name, value in {**PAID, "key": key}.items():
        assert f'name="{name}" value="{value}"' in lost.text


def test_a_payout_that_is_refused_says_why(
    alone: Flask, database: Connected, paying: Services
) -> None:
    desk = clerk(alone, database, Role.FINANCE)

    desk.post(f"/admin/finance/payouts/{paying.payout.payout_id}/refused", reason="No account")

    [asked] = [each for each in paying.asked if isinstance(each, RefusePayout)]
    assert asked.reason == "No account"
    assert last_acts(database, 1)[0].action == "payout.refuse"


@pytest.mark.parametrize("step", ["review", "paid", "refused"])
@pytest.mark.parametrize(
    ("wrong", "field", "sentence"),
    [
        ({"reference": " "}, "reference", "Enter the transfer"),
        ({"reference": "x" * 201}, "reference", "Enter the transfer"),
        ({"reason": "no"}, "why", "Say why"),
    ],
    ids=str,
)
def test_a_payout_is_not_closed_without_saying_enough_and_what_was_typed_is_kept(
    alone: Flask,
    database: Connected,
    paying: Services,
    step: str,
    wrong: dict[str, str],
    field: str,
    sentence: str,
) -> None:
    desk, payout_id = clerk(alone, database, Role.FINANCE), paying.payout.payout_id
    if step == "refused":
        field, wrong, sentence = "reject-why", {"reason": "no"}, "Say why"
    form = {"reason": wrong.get("reason", "")} if step == "refused" else {**PAID, **wrong}

    answer = desk.post(f"/admin/finance/payouts/{payout_id}/{step}", **form)

    assert answer.status_code == 422
    assert f'<p class="field-error" id="{field}-{payout_id}-error" role="alert">{sentence}' in (
        answer.text
    )
    paid, refused = answer.text[answer.text.index('<details class="mb-3" open') :].split("<form")[
        1:3
    ]
    sent, other = (refused, paid) if step == "refused" else (paid, refused)
    for name, value in form.items():
        assert f'name="{name}" value="{value}"' in sent
    assert 'name="reason" value=""' in other
    assert [each for each in paying.asked if isinstance(each, MarkPayoutPaid | RefusePayout)] == []


def test_nobody_pays_themself_and_what_billing_refuses_is_said(
    alone: Flask, database: Connected, paying: Services
) -> None:
    desk = clerk(alone, database, Role.FINANCE)
    path = f"/admin/finance/payouts/{paying.payout.payout_id}/paid"
    paying.fails = Conflict("It is paid already.")
    refused = desk.post(path, **PAID)
    [became] = [act for act in last_acts(database, 9) if act.action == "role.grant"][-1:]
    paying.payout = paying.payout.model_copy(update={"user_id": UUID(became.subject)})
    asked = len(marked(paying))

    own = [desk.post(f"/admin/finance/payouts/{paying.payout.payout_id}/{step}", **PAID)
           for step in ("review", "paid")]  # fmt: skip

    assert (refused.status_code, "It is paid already." in refused.text) == (409, True)
    assert [(each.status_code, "ask a colleague" in each.text) for each in own] == [(409, True)] * 2
    assert len(marked(paying)) == asked == 1
