"""The same card saved twice is one entry: the newest keeps the roles of the others.

The others are removed, and a timer detaches them at the processor.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

SAME_CARDS = """
    CREATE TEMPORARY TABLE same_cards ON COMMIT DROP AS
    SELECT payment_method_id AS old_id, newest_id, is_default
    FROM (
        SELECT *, first_value(payment_method_id) OVER (
            PARTITION BY user_id, fingerprint ORDER BY added_at DESC, payment_method_id DESC
        ) AS newest_id
        FROM cards WHERE removed_at IS NULL AND fingerprint <> ''
    ) AS saved
    WHERE payment_method_id <> newest_id
"""


def upgrade() -> None:
    op.execute(SAME_CARDS)
    op.execute(
        """
        UPDATE cards SET removed_at = now(), is_default = false
        FROM same_cards WHERE payment_method_id = old_id
        """
    )
    op.execute(
        """
        UPDATE cards SET is_default = true
        FROM same_cards WHERE payment_method_id = newest_id AND same_cards.is_default
        """
    )
    op.execute(
        """
        UPDATE auto_topup_settings SET
            payment_method_id = coalesce(
                (SELECT newest_id FROM same_cards WHERE old_id = payment_method_id),
                payment_method_id),
            backup_payment_method_id = coalesce(
                (SELECT newest_id FROM same_cards WHERE old_id = backup_payment_method_id),
                backup_payment_method_id),
            declined_payment_method_id = coalesce(
                (SELECT newest_id FROM same_cards WHERE old_id = declined_payment_method_id),
                declined_payment_method_id)
        """
    )
    op.execute(
        """
        UPDATE auto_topup_settings SET backup_payment_method_id = NULL
        WHERE backup_payment_method_id = payment_method_id
        """
    )
    op.execute(
        """
        CREATE UNIQUE INDEX cards_one_entry_each ON cards (user_id, fingerprint)
        WHERE removed_at IS NULL AND fingerprint <> ''
        """
    )
