"""Logging in and out."""

import sys

import click
import simplejson

from mycelium_cli import logins
from mycelium_cli.options import Shown, command
from mycelium_cli.site import Reply, Site


@click.command()
@command
def login(site: Site) -> Shown:
    """Keep a token for the site.

    It is asked for, read from a pipe, or taken from MYCELIUM_TOKEN, and stored where only you can
    read it.
    """
    token = logins.given_token() or _asked()
    told = Site(site.url, token).get("/api/auth/me")
    logins.remember(site.url, token)
    return told, lambda who: click.echo(f"You are logged in at {site.url} as {who['email']}.")


@click.command()
@click.option("--revoke", "is_revoked", is_flag=True, help="End the token, wherever it is used.")
@command
def logout(site: Site, *, is_revoked: bool) -> Shown:
    """Forget the site's token."""
    if is_revoked:
        site.post("/api/auth/logout")
    was_there = logins.forget(site.url)
    document = Reply(simplejson.dumps({"site": site.url, "was_logged_in": was_there}))
    text = "forgotten" if was_there else "not there"
    return document, lambda _: click.echo(f"The token for {site.url} was {text}.")


def _asked() -> str:
    is_person = sys.stdin.isatty()
    token = click.prompt("Token", hide_input=True, err=True) if is_person else sys.stdin.readline()
    return logins.checked(str(token))


COMMANDS = (login, logout)
