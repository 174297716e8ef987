"""What a buyer says in a product's fields: refused where it is wrong, and passed on as it is."""

import base64
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from chassis.database import Connected
from contracts.billing import (
    Access,
    DeploymentStatus,
    FindPurchase,
    GetDeployment,
    GetPurchase,
    PurchaseLine,
    ReportDeployment,
    StartPurchase,
)
from contracts.catalog import Category, FieldKind, ProductField, QuotedLine
from contracts.errors import BadRequest, Conflict, IdempotencyConflict, NotFound
from services.billing.deployments.examples import example_access
from services.billing.deployments.lifecycle import report_deployment
from services.billing.deployments.queries import get_deployment
from services.billing.models import DeploymentRow
from services.billing.purchases import choices, lifecycle, recording
from services.billing.purchases.queries import find_purchase, get_purchase
from services.billing.purchases.recording import Order
from services.billing.purchases.ssh_keys import NotAPublicKey, check_public_key
from services.billing.settings import BillingSettings
from tests.billing.conftest import EXTERNAL, NOW, RULES, at, quote_of, quoted

ED25519 = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKYnM4cyOF3pDv+t5H1PXPjTdnJK5TnT/JnyYiVCoNfj ann@examp"
    "le.org"
)
ECDSA_256 = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHfaCgSHq9H2vQb5qo"
    "DJItAurccUXUXyQbgY80HxQRNp5Z30v8s9d2n+5/ihVFR9b9BmA+a8csmfoP+wxoK9CKw= ann@example.org"
)
ECDSA_384 = (
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBKKVc9zeCvX2FAaa+K"
    "kOF/iNCSvGNRIS841at8Ooa7WJAEj11wuLwIud21eQpbmLdRA3HG1aWNxbpgPcs8Nplq0MuT5Z0DfnXpT2y4C4Qt/Y"
    "WQZhFyIF0BIyi4FE9H+Vxg== ann@example.org"
)
ECDSA_521 = (
    "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBABcTcJxq9Q+e1thsB"
    "5c+wpt7RRihUGdDPym5r1GbrqXCLcqGF5n4UWEl/UWyhpPl2Ru3roCvjDS3XoJvjgOIqXE1gHTNHjdoOjRefd+Qrk2"
    "Jy7WALb8A6Rn3etlEn1o9kqle+nC54PXIup9851vhJ6l0IMWgHOrA/RRAQI7Q9eCemJwbw== ann@example.org"
)
RSA = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQD3X3xcDVpUiY5OkFXr/AwixoQ3efg0BePoYIRJZOd3+8Vw4ELF4t"
    "BJw9zkwdAnwv7u1gJfeI2CLWOFFRxCiOHF40z5ZsKZzQZ2BFiVJYz7WRmNx/WbHsT9n5ttAOqX8wBWAg6ypEUkqcOO"
    "F4E5ZDHbli4upWbsU8JIKZlpfn8dtoj5Bp+TiK4a5o0MRkGbR9eW2cp/U4OJgTTDtMipV7rXyilvOQUQVhztcHqyn8"
    "UDvcR+SpJugDe5YwOTVsqvb6XmLh61wRNa8FqpONs/SfIkGYRdR2s4ey1TDIGPspujAycA14J1cqC1xw1LCH2XuIPe"
    "nkGdL/uHiwY882QXL6g7 ann@example.org"
)
WEAK_RSA = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDoG73qaeFbguxF3I5YjV55FlIPf5QxRo1CB8jMkeNPwtJsb/j2gq"
    "qKvEzxhLgivIdWYob3ksquadvu6LrK6tu0/C0/k9cYLgGNfX3ZmlsV5oZ3pV4OBDCIOZ+5KVbyGZploZj6qJ/nBzBV"
    "1oKtm/xL7pUvG4xPzJHzurUSp2/CPQ== ann@example.org"
)
PRIVATE = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE\n-----END OPENSSH PRIVATE KEY-----"
)

IMAGE = ProductField(
    key="image", label="Image", kind=FieldKind.CHOICE, choices=["Debian 12", "Alpine 3.20"]
)
HOST = ProductField(
    key="host", label="Host name", kind=FieldKind.TEXT, is_required=True, length_max=8
)
KEY = ProductField(key="ssh_key", label="SSH public key", kind=FieldKind.SSH_KEY)


def offered(*fields: ProductField, quantity: int = 1) -> QuotedLine:
    line = quoted(5_000_000, quantity)
    product = line.product.model_copy(update={"fields": list(fields)})
    return line.model_copy(update={"product": product})


def line_for(offer: QuotedLine, **said: str) -> PurchaseLine:
    return PurchaseLine(product_id=offer.product.product_id, quantity=offer.quantity, choices=said)


def refusal(offer: QuotedLine, **said: str) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        choices.check([line_for(offer, **said)], quote_of(offer))
    return refused.value


