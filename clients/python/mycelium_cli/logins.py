"""The tokens of this user, by site, in a file that nobody else can read."""

import json
import os
import tempfile
from pathlib import Path

import click
from platformdirs import user_config_path


def token_for(site: str) -> str | None:
    """The token to use at a site: of the environment, or the one that was stored."""
    return given_token() or _stored().get(site)


def given_token() -> str | None:
    """The token of the environment."""
    token = os.environ.get("MYCELIUM_TOKEN")
    return checked(token) if token else None


def checked(token: str) -> str:
    """A token without the space around it. Raises a usage error for what cannot be one."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise click.UsageError("That is no token.")
    return token


def remember(site: str, token: str) -> None:
    _store({**_stored(), site: token})


def forget(site: str) -> bool:
    """Forget a site's token; whether there was one."""
    stored = _stored()
    if stored.pop(site, None) is None:
        return False
    _store(stored)
    return True


def path() -> Path:
    return user_config_path("mycelium") / "logins.json"


def _stored() -> dict[str, str]:
    try:
        found = json.loads(path().read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(site): str(token) for site, token in found.items()}


def _store(tokens: dict[str, str]) -> None:
    path().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Made with mode 0600, and never half written.
    descriptor, name = tempfile.mkstemp(dir=path().parent)
    with os.fdopen(descriptor, "w") as file:
        json.dump(tokens, file, indent=2)
    Path(name).replace(path())
