"""The environment of the probe's migrations."""

from chassis.migrate import run_env

run_env()
