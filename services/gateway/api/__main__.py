"""Write the OpenAPI document: ``python -m services.gateway.api docs/openapi.json``."""

import sys
from pathlib import Path

from services.gateway.api import OPERATIONS
from services.gateway.api.openapi import as_text

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(as_text(OPERATIONS), encoding="utf-8")
