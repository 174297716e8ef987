"""Alembic's entry into the migrations of this service."""

from chassis.migrate import run_env

run_env()
