"""Reading a PDF as a reader does: what it says of each of its pages."""

import io

from pypdf import PdfReader
from pypdf.generic import ContentStream


def pages_of(document: bytes) -> list[list[str]]:
    """The texts of each page, in the order in which they were drawn.

    They are the document's own word for what its glyphs stand for (``ActualText``).
    """
    reader = PdfReader(io.BytesIO(document))
    return [
        [
            operands[1]["/ActualText"]
            for operands, operator in ContentStream(page.get_contents(), reader).operations
            if operator == b"BDC"
        ]
        for page in reader.pages
    ]


def texts_of(document: bytes) -> list[str]:
    """Those of all pages, one after the other."""
    return [text for page in pages_of(document) for text in page]


def extracted(document: bytes) -> list[str]:
    """The lines that are read out of the glyphs themselves, page by page."""
    pages = PdfReader(io.BytesIO(document)).pages
    return [line for page in pages for line in page.extract_text().splitlines()]
