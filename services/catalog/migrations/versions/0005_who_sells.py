"""Families of products, what is sold no more, prices with a history, and who changed what."""

from alembic import op

revision = "0005"
down_revision = "0004"

HOLDS_TABLES = """Products are read once, and nobody changes one meanwhile: there were only those
that an operator puts up, and sellers came to write theirs in a later version."""


def upgrade() -> None:
    op.execute("ALTER TABLE products ADD family text, ADD retired_at timestamptz")
    op.execute("CREATE INDEX products_of_family ON products (family) WHERE family IS NOT NULL")
    op.execute(
        """
        CREATE TABLE product_prices (
            product_id uuid NOT NULL REFERENCES products,
            since timestamptz NOT NULL,
            price_micros bigint NOT NULL CHECK (price_micros >= 0),
            actor text NOT NULL,
            reason text NOT NULL,
            PRIMARY KEY (product_id, since)
        )
        """
    )
    op.execute(
        "INSERT INTO product_prices SELECT product_id, created_at, price_micros, 'catalog',"
        " 'The price when histories began' FROM products"
    )
    op.execute(
        """
        CREATE TABLE product_changes (
            change_id uuid PRIMARY KEY,
            product_id uuid NOT NULL REFERENCES products,
            command text NOT NULL,
            actor text NOT NULL,
            reason text NOT NULL,
            changed_at timestamptz NOT NULL,
            idempotency_key text NOT NULL UNIQUE,
            body_hash text NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX changes_of_product ON product_changes (product_id, change_id)")
