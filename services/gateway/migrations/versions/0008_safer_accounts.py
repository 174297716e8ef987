"""What a token may do and until when, a second step of logging in, a time zone."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, DateTime, ForeignKey, LargeBinary, Text, Uuid
from sqlalchemy import text as sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    moment = DateTime(timezone=True)
    op.add_column("users", Column("time_zone", Text, nullable=False, server_default="UTC"))
    op.add_column("users", Column("second_step_secret", Text))
    op.add_column("users", Column("second_step_since", moment))
    op.add_column("users", Column("second_step_used", BigInteger))
    op.add_column("users", Column("second_step_used_for", LargeBinary))
    scopes = Column("scopes", Text, nullable=False, server_default="read buy money")
    op.add_column("api_tokens", scopes)
    op.add_column("api_tokens", Column("expires_at", moment))
    # Whatever there is so far came of a registration or a login.
    of_login = Column("is_of_login", Boolean, nullable=False, server_default=sql("true"))
    op.add_column("api_tokens", of_login)
    op.create_table(
        "recovery_codes",
        Column("user_id", Uuid, ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True),
        Column("code_sha256", LargeBinary, primary_key=True),
        Column("used_at", moment),
    )
