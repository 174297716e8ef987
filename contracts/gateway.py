"""What the gateway says: people register with it, and it is asked for nothing by the services."""

from contracts.messages import UserEvent

SERVICE = "gateway"


class UserRegistered(UserEvent, source=SERVICE, type="user_registered", needs_listener=False):
    """Somebody has an account. Said once for each; whoever wants the address asks the person."""
