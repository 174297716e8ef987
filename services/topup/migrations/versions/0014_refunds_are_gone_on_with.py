"""A refund that is being made is due, and one that went out had its credit set aside."""

from alembic import op

revision = "0014"
down_revision = "0013"

VERSION_BEFORE = "Refunds to cards, their table (0013) and these checks came in one version."

# 0015 looks at the rows that were there before, beside the traffic.
CHECKS = """
ALTER TABLE card_refunds
    ADD CONSTRAINT what_is_being_made_is_due
        CHECK ((status IN ('requested', 'held', 'sent')) = (due_at IS NOT NULL)) NOT VALID,
    ADD CONSTRAINT what_went_out_was_set_aside
        CHECK (status IN ('requested', 'declined') OR hold_id IS NOT NULL) NOT VALID;
"""


def upgrade() -> None:
    op.execute(CHECKS)
