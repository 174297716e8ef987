"""Where old users stand: files of one user each, or of one user a line, gzipped or not.

One document is held at a time, however many there are.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENT_BYTES_MAX = 64 * 1024 * 1024
"""No user's file is as large: what is larger would take all memory."""

_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Source:
    """One document: where it stands, and its bytes. ``problem`` is why those could not be had."""

    place: str
    content: bytes
    problem: str = ""


def sources(path: Path) -> Iterator[Source]:
    """Every document below a directory in the order of the files' names, or those of one file.

    A ``.tmp`` is no user's file: it was written beside one and never came to be it.
    Raises ``FileNotFoundError``.
    """
    if path.is_file():
        yield from _in_file(path, path.name)
        return
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such file or directory")
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        yield from _in_file(file, file.relative_to(path).as_posix())


def _in_file(file: Path, place: str) -> Iterator[Source]:
    name = file.name.removesuffix(".gz")
    open_file = gzip.open if file.suffix == ".gz" else open
    try:
        if name.endswith(_LINES):
            with open_file(file, "rb") as lines:
                yield from _lines(lines, place)
        elif name.endswith(".json"):
            with open_file(file, "rb") as document:
                content = document.read(DOCUMENT_BYTES_MAX + 1)
            yield _bounded(place, content)
    except (OSError, EOFError, zlib.error) as error:
        yield Source(place, b"", f"it cannot be read: {error}")


def _lines(lines: Iterator[bytes], place: str) -> Iterator[Source]:
    # Only a line feed ends a line: the other separators may stand inside of a text.
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _bounded(f"{place}:{number}", line)


def _bounded(place: str, content: bytes) -> Source:
    if len(content) > DOCUMENT_BYTES_MAX:
        return Source(place, b"", "too large to be a user's file")
    return Source(place, content)
