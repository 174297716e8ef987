"""What 0014 says of refunds is checked for the rows that were there before."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    for name in ("what_is_being_made_is_due", "what_went_out_was_set_aside"):
        op.execute(f"ALTER TABLE card_refunds VALIDATE CONSTRAINT {name}")
