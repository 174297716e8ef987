"""What every command of the terminal sends and prints, before a site that answers each question
with what the API's document promises: all of it, or nothing where it may be nothing."""

import json
import re
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import simplejson
from click.testing import CliRunner, Result

from contracts.catalog import Meter
from deploy.local.processes import ROOT
from mycelium_cli import main as mycelium
from mycelium_cli import shop
from services.gateway.api.products import MeterReply
from services.gateway.pages.formats import meter_price

API = json.loads((ROOT / "docs" / "openapi.json").read_text())
ID = "01900000-0000-7000-8000-000000000001"
AMOUNT = Decimal("1234567.10")
"""With a digit that is lost where it is read as anything but a decimal."""
ASKS = {
    "buy", "cart checkout", "send", "deployment start", "deployment cancel", "tokens revoke",
    "selling product price", "selling product retire", "selling payouts ask",
    "admin refund", "admin user end-logins", "admin user end-second-step",
    "admin adjustments approve", "admin promotions give", "admin payouts paid",
    "admin payouts refused", "admin dead-letters discard",
}  # fmt: skip
"""What no other command takes back: it is asked for twice."""
TAKEN_BACK = {
    "logout": "`login`; that `--revoke` ends the token is asked for by itself",
    "tokens make": "`tokens revoke`",
    "purchase cancel": "`buy`",
    "purchase receipt": "nothing: but that it gets its number, `--issue`, is asked for by itself",
    "cart add": "`cart remove`",
    "cart remove": "`cart add`",
    "deployment stop": "`deployment start`",
    "deployment rename": "another name",
    "topup": "nothing is paid before somebody pays on the page",
    "selling add": "`selling product retire`",
    "selling product change": "another change",
    "selling product stock": "another change",
    "selling profile write": "another profile",
    "admin user find": "a look, which is recorded",
    "admin user send-again": "the mail is theirs, and holds no link",
    "admin roles grant": "`admin roles take`",
    "admin roles take": "`admin roles grant`",
    "admin adjustments propose": "`admin adjustments reject`",
    "admin adjustments reject": "`admin adjustments propose`",
    "admin finance verify": "a look, which is recorded",
    "admin finance payment": "a look, which is recorded",
    "admin charges stop": "`admin charges go`",
    "admin charges go": "`admin charges stop`",
    "admin dead-letters replay": "what it did already does not happen twice",
}
"""What else is not only a look, and what takes it back."""
NOT_AS_IT_CAME = {
    "completion": "no question of the site",
    "logout": "a document of its own",
    "admin finance journal": "answers put together",
    "admin audit-export": "lines, as the check of the audit log reads them",
}
"""What prints something else than the site's answer."""


class Command(NamedTuple):
    name: str
    words: list[str]
    options: frozenset[str]


def commands(
    command: click.Command = mycelium, names: tuple[str, ...] = (), words: tuple[str, ...] = ()
) -> Iterator[Command]:
    """Every command, with a value for whatever has to be said."""
    words += tuple(word for each in command.params for word in _said(each))
    if not isinstance(command, click.Group) or (command.invoke_without_command and names):
        options = {option for each in command.params for option in each.opts}
        yield Command(" ".join(names), list(words), frozenset(options))
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from commands(each, (*names, name), (*words, name))


def _said(param: click.Parameter) -> list[str]:
    if not param.required:
        return ["--add", "1"] if param.name == "add" and "--endless" not in param.opts else []
    return [*([param.opts[0]] if isinstance(param, click.Option) else []), _value(param)]


def _value(param: click.Parameter) -> str:
    if isinstance(param.type, click.Choice):
        return str(param.type.choices[0])
    if isinstance(param.type, click.DateTime):
        return "2026-11-01"
    if isinstance(param.type, click.File):
        return "said.json"
    if param.type is click.UUID:
        return ID
    return "5" if param.name == "amount" else "word"


COMMANDS = {each.name: each for each in commands()}


