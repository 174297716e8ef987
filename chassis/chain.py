"""A tamper-evident chain over records: SHA-256 of the link before and of one record.

Whoever changes, adds or removes a linked record, even as the database's owner, must compute every
later link anew, and then the head is not the one that was noted elsewhere. A service says what its
records are; :func:`command` is what an operator runs.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from chassis.database import connect
from chassis.settings import service_settings

GENESIS = bytes(32)

Flaw = Callable[[Mapping[str, Any]], str | None]
"""What is wrong with the content of a record besides its link. Raises LookupError, TypeError or
ValueError for what is no record."""


@dataclass(frozen=True)
class Link:
    """One record's place in the chain. Position 0 stands before the first."""

    position: int
    digest: bytes


def link_digest(previous: bytes, canonical: str) -> bytes:
    """SHA-256 of the link before and the canonical JSON of a record."""
    return hashlib.sha256(previous + canonical.encode()).digest()


canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode


def exported_line(canonical: str, digest: bytes) -> str:
    """A record with its link, as a line of JSON."""
    return f'{{"content":{canonical},"digest":"{digest.hex()}"}}'


def check_lines(
    exported: Iterable[str], flaw: Flaw, noted_head: bytes = GENESIS
) -> tuple[str | None, Link]:
    """Check an export without a database: the first difference, and the last right link.

    ``noted_head`` is a link that was noted elsewhere; what was linked after it may follow it.
    """
    link = Link(0, GENESIS)
    is_noted_found = noted_head == GENESIS
    for number, line in enumerate(exported, start=1):
        try:
            record = json.loads(line)
            content, digest = record["content"], bytes.fromhex(record["digest"])
            position, wrong = content["position"], flaw(content)
        except (ValueError, LookupError, TypeError):
            return f"line {number} is not a line of an export", link
        if link_digest(link.digest, canonical_json(content)) != digest:
            return f"the chain breaks at line {number}, position {position}", link
        if wrong:
            return f"line {number}: {wrong}", link
        link = Link(position, digest)
        is_noted_found = is_noted_found or digest == noted_head
    if link.position == 0:
        return "there is no line of an export", link
    if not is_noted_found:
        return "the chain holds, and yet the link that was noted is not in it", link
    return None, link


def command(
    prog: str,
    arguments: list[str] | None,
    head: Callable[[Session], Link],
    lines: Callable[[Session], Iterator[str]],
    flaw: Flaw,
) -> int:
    """``head``, ``export`` and ``check``; 0 when all is well, 1 at a difference."""
    parser = argparse.ArgumentParser(prog=prog)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("head", help="print the last link")
    actions.add_parser("export", help="write the linked records as lines of JSON")
    check = actions.add_parser(
        "check", help="check an export, without a database; without a file what the database has"
    )
    check.add_argument("file", type=Path, nargs="?")
    check.add_argument(
        "--head", type=bytes.fromhex, default=GENESIS, help="a head as it was noted elsewhere"
    )
    options = parser.parse_args(arguments)
    if options.action == "check" and options.file:
        with options.file.open() as exported:
            return _said(*check_lines(exported, flaw, options.head))
    database = connect(service_settings().database_url, pool_size=1)
    with database.snapshot() as session:
        if options.action == "check":
            return _said(*check_lines(lines(session), flaw, options.head))
        if options.action == "head":
            last = head(session)
            print(last.position, last.digest.hex())
        else:
            for line in lines(session):
                print(line)
    return 0


def _said(difference: str | None, last: Link) -> int:
    print(difference or f"The chain holds up to position {last.position}: {last.digest.hex()}")
    return 1 if difference else 0
