"""What billing tells of access where nobody provisions anything (``PROVISIONING=at_once``)."""

from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from contracts.billing import Access
from contracts.catalog import Category

_IPV4 = IPv4Address("203.0.113.0")
_IPV6 = IPv6Address("2001:db8::")
"""Ranges for documentation, where nothing can be reached (RFC 5737, RFC 3849)."""


def example_access(deployment_id: UUID, category: Category) -> Access:
    """How this deployment would be reached: the same for the same id; a service has no address."""
    if category is Category.SERVICES:
        return Access(notes="An example: nobody has been asked to do this.")
    ipv4 = _IPV4 + 1 + deployment_id.int % 254
    ipv6 = _IPV6 + deployment_id.int % 2**96
    notes = f"An example address, at which nothing answers. By IPv6: {ipv6}"
    return Access(address=str(ipv4), user_name="admin", notes=notes)