def bought(
    database: Connected,
    *orders: tuple[QuotedLine, dict[str, str]],
    rules: BillingSettings = RULES,
    user_id: UUID | None = None,
) -> list[DeploymentRow]:
    command = StartPurchase(
        idempotency_key=f"key-{uuid4()}",
        user_id=user_id or uuid4(),
        lines=[line_for(offer, **said) for offer, said in orders],
    )
    quote = quote_of(*(offer for offer, _ in orders))
    with database.begin() as session:
        claimed = recording.record(session, NOW, Order(command, quote), rules)
    assert claimed is not None
    with database.begin() as session:
        row = lifecycle.complete(session, NOW, claimed.purchase_id, uuid4(), rules)
    return row.deployments


def report(
    database: Connected, row: DeploymentRow, status: DeploymentStatus, access: Access | None
) -> None:
    command = ReportDeployment(deployment_id=row.deployment_id, status=status, access=access)
    with database.begin() as session:
        report_deployment(session, at(NOW), command, EXTERNAL)


def told(database: Connected, event_type: str) -> list[dict[str, Any]]:
    query = text("SELECT payload FROM outbox WHERE type = :type ORDER BY id")
    with database.read() as session:
        return [payload for (payload,) in session.execute(query, {"type": event_type})]


# SSH keys.


@pytest.mark.parametrize("key", [ED25519, ECDSA_256, ECDSA_384, ECDSA_521, RSA])
def test_a_public_key_of_each_kind_is_taken_with_its_comment_and_without(key: str) -> None:
    check_public_key(key)
    check_public_key(key.rpartition(" ")[0])


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (PRIVATE, "private key"),
        (ED25519.replace("\n", "") + "\n" + RSA, "one key"),
        (ED25519.partition(" ")[2], "begins with one of"),
        ("ssh-dss " + ED25519.partition(" ")[2], "begins with one of"),
        (f'command="ls" {ED25519}', "begins with one of"),
        ("ssh-ed25519", "damaged or cut off"),
        ("ssh-ed25519 !", "damaged or cut off"),
        (ED25519.rpartition(" ")[0][:-4], "damaged or cut off"),
        ("ssh-rsa " + ED25519.partition(" ")[2], "damaged or cut off"),
        ("ecdsa-sha2-nistp256 " + ECDSA_384.partition(" ")[2], "damaged or cut off"),
        (WEAK_RSA, "2048 bits"),
    ],
)
def test_what_is_no_usable_public_key_is_refused_and_not_repeated(key: str, reason: str) -> None:
    with pytest.raises(NotAPublicKey, match=reason) as refused:
        check_public_key(key)

    assert key[-20:] not in str(refused.value)


@pytest.mark.parametrize("length", [31, 33])
def test_a_key_is_as_long_as_its_kind(length: int) -> None:
    parts = [b"ssh-ed25519", b"x" * length]
    blob = b"".join(len(part).to_bytes(4) + part for part in parts)

    with pytest.raises(NotAPublicKey):
        check_public_key(f"ssh-ed25519 {base64.b64encode(blob).decode()}")


# Fields.


@pytest.mark.parametrize(
    ("said", "field", "reason"),
    [
        ({}, "host", "needs it"),
        ({"host": "  "}, "host", "needs it"),
        ({"host": "ninechars"}, "host", "at most 8"),
        ({"host": "a\tb"}, "host", "plain text"),
        ({"host": "web", "image": "debian 12"}, "image", "Debian 12, Alpine 3.20"),
        ({"host": "web", "ssh_key": ED25519[:-30]}, "ssh_key", "damaged"),
        ({"host": "web", "region": "eu"}, "region", "no field region"),
    ],
)
def test_a_wrong_choice_is_refused_with_its_field_and_what_to_do(
    said: dict[str, str], field: str, reason: str
) -> None:
    error = refusal(offered(IMAGE, HOST, KEY), **said)

    assert error.details[0] == f"choices.{field}"
    assert reason in str(error)


def test_what_is_right_is_taken_and_what_was_left_empty_is_nothing() -> None:
    offer = offered(IMAGE, HOST, KEY)
    line = line_for(offer, host=" 8letters ", image="", ssh_key=f"{ED25519}\n")

    choices.check([line], quote_of(offer))

    assert choices.given(line) == {"host": "8letters", "ssh_key": ED25519}


def test_a_product_without_fields_takes_no_choices() -> None:
    assert "Its fields: none" in str(refusal(offered(), image="Debian 12"))


def test_each_line_keeps_its_own_choices_and_its_provisioner_hears_them(
    database: Connected,
) -> None:
    orders = (
        (offered(HOST, quantity=2), {"host": " one "}),
        (offered(), {}),
        (offered(HOST), {"host": "two"}),
    )
    rows = bought(database, *orders, rules=EXTERNAL)

    requested = {each["deployment_id"]: each for each in told(database, "deployment_requested")}
    heard = [requested[str(row.deployment_id)]["choices"] for row in rows]
    assert heard == [{"host": "one"}, {"host": "one"}, {}, {"host": "two"}]


