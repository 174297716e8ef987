"""Whether a text is an SSH public key, as it stands in a file ``id_ed25519.pub``.

Its parts are a type, base64 and perhaps a comment (RFC 4253, section 6.6). What the base64 holds is
looked at too, so that half a key is noticed before a machine is made that nobody can enter.
"""

import base64
import binascii
from collections.abc import Callable

RSA_BITS_MIN = 2048


class NotAPublicKey(Exception):
    """Why a text is none, in a sentence that does not repeat it."""


def check_public_key(text: str) -> None:
    """Raise :class:`NotAPublicKey` unless ``text`` is one public key that servers accept."""
    if "PRIVATE KEY" in text:
        raise NotAPublicKey(
            "this is a private key, which nobody else may see. It was not stored. Paste the public"
            " one; its file ends in .pub."
        )
    if not text.isprintable():
        raise NotAPublicKey("paste one key, on one line.")
    kind, _, rest = text.partition(" ")
    if kind not in _PARTS:
        known = ", ".join(_PARTS)
        raise NotAPublicKey(f"paste a public key; it begins with one of {known}.")
    fields = _fields(rest.strip().partition(" ")[0])
    if not fields or fields[0] != kind.encode() or not _PARTS[kind](fields[1:]):
        raise NotAPublicKey("this key is damaged or cut off. Copy the whole line of its .pub file.")
    if kind == "ssh-rsa" and int.from_bytes(fields[2]).bit_length() < RSA_BITS_MIN:
        raise NotAPublicKey(f"an RSA key needs {RSA_BITS_MIN} bits. Make another one.")


def _fields(blob: str) -> list[bytes]:
    """The strings of a key: each after its length in four bytes. Empty for what is none."""
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return []
    fields = []
    while data:
        end = 4 + int.from_bytes(data[:4])
        if len(data) < end:
            return []
        fields.append(data[4:end])
        data = data[end:]
    return fields


def _is_of_length(length: int) -> Callable[[list[bytes]], bool]:
    return lambda fields: [len(each) for each in fields] == [length]


def _is_on_curve(name: str, length: int) -> Callable[[list[bytes]], bool]:
    """A curve's name, and a point on it that is written out in full."""
    return lambda fields: (
        len(fields) == 2
        and fields[0] == name.encode()
        and fields[1][:1] == b"\x04"
        and len(fields[1]) == length
    )


def _is_of_hardware(fields: list[bytes]) -> bool:
    """A key of a security token: its point, and what it was made for."""
    return len(fields) in (2, 3) and all(fields)


_PARTS: dict[str, Callable[[list[bytes]], bool]] = {
    "ssh-ed25519": _is_of_length(32),
    "ecdsa-sha2-nistp256": _is_on_curve("nistp256", 65),
    "ecdsa-sha2-nistp384": _is_on_curve("nistp384", 97),
    "ecdsa-sha2-nistp521": _is_on_curve("nistp521", 133),
    "ssh-rsa": lambda fields: len(fields) == 2 and all(fields),
    "sk-ssh-ed25519@openssh.com": _is_of_hardware,
    "sk-ecdsa-sha2-nistp256@openssh.com": _is_of_hardware,
}
