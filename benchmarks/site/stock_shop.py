"""The least that sells: two services on stock nameko, one that answers by HTTP and one behind it.

A product is read from memory, an order written to PostgreSQL and told of by one event. It knows no
users, keys, money or stock.
"""

import json
from typing import Any

from nameko.events import EventDispatcher
from nameko.extensions import DependencyProvider
from nameko.rpc import RpcProxy, rpc
from nameko.web.handlers import http
from sqlalchemy import create_engine, text
from werkzeug.wrappers import Request, Response

PRODUCTS = {
    f"vm-{number}": {"id": f"vm-{number}", "title": f"VM {number}", "price": "5.00", "in_stock": 10}
    for number in range(10)
}
TABLE = text(
    "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " product_id text NOT NULL, price numeric NOT NULL, quantity integer NOT NULL,"
    " created_at timestamptz NOT NULL DEFAULT now())"
)
ORDER = text(
    "INSERT INTO orders (product_id, price, quantity) VALUES (:product_id, :price, :quantity)"
    " RETURNING id"
)


class Orders(DependencyProvider):  # type: ignore[misc]
    def setup(self) -> None:
        self._engine = create_engine(self.container.config["DATABASE_URL"])
        with self._engine.begin() as connection:
            connection.execute(TABLE)

    def get_dependency(self, worker_ctx: object) -> "Orders":  # noqa: ARG002 - nameko's name
        return self

    def add(self, order: dict[str, Any]) -> int:
        with self._engine.begin() as connection:
            return int(connection.execute(ORDER, order).scalar_one())


class StockOrders:
    name = "orders"
    orders = Orders()
    dispatch = EventDispatcher()

    @rpc
    def get_product(self, product_id: str) -> dict[str, Any] | None:
        return PRODUCTS.get(product_id)

    @rpc
    def create_order(self, order: dict[str, Any]) -> int:
        order_id = self.orders.add(order)
        self.dispatch("order_created", {"id": order_id, **order})
        return order_id


class StockFront:
    name = "front"
    orders = RpcProxy("orders")

    @http("GET", "/products/<string:product_id>")
    def get_product(self, request: Request, product_id: str) -> Response:  # noqa: ARG002
        product = self.orders.get_product(product_id)
        return _answer(product, 200 if product else 404)

    @http("POST", "/orders")
    def create_order(self, request: Request) -> Response:
        (line,) = json.loads(request.get_data(as_text=True))["order_details"]
        product = self.orders.get_product(line["product_id"])
        if product is None:
            return _answer({"error": "PRODUCT_NOT_FOUND"}, 404)
        return _answer({"id": self.orders.create_order({**line, "price": product["price"]})})


def _answer(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content), status=status, mimetype="application/json")
