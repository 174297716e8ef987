"""Write the JSON Schema of every message: ``python -m contracts.schemas docs/schemas``.

One file for each service: its methods with request and reply, and its events. A test
fails when the files are not those of the code.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic.json_schema import models_json_schema

from contracts import analytics, billing, catalog, gateway, legacy, topup, wallet
from contracts.messages import Command, Event, Request

SERVICES: dict[str, ModuleType] = {
    module.SERVICE: module
    for module in (wallet, catalog, billing, topup, gateway, legacy, analytics)
}


def requests(service: str) -> Iterator[type[Request[Any]]]:
    """The requests that ``service`` answers, in the order they are written down."""
    for value in vars(SERVICES[service]).values():
        if _is_kind(value, Request) and getattr(value, "service", None) == service:
            yield value


def events(service: str) -> Iterator[type[Event]]:
    """The events that ``service`` publishes, in the order they are written down."""
    for value in vars(SERVICES[service]).values():
        if _is_kind(value, Event) and getattr(value, "source", None) == service:
            yield value


def _is_kind(value: object, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)


def service_schema(service: str) -> dict[str, Any]:
    """Everything that is said to and by ``service``, as one JSON document."""
    asked, told = list(requests(service)), list(events(service))
    models = [*asked, *(request.reply for request in asked), *told]
    references, definitions = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
        ref_template="#/$defs/{model}",
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": service,
        "methods": {
            f"{service}.{request.method}": {
                "changes_something": issubclass(request, Command),
                "answer_within_s": request.answer_within_s,
                "request": references[(request, "validation")],
                "reply": references[(request.reply, "validation")],
            }
            for request in asked
        },
        "events": {f"{service}.{event.type}": references[(event, "validation")] for event in told},
        **definitions,
    }


def write(folder: Path) -> None:
    """Write one file for each service into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for service in SERVICES:
        document = json.dumps(service_schema(service), indent=2, sort_keys=False)
        (folder / f"{service}.json").write_text(document + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schemas"))
