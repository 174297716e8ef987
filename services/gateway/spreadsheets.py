"""CSV files, which people open in a spreadsheet."""

import csv
import io
from collections.abc import Iterable

from flask import Response


def harmless(text: str) -> str:
    """A spreadsheet takes what begins like this for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def lines(rows: Iterable[Iterable[object]]) -> str:
    """Rows as they stand in the file."""
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def download(name: str, parts: Iterable[str]) -> Response:
    """A file of this name. It is whole before it is sent: what cannot be told is an error, and no
    half of a file."""
    return Response(
        "".join(parts),
        mimetype="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
