"""The catalog's entrypoints."""

from sqlalchemy.orm import Session

from chassis import operated
from chassis.clock import utc_now
from chassis.events import event_handler
from chassis.health import Health
from chassis.outbox import OutboxRelay
from chassis.retention import FORGET_EVERY_S, forget
from chassis.rpc import rpc
from chassis.service_database import Database
from chassis.timer import timer
from contracts.catalog import (
    SERVICE,
    ChangeProduct,
    CountProducts,
    CreateProduct,
    Facets,
    GetPriceHistory,
    GetProduct,
    GetProvider,
    GetQuote,
    HoldStock,
    ListProducts,
    PriceHistory,
    Product,
    ProductPage,
    Provider,
    Quote,
    ReleaseStock,
    Reservation,
    ReserveStock,
    RetireProduct,
    ReturnStock,
    SetProvider,
)
from contracts.gateway import AccountDeleted
from services.catalog import products, providers, quotes, retention, selling, stock
from services.catalog.settings import get_settings


class CatalogService(operated.Operated):
    """Products, prices, quotes, stock. It calls nobody."""

    name = SERVICE

    database = Database()
    relay = OutboxRelay()
    health = Health()

    @rpc
    def list_products(self, request: ListProducts) -> ProductPage:
        with self.database.read() as session:
            page = products.list_products(session, request)
            found = stock.with_held(session, utc_now(), page.products)
            return page.model_copy(update={"products": found})

    @rpc
    def count_products(self, request: CountProducts) -> Facets:
        with self.database.read() as session:
            return products.count_products(session, request)

    @rpc
    def get_product(self, request: GetProduct) -> Product:
        with self.database.read() as session:
            product = products.get_product(session, request.product_id)
            return stock.with_held(session, utc_now(), [product])[0]

    @rpc
    def get_quote(self, request: GetQuote) -> Quote:
        with self.database.read() as session:
            return quotes.quote(session, request.lines)

    @rpc
    def reserve_stock(self, request: ReserveStock) -> Reservation:
        with self.database.begin() as session:
            return stock.reserve(session, utc_now(), request)

    @rpc
    def release_stock(self, request: ReleaseStock) -> Reservation:
        with self.database.begin() as session:
            return stock.release(session, utc_now(), request)

    @rpc
    def hold_stock(self, request: HoldStock) -> Reservation:
        with self.database.begin() as session:
            return stock.hold(session, request)

    @rpc
    def return_stock(self, request: ReturnStock) -> Reservation:
        with self.database.begin() as session:
            return stock.put_back(session, utc_now(), request)

    @rpc
    def create_product(self, request: CreateProduct) -> Product:
        with self.database.begin() as session:
            return selling.create(session, utc_now, request, get_settings())

    @rpc
    def change_product(self, request: ChangeProduct) -> Product:
        with self.database.begin() as session:
            return selling.change(session, utc_now, request, get_settings())

    @rpc
    def retire_product(self, request: RetireProduct) -> Product:
        with self.database.begin() as session:
            return selling.retire(session, utc_now, request)

    @rpc
    def get_price_history(self, request: GetPriceHistory) -> PriceHistory:
        with self.database.read() as session:
            return selling.price_history(session, request)

    @rpc
    def get_provider(self, request: GetProvider) -> Provider:
        with self.database.read() as session:
            return providers.get_provider(session, request)

    @rpc
    def set_provider(self, request: SetProvider) -> Provider:
        with self.database.begin() as session:
            return providers.set_provider(session, utc_now, request)

    @event_handler(AccountDeleted)
    def provider_left(self, session: Session, event: AccountDeleted) -> None:
        selling.leave(session, utc_now, event.user_id)

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        forget(self.database, utc_now(), retention.kept(get_settings()))
