"""The addresses of all accounts, one a line: ``python -m services.gateway.addresses``.

The migration out of the old system asks for them (docs/migration.md): who has an account here is
not made another one.
"""

from sqlalchemy import select

from chassis.database import connect
from services.gateway.models import User
from services.gateway.settings import get_settings

AT_ONCE = 1_000


def main() -> None:
    """See the head of this file."""
    query = select(User.email).where(User.deleted_at.is_(None)).order_by(User.user_id)
    with connect(get_settings().database_url, pool_size=1).snapshot() as session:
        for email in session.scalars(query.execution_options(yield_per=AT_ONCE)):
            print(email)


if __name__ == "__main__":
    main()
