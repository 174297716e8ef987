"""Where webhooks may go: public addresses, and to no other by whatever way.

A name is looked up once for each try. Every address that it has must be public, and the connection
is made to one of those very addresses, so that a second look-up could bring nothing else. TLS and
the Host header keep the name. A redirect is an answer like any other, and is not followed.
"""

import http.client
import io
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import cast
from urllib.parse import urlsplit

URL_LENGTH_MAX = 500
HEAD_BYTES_MAX = 64 * 1024
"""So much is read of an answer at most."""

_PUBLIC_IPV6 = ip_network("2000::/3")
"""All that was ever given out to the public net. What ``ipaddress`` takes for global beside it is
translated into IPv4 of any kind, stays within a site, or is of nobody yet."""
_INTO_IPV4 = tuple(map(ip_network, ("2002::/16", "2001::/32")))
"""What of it a gateway may translate into IPv4 of any kind."""


class BadAddress(ValueError):
    """Nothing is ever sent there. ``str(error)`` is a sentence for a person."""


class Unreachable(Exception):
    """There was no answer this time."""


@dataclass(frozen=True)
class Target:
    """A URL taken apart. ``port`` is its own or the usual one."""

    is_tls: bool
    host: str
    port: int
    path: str


def parse(url: str, *, private_too: bool) -> Target:
    """Raises :class:`BadAddress`. ``private_too``, for tests and runs at home: any address, and
    without TLS."""
    if len(url) > URL_LENGTH_MAX or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise BadAddress("Enter an address such as https://example.org/hook, in ASCII.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadAddress("Enter an address such as https://example.org/hook.") from None
    if parts.scheme != "https" and not (private_too and parts.scheme == "http"):
        raise BadAddress("The address begins with https://.")
    if not host or parts.username is not None or parts.fragment or port == 0:
        raise BadAddress("The address has a host, and neither a user nor a #fragment.")
    try:
        is_allowed = private_too or is_public(host)
    except ValueError:
        # A name: it is looked up when something is sent.
        is_allowed = private_too or "." in host.strip(".")
    if not is_allowed:
        raise BadAddress("The address must be a public one.")
    is_tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(is_tls, host, port or (443 if is_tls else 80), path)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public net. Raises ValueError for what is no address."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        is_given_out = found in _PUBLIC_IPV6 and not any(found in net for net in _INTO_IPV4)
        if found.scope_id is not None or not is_given_out:
            return False
    return found.is_global and not found.is_multicast


def send(
    target: Target, headers: dict[str, str], body: bytes, *, private_too: bool, timeout_s: float
) -> int:
    """POST the body; the status of the answer, of which nothing else is read.

    ``timeout_s`` is for each step. Raises :class:`BadAddress` and :class:`Unreachable`.
    """
    connection = _Connection(target, _looked_up(target, private_too=private_too), timeout_s)
    try:
        connection.request("POST", target.path, body, headers)
        return _status(connection.sock)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(_said(error)) from None
    finally:
        connection.close()


def _status(sock: socket.socket) -> int:
    # It makes a file of its socket, and asks it for nothing else.
    response = http.client.HTTPResponse(cast(socket.socket, _Head(sock)), method="POST")
    with response:
        response.begin()
        return response.status


class _Head(io.RawIOBase):
    """As much as the head of an answer may take. Whoever answers may go on for ever, and as long
    as there is something to read nobody else has a turn, no time limit either."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock, self._left = sock, HEAD_BYTES_MAX

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = memoryview(buffer)[: self._left]
        count = self._sock.recv_into(wanted) if wanted else 0
        self._left -= count
        return count


def _looked_up(target: Target, *, private_too: bool) -> Sequence[str]:
    """The first address of each kind, in the order of the answer: this machine may have no way to
    one of them."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"The name could not be looked up: {_said(error)}") from None
    addresses = [str(each[4][0]) for each in found]
    if not addresses:
        raise Unreachable("The name has no address.")
    if not private_too and not all(map(is_public, addresses)):
        raise BadAddress("The name leads to an address that is not public.")
    kinds = {":" in each: each for each in reversed(addresses)}
    return sorted(kinds.values(), key=addresses.index)


class _Connection(http.client.HTTPConnection):
    """To the first of these addresses that can be reached, whatever the name is looked up to by
    then."""

    def __init__(self, target: Target, addresses: Sequence[str], timeout_s: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        # Of the Host header: the usual port is left out.
        self.default_port = 443 if target.is_tls else 80
        self._target, self._addresses = target, addresses

    def connect(self) -> None:
        self.sock = self._connected()
        if self._target.is_tls:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self._target.host)

    def _connected(self) -> socket.socket:
        *others, last = self._addresses
        for address in others:
            try:
                return socket.create_connection((address, self._target.port), self.timeout)
            except OSError:
                continue
        return socket.create_connection((last, self._target.port), self.timeout)


def _said(error: Exception) -> str:
    return " ".join(str(error).replace("\x00", "").split())[:200] or type(error).__name__
