"""The database as a service's entrypoints get it: ``database = Database()``."""

from nameko.extensions import DependencyProvider, SharedExtension

from chassis.database import Connected, connect
from chassis.settings import service_settings


class DatabaseConnection(SharedExtension):
    """The one :class:`Connected` that all extensions of a service container share."""

    connected: Connected

    def setup(self) -> None:
        if not hasattr(self, "connected"):
            settings = service_settings()
            self.connected = connect(settings.database_url, settings.database_pool_size)

    def stop(self) -> None:
        self.connected.engine.dispose()


class Database(DependencyProvider):
    """Injects the service's :class:`Connected`: ``database = Database()``."""

    connection = DatabaseConnection()

    def get_dependency(self, worker_ctx: object) -> Connected:
        return self.connection.connected
