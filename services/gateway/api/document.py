"""The OpenAPI document, at /api/openapi.json."""

from functools import cache
from typing import Any

from flask import Blueprint, Response, jsonify

from services.gateway.api.endpoint import OPERATIONS
from services.gateway.openapi import describe_api

blueprint = Blueprint("api_document", __name__)


@blueprint.get("/api/openapi.json")
def openapi() -> Response:
    response = jsonify(_document())
    response.headers["Cache-Control"] = "public, max-age=300"
    return response


@cache
def _document() -> dict[str, Any]:
    return describe_api(OPERATIONS)
