"""Who sells, as buyers see them, and a provider's own products by an index."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE providers (
            provider_id uuid PRIMARY KEY,
            name text NOT NULL CHECK (char_length(name) <= 200 AND btrim(name) <> ''),
            about text NOT NULL,
            support_email text NOT NULL,
            support_url text NOT NULL,
            changed_at timestamptz NOT NULL
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX providers_by_name ON providers (search_form(name))")
    op.execute(
        """
        CREATE TABLE provider_changes (
            change_id uuid PRIMARY KEY,
            provider_id uuid NOT NULL REFERENCES providers,
            name text NOT NULL,
            actor text NOT NULL,
            reason text NOT NULL,
            changed_at timestamptz NOT NULL,
            idempotency_key text NOT NULL UNIQUE,
            body_hash text NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX changes_of_provider ON provider_changes (provider_id, change_id)")
    create_index_beside_traffic(
        op,
        "products_of_provider",
        "products (provider_id, created_at, product_id) WHERE provider_id IS NOT NULL",
    )
