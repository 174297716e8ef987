"""The HTTP API: one blueprint for each feature."""

from flask import Blueprint

blueprints: list[Blueprint] = []
