"""Random secrets that a browser or a program holds, and of which only the hash is stored."""

import hashlib
import secrets


def new_secret(prefix: str = "") -> str:
    """256 random bits as text. A prefix lets a scanner of source code recognise a lost one."""
    return prefix + secrets.token_urlsafe(32)


def fingerprint(secret: str) -> bytes:
    """The SHA-256 that is stored. Of 256 random bits a fast hash is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
