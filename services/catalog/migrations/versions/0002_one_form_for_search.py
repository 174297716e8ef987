"""One form in which names are searched and sorted, whatever their case, accents or composition.

Names are bounded: they stand in cursors, in indexes and in the descriptions of purchases.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

BOUNDS = {"slug": 100, "name": 200, "provider_name": 200, "location": 200}


def upgrade() -> None:
    # Immutable, and the same in every locale: PostgreSQL's own tables of Unicode decide. The
    # marks that are dropped are accents (U+0300 to U+036F), no vowel signs of other scripts.
    op.execute(
        r"""
        CREATE FUNCTION search_form(written text) RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
        RETURN regexp_replace(
            normalize(casefold(normalize(written, NFKD) COLLATE pg_unicode_fast), NFKD),
            '[\u0300-\u036f]', '', 'g'
        )
        """
    )
    for column in ("name", "provider_name", "location"):
        op.execute(
            f"UPDATE products SET {column} = rtrim(left({column}, 199)) || '…'"  # noqa: S608
            f" WHERE char_length({column}) > {BOUNDS[column]}"
        )
    for column, bound in BOUNDS.items():
        op.create_check_constraint(
            f"{column}_is_bounded",
            "products",
            f"char_length({column}) <= {bound} AND btrim({column}) <> ''",
        )
    op.execute(
        "ALTER TABLE products ALTER COLUMN searchable SET EXPRESSION AS"
        " (search_form(name || ' ' || summary || ' ' || provider_name))"
    )
    op.execute("DROP INDEX products_by_name")
    # A letter may fold into several, and an entry of an index has a bound.
    op.execute(
        "CREATE INDEX products_by_name ON products (left(search_form(name), 200), product_id)"
    )
