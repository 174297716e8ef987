"""Print who registered when, for analytics: a line for each user, with the id and the moment.

python -m services.gateway.registrations > FILE
"""

from collections.abc import Iterator

from sqlalchemy import select

from chassis.database import Connected, connect
from chassis.settings import service_settings
from services.gateway.models import User


def lines(database: Connected) -> Iterator[str]:
    """An id and a moment in each, and nothing else of anybody."""
    with database.snapshot() as session:
        query = select(User.user_id, User.created_at).order_by(User.user_id)
        for user in session.execute(query.execution_options(yield_per=1_000)):
            yield f"{user.user_id} {user.created_at.isoformat()}"


def main() -> None:
    """See the head of this file."""
    database = connect(service_settings().database_url, pool_size=2)
    for line in lines(database):
        print(line)


if __name__ == "__main__":
    main()
