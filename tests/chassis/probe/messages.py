"""What is said to and by the probe."""

from pydantic import Field

from contracts.messages import Command, Event, Reply, Request

SERVICE = "probe"


class Number(Reply):
    n: int


class Echo(Request[Number], service=SERVICE, method="echo"):
    """Returns ``n``. 13 raises an error of the contract, 14 an unexpected one."""

    n: int


class Mirrored(Reply):
    metadata: dict[str, str]


class Mirror(Request[Mirrored], service=SERVICE, method="mirror"):
    """Returns its metadata."""

    metadata: dict[str, str]


class Nap(Request[Number], service=SERVICE, method="nap"):
    """Sleeps ``n`` milliseconds; counts itself in ``noted`` under -4 before that, then under -1."""

    n: int


class Meet(Request[Number], service=SERVICE, method="meet"):
    """Is answered ``after_ms`` later than the ``n``-th of them has come, as are all of them.

    The answer is how long the chain of calls of the last one is; with ``fails``, an error.
    """

    n: int
    after_ms: int = 0
    fails: bool = False


class Tell(Command[Number], service=SERVICE, method="tell"):
    """Publishes ``told``; with ``fails`` the transaction is rolled back after that."""

    n: int
    fails: bool = False


class CountNoted(Request[Number], service=SERVICE, method="count_noted"):
    """How often ``n`` was noted; under -5, how many wait for their meeting."""

    n: int


class CallChain(Request[Number], service=SERVICE, method="call_chain"):
    """The number of calls in the chain that led here, through one call more when ``n`` is 1."""

    n: int


class Told(Event, source=SERVICE, type="told"):
    """Noted by the handler; 666 fails every time, 77 and 88 the first time; 55 takes 5 s."""

    n: int
    metadata: dict[str, str] = Field(default_factory=dict)


class Whispered(Event, source=SERVICE, type="whispered"):
    """Noted by a handler of its own, which 57 does not concern."""

    n: int


class Chanted(Event, source=SERVICE, type="chanted"):
    """Noted by a handler that takes several at once, and counts its turns under -7; 666 fails."""

    n: int


class Absent(Request[Number], service="absent", method="echo"):
    """A call to a service that does not exist."""
