#!/usr/bin/env bash
# Flask-Compress leaves every static file open that it compresses.
#
# Flask sends a static file as a stream, and closes the file with the response. One would expect
# that to hold when an extension compresses what is sent.
#
# What happens: Flask-Compress (with its defaults) puts a generator of compressed pieces in the
# response's place. The response closes the generator, and nobody the file; it stays open until the
# garbage collector finds it, and Python warns of it (ResourceWarning).
#
# Seen with Flask-Compress 1.25 and Flask 3.1.3 on Python 3.11. Output:
#   without: 0 files left open, with Flask-Compress: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check flask-compress==1.25 flask==3.1.3
mkdir "$folder/static"
printf 'body { color: black }\n%.0s' {1..1000} >"$folder/static/page.css"
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import os
import sys
import warnings

from flask import Flask
from flask_compress import Compress

folder = os.environ["FOLDER"]


def left_open(compress):
    app = Flask(__name__, static_folder=f"{folder}/static")
    if compress:
        Compress(app)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        headers = {"Accept-Encoding": "br"}
        with app.test_client().get("/static/page.css", headers=headers) as response:
            assert response.status_code == 200 and response.data
        del response
    return sum("page.css" in str(warning.message) for warning in caught)


counts = left_open(False), left_open(True)
print(f"without: {counts[0]} files left open, with Flask-Compress: {counts[1]}")
sys.exit(counts != (0, 1))
PYTHON
