"""The HTTP API of a site: exact numbers, retries, and errors that are exit codes."""

import functools
import time
import uuid
from collections.abc import Mapping
from typing import IO, Any
from urllib.parse import urlsplit

import click
import requests
import simplejson

TIMEOUT_S = 30.0
PAUSES_S = (0.5, 1.0, 2.0)
"""Between tries of what may be tried again."""
PAUSE_S_MAX = 10.0
TRY_AGAIN = (429, 502, 503, 504)
JSON = "mycelium_cli.json"
"""Where a command's context says that JSON is wanted."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")

USAGE, NOT_LOGGED_IN, SHORT_OF_FUNDS, REFUSED, NOT_FOUND, AWAY = 2, 3, 4, 5, 6, 7
_BY_STATUS = {401: NOT_LOGGED_IN, 403: REFUSED, 404: NOT_FOUND, 409: REFUSED}


def is_json() -> bool:
    """Whether this command was told ``--json``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(JSON))


class Problem(click.ClickException):
    """What ends the command: a sentence on stderr, with ``--json`` as the API writes errors."""

    def __init__(self, code: str, message: str, exit_code: int, **more: Any) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]
        self._text = f"mycelium: {message}"
        if is_json():
            error = {"code": code, "message": message, **more}
            self._text = simplejson.dumps({"error": error}, use_decimal=True)

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self._text, file=file, err=True)


class Reply:
    """An answer of the API: as it came, and read with exact numbers."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.body: Any = simplejson.loads(text, use_decimal=True)

    def __getitem__(self, name: str) -> Any:
        return self.body[name]


class Site:
    """A site, by its :func:`checked` address, and who asks there."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._token = token
        self._http = requests.Session()
        # Otherwise requests would send what ~/.netrc has for this host in the token's place.
        self._http.auth = functools.partial(_signed, token=token)

    def get(self, path: str, *, public: bool = False, **query: Any) -> Reply:
        """Ask; ``query`` without what is None. Raises :class:`Problem`."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self._send("GET", path, public=public, again=True, params=given)

    def command(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        *,
        same: str = "",
    ) -> Reply:
        """Have something done, once for this ``key``, however often it has to be tried. ``same`` is
        what else has to be said so that a repetition is the same."""
        key = key or str(uuid.uuid4())
        headers = {"Idempotency-Key": key}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = simplejson.dumps(body, use_decimal=True)
        try:
            return self._send(method, path, again=True, headers=headers, data=data)
        except Problem as problem:
            if problem.exit_code != AWAY:
                raise
            raise Problem(
                "unknown_outcome",
                f"{problem.message} Whether it was done is not known: repeat the command with"
                f" --key {key}{same}, and it is done once.",
                AWAY,
                idempotency_key=key,
            ) from None

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        """Have something done that takes no key, by one try."""
        return self._send("POST", path, again=False, json=body)

    def _send(
        self, method: str, path: str, *, again: bool, public: bool = False, **options: Any
    ) -> Reply:
        if self._token is None and not public:
            raise Problem(
                "not_logged_in",
                f"You are not logged in at {self.url}: run `mycelium login`,"
                " or set MYCELIUM_TOKEN.",
                NOT_LOGGED_IN,
            )
        pauses_s = iter(PAUSES_S if again else ())
        while True:
            response = self._try(method, path, options)
            pause_s = next(pauses_s, None)
            if pause_s is None or (response is not None and response.status_code not in TRY_AGAIN):
                return self._read(response)
            time.sleep(max(pause_s, _asked_pause_s(response)))

    def _try(self, method: str, path: str, options: dict[str, Any]) -> requests.Response | None:
        try:
            return self._http.request(
                method, self.url + path, timeout=TIMEOUT_S, allow_redirects=False, **options
            )
        except requests.RequestException:
            return None

    def _read(self, response: requests.Response | None) -> Reply:
        if response is None:
            raise Problem("site_away", f"{self.url} does not answer. Try again later.", AWAY)
        try:
            reply = Reply(response.text)
            if response.ok and not response.is_redirect:
                return reply
            error = dict(reply["error"])
            code, message = str(error.pop("code")), str(error.pop("message"))
        except (ValueError, TypeError, KeyError):
            raise Problem(
                "site_away",
                f"{self.url} answered with status {response.status_code}, and not as Mycelium"
                " does. Is the address right?",
                AWAY,
            ) from None
        raise Problem(code, message, exit_code_of(response.status_code, code), **error)


def checked(url: str) -> str:
    """The address without a slash at its end. Raises a usage error where a token would travel in
    the clear."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter(f"{url} is no address such as https://mycelium.example.")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise click.BadParameter("A token does not travel unencrypted: use https://.")
    return url.rstrip("/")


def exit_code_of(status: int, code: str) -> int:
    """What a program is told by the exit code for an error of the API."""
    if code == "insufficient_funds":
        return SHORT_OF_FUNDS
    if status >= 500 or status == 429:
        return AWAY
    return _BY_STATUS.get(status, REFUSED if status == 402 else USAGE)


def _signed(request: requests.PreparedRequest, token: str | None) -> requests.PreparedRequest:
    if token is not None:
        request.headers["Authorization"] = f"Bearer {token}"
    return request


def _asked_pause_s(response: requests.Response | None) -> float:
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), PAUSE_S_MAX) if asked.isdecimal() else 0.0