def test_a_buyer_sees_what_was_chosen(database: Connected) -> None:
    user_id = uuid4()
    first, _ = bought(database, (offered(HOST, quantity=2), {"host": "web"}), user_id=user_id)

    with database.read() as session:
        question = GetDeployment(user_id=user_id, deployment_id=first.deployment_id)
        deployment = get_deployment(session, NOW, question, RULES)
        purchase = get_purchase(
            session, GetPurchase(user_id=user_id, purchase_id=first.purchase_id), RULES
        )

    assert deployment.choices == {"host": "web"}
    assert [line.choices for line in purchase.lines] == [{"host": "web"}]


def test_the_same_key_with_another_choice_is_another_purchase(database: Connected) -> None:
    offer, user_id = offered(HOST), uuid4()

    def record(host: str) -> object:
        command = StartPurchase(
            idempotency_key="same", user_id=user_id, lines=[line_for(offer, host=host)]
        )
        with database.begin() as session:
            return recording.record(session, NOW, Order(command, quote_of(offer)), RULES)

    assert record("web") is not None
    assert record("web") is None
    with pytest.raises(IdempotencyConflict):
        record("db")


# Access.


def access_of(database: Connected, row: DeploymentRow) -> Access | None:
    question = GetDeployment(user_id=row.user_id, deployment_id=row.deployment_id)
    with database.read() as session:
        return get_deployment(session, NOW, question, RULES).access


def test_what_a_provisioner_tells_is_shown_and_replaced_by_what_it_tells_later(
    database: Connected,
) -> None:
    (row,) = bought(database, (offered(), {}), rules=EXTERNAL)
    seen = [access_of(database, row)]

    for access in (
        Access(address="192.0.2.1", user_name="root"),
        None,
        Access(address="192.0.2.2"),
    ):
        report(database, row, DeploymentStatus.ACTIVE, access)
        seen.append(access_of(database, row))

    first, later = Access(address="192.0.2.1", user_name="root"), Access(address="192.0.2.2")
    assert seen == [None, first, first, later]


def test_another_user_learns_nothing_of_it(database: Connected) -> None:
    (row,) = bought(database, (offered(), {}))
    bought(database, (offered(), {}))

    question = GetDeployment(user_id=uuid4(), deployment_id=row.deployment_id)
    with database.read() as session, pytest.raises(NotFound):
        get_deployment(session, NOW, question, RULES)


def test_what_failed_is_reached_nowhere(database: Connected) -> None:
    (row,) = bought(database, (offered(), {}), rules=EXTERNAL)

    report(database, row, DeploymentStatus.FAILED, Access(address="192.0.2.1"))

    assert access_of(database, row) is None
    with pytest.raises(Conflict):
        report(database, row, DeploymentStatus.ACTIVE, Access(address="192.0.2.1"))


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "ftp://example.org/",
        "https://",
        "example.org",
        "https://ann:secret@example.org/",
        "https://ann@example.org/",
    ],
)
def test_an_address_for_the_browser_is_one_and_holds_no_password(url: str) -> None:
    with pytest.raises(ValidationError, match="it must"):
        Access(url=url)


def test_who_provisions_at_once_tells_an_example_address_that_is_always_the_same(
    database: Connected,
) -> None:
    rows = bought(database, (offered(quantity=3), {}))
    shown = [access_of(database, row) for row in rows]

    assert shown == [example_access(row.deployment_id, Category.COMPUTE) for row in rows]
    for access in shown:
        assert access is not None
        assert access.address.startswith("203.0.113.")
        assert "2001:db8:" in access.notes


@pytest.mark.parametrize(("number", "last"), [(0, 1), (253, 254), (254, 1)])
def test_an_example_address_is_one_of_a_host(number: int, last: int) -> None:
    access = example_access(UUID(int=number), Category.GATEWAYS)

    assert access.address == f"203.0.113.{last}"


def test_a_service_has_no_address() -> None:
    assert example_access(uuid4(), Category.SERVICES).address == ""


# Names, and finding a purchase by its key.


def test_a_line_with_a_name_names_its_deployments_and_is_found_by_its_key_alone_by_its_buyer(
    database: Connected,
) -> None:
    buyer, one, two = uuid4(), offered(), offered(quantity=2)
    lines = [
        line_for(one).model_copy(update={"name": "db"}),
        line_for(two).model_copy(update={"name": "web"}),
        line_for(one),
    ]
    command = StartPurchase(idempotency_key=f"key-{uuid4()}", user_id=buyer, lines=lines)
    with database.begin() as session:
        order = Order(command, quote_of(one, two, one))
        claimed = recording.record(session, NOW, order, RULES)
    assert claimed is not None
    with database.begin() as session:
        row = lifecycle.complete(session, NOW, claimed.purchase_id, uuid4(), RULES)

    names = sorted(deployment.name for deployment in row.deployments)
    assert names == sorted(["db", "web 1", "web 2", one.product.name])
    question = FindPurchase(user_id=buyer, idempotency_key=command.idempotency_key)
    with database.read() as session:
        found = find_purchase(session, question, RULES)
        assert [line.name for line in found.lines] == ["db", "web", ""]
        for other in ({"user_id": uuid4()}, {"idempotency_key": "another"}):
            with pytest.raises(NotFound):
                find_purchase(session, question.model_copy(update=other), RULES)
