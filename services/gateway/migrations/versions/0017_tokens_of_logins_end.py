"""Tokens that logins gave end, as sessions do: those that are there not before a month is over."""

from alembic import op
from sqlalchemy import text

revision = "0017"
down_revision = "0016"

HOLDS_TABLES = """Tokens that logins gave get their end a thousand at a time, each thousand in a
transaction of its own; whoever uses one meanwhile waits for its thousand."""

_END = """
WITH page AS (
    SELECT token_id FROM api_tokens WHERE token_id > :after ORDER BY token_id LIMIT 1000
), ending AS (
    UPDATE api_tokens AS t SET expires_at = now() + interval '30 days' FROM page
    WHERE t.token_id = page.token_id AND t.is_of_login AND t.expires_at IS NULL
        AND t.revoked_at IS NULL
)
SELECT token_id FROM page ORDER BY token_id DESC LIMIT 1
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        after: object = "00000000-0000-0000-0000-000000000000"
        while after is not None:
            after = op.get_bind().execute(text(_END), {"after": after}).scalar()
