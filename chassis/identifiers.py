"""Identifiers that sort by time, so that an index on them grows at one end."""

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """A new UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    return uuid7()
