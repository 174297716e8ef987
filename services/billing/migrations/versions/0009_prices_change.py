"""A new price of a product reaches those who have it after a notice."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE deployments ADD new_price_micros bigint, ADD new_price_from timestamptz"
    )
    op.execute(
        """
        CREATE TABLE price_notices (
            product_id uuid PRIMARY KEY,
            price_micros bigint NOT NULL CHECK (price_micros >= 0),
            changed_at timestamptz NOT NULL,
            reached uuid,
            is_repeated boolean NOT NULL,
            due_at timestamptz
        )
        """
    )
    create_index_beside_traffic(
        op, "deployments_of_product", "deployments (product_id, deployment_id)"
    )
