"""An echo on the chassis."""

from chassis.rpc import rpc
from contracts.messages import Reply, Request


class Number(Reply):
    n: int


class Echo(Request[Number], service="ours", method="echo"):
    n: int


class OurEcho:
    name = "ours"

    @rpc
    def echo(self, request: Echo) -> Number:
        return Number(n=request.n)
