"""What the gateway says: people register with it, and it is asked for nothing by the services."""

from contracts.messages import UserEvent

SERVICE = "gateway"


class UserRegistered(UserEvent, source=SERVICE, type="user_registered", needs_listener=False):
    """Somebody has an account. Said once for each; whoever wants the address asks the person."""


class AccountDeleted(UserEvent, source=SERVICE, type="account_deleted", needs_listener=False):
    """Somebody has deleted the account: whoever knows more of the person than the id deletes it."""


class MovedPersonAnswered(UserEvent, source=SERVICE, type="moved_person_answered"):
    """Somebody who came from the old system was invited to set a password. Or not, for the reason
    that ``refusal`` names: ``address_taken``, ``address_unusable``."""

    refusal: str = ""
