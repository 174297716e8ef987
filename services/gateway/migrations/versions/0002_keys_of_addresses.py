"""The key of an address: its first part caseless and composed, its domain as it is.

Keys were the whole address, caseless: in rare scripts that left decomposed letters, and a
domain with ß became another one's. The stored addresses themselves are in their normal form.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        UPDATE users
        SET email_key = normalize(split_part(email_key, '@', 1), NFC)
            || '@' || split_part(email, '@', 2)
        WHERE email_key <> normalize(split_part(email_key, '@', 1), NFC)
            || '@' || split_part(email, '@', 2)
        """
    )
