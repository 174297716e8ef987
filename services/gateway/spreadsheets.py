"""CSV files, which people open in a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Iterator

from flask import Response, stream_with_context


def harmless(text: str) -> str:
    """A spreadsheet takes what begins like this for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def lines(rows: Iterable[Iterable[object]]) -> str:
    """Rows as they stand in the file."""
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def download(name: str, content: str | Iterator[str]) -> Response:
    """A file of this name; one that comes in parts is sent while it is made."""
    return Response(
        content if isinstance(content, str) else stream_with_context(content),
        mimetype="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
