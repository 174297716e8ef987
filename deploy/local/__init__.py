"""Runs the whole product on one machine: its own database, its own broker, every process."""