def sample(schema: dict[str, Any], *, is_full: bool) -> Any:
    """What a schema promises: all that may stand there, or as little as possible."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return sample(API["components"]["schemas"][name], is_full=is_full)
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each.get("type") != "null"]
        is_null = len(kinds) < len(schema["anyOf"]) and not is_full
        return None if is_null else sample(kinds[0], is_full=is_full)
    if "allOf" in schema:
        return sample(schema["allOf"][0], is_full=is_full)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema.get("type") == "array":
        return [sample(schema["items"], is_full=True)] if is_full else []
    if schema.get("type") == "object" or "properties" in schema:
        return _object(schema, is_full=is_full)
    formats = {"date-time": "2026-11-29T12:00:00Z", "date": "2026-11-29", "uuid": ID}
    plain = {"number": AMOUNT, "integer": 7, "boolean": True, "null": None}
    return formats.get(schema.get("format", ""), plain.get(schema.get("type", ""), "word"))


def _object(schema: dict[str, Any], *, is_full: bool) -> dict[str, Any]:
    found = {
        name: sample(each, is_full=is_full) for name, each in schema.get("properties", {}).items()
    }
    more = schema.get("additionalProperties")
    if isinstance(more, dict) and is_full:
        found["word"] = sample(more, is_full=is_full)
    return found


class Site(HTTPServer):
    """Answers as the API's document says, and keeps what was asked and the last answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.is_full = True
        self.asked: list[str] = []
        self.answered = ""

    def run(self, *words: str) -> Result:
        self.asked.clear()
        given = {
            "MYCELIUM_SITE": f"http://127.0.0.1:{self.server_port}",
            "MYCELIUM_TOKEN": "myc_test",
        }
        return CliRunner().invoke(mycelium, words, env=given)

    def answer(self, method: str, path: str) -> tuple[int, str]:
        # A path as it is written goes before one with a part that may be anything.
        for template, operations in sorted(API["paths"].items(), key=lambda one: "{" in one[0]):
            if re.fullmatch(re.sub(r"{[^}]*}", "[^/]+", template), path):
                responses = operations[method.lower()]["responses"]
                status = min(status for status in responses if status.startswith("2"))
                schema = responses[status]["content"]["application/json"]["schema"]
                document = sample(schema, is_full=self.is_full)
                if "next_after" in document:
                    document["next_after"] = None
                return int(status), simplejson.dumps(document, use_decimal=True)
        raise LookupError(f"the API has no {method} {path}")


class _Answers(BaseHTTPRequestHandler):
    server: Site

    def answers(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.command)
        status, self.server.answered = self.server.answer(self.command, self.path.split("?")[0])
        body = self.server.answered.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answers  # noqa: N815 - as http.server has it

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    (tmp_path / "said.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with Site() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def confirmed(command: Command) -> list[str]:
    """A command as a program says it."""
    more = ["--yes"] if "--yes" in command.options else []
    return [*command.words, *more, *(["--key", "one"] if "--key" in command.options else [])]


@pytest.mark.parametrize("is_full", [True, False], ids=["everything", "nothing"])
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NOT_AS_IT_CAME))
def test_a_program_reads_the_sites_answer_digit_by_digit(
    site: Site, name: str, *, is_full: bool
) -> None:
    site.is_full = is_full

    done = site.run(*confirmed(COMMANDS[name]), "--json")

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{site.answered}\n"


@pytest.mark.parametrize("is_full", [True, False], ids=["everything", "nothing"])
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"completion"}))
def test_a_table_reads_nothing_that_the_api_does_not_promise(
    site: Site, name: str, *, is_full: bool
) -> None:
    site.is_full = is_full

    done = site.run(*confirmed(COMMANDS[name]))

    assert (done.exit_code, done.exception) == (0, None)
    assert "None" not in done.stdout


@pytest.mark.parametrize("price_micros", [20_000, 1_250_000_000, 1_234, 0])
@pytest.mark.parametrize("more", [
    {},
    {"per_units": 1_000},
    {"included_units": 100},
    {"included_units": 1_000, "per_units": 10, "tiers": [
        {"above_units": 10_000, "price_micros": 10_000}, {"above_units": 20_000, "price_micros": 1},
    ]},
])  # fmt: skip
def test_what_use_costs_is_said_as_on_the_products_page(
    price_micros: int, more: dict[str, Any]
) -> None:
    given = {"key": "gb", "label": "Traffic", "unit": "GB", "price_micros": price_micros, **more}
    meter = Meter.model_validate(given)
    told = MeterReply.model_validate(meter.model_dump()).model_dump_json(by_alias=True)

    assert shop.meter_price(simplejson.loads(told, use_decimal=True)) == meter_price(meter)


def test_the_journal_is_one_document_too(site: Site) -> None:
    done = site.run(*COMMANDS["admin finance journal"].words, "--json")

    [line] = simplejson.loads(done.stdout, use_decimal=True)["lines"]
    assert line["net_usd"] == AMOUNT


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_what_is_not_taken_back_is_asked_for_twice_and_all_else_once(site: Site, name: str) -> None:
    """Nobody can be asked here, so that who has to be asked hears of ``--yes``."""
    command = COMMANDS[name]

    words = [word for word in confirmed(command) if word != "--yes"]
    done = site.run(*words)

    changes = [method for method in site.asked if method != "GET"]
    if name in ASKS:
        assert (done.exit_code, changes) == (2, [])
        assert "add --yes" in done.stderr
    else:
        assert "--yes" not in command.options
        assert not changes or name in TAKEN_BACK


def test_what_is_said_of_commands_is_said_of_those_that_there_are() -> None:
    assert ASKS | TAKEN_BACK.keys() | NOT_AS_IT_CAME.keys() <= COMMANDS.keys()
    assert not ASKS & TAKEN_BACK.keys()
