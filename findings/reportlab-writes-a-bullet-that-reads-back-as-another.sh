#!/usr/bin/env bash
# A bullet drawn by reportlab is no bullet in the text of the PDF.
#
# "•" stands in the encoding of the PDF standard fonts. One would expect text that is drawn to come
# back when it is copied, searched or read aloud, as the letters around it do.
#
# What happens: with the standard fonts the bullet is written as the byte 0x7F, which has the
# bullet's shape in the font's encoding and no meaning as text. "Visa •••• 4242" reads back as
# "Visa", four control characters and "4242".
#
# Seen with reportlab 5.1.0 and pypdf 7.1.1 on Python 3.11. Output:
#   drawn: 'Visa •••• 4242', read: 'Visa \x7f\x7f\x7f\x7f 4242'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check reportlab==5.1.0 pypdf==7.1.1
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys

from pypdf import PdfReader
from reportlab.pdfgen.canvas import Canvas

drawn = "Visa \u2022\u2022\u2022\u2022 4242"
paper = io.BytesIO()
canvas = Canvas(paper)
canvas.setFont("Helvetica", 12)
canvas.drawString(72, 700, drawn)
canvas.save()
read = PdfReader(paper).pages[0].extract_text().strip()
print(f"drawn: {drawn!r}, read: {read!r}")
sys.exit("\u2022" in read)
PYTHON
