"""An echo on stock nameko."""

from nameko.rpc import rpc


class StockEcho:
    name = "stock"

    @rpc
    def echo(self, n: int) -> dict[str, int]:
        return {"n": n}
