"""Words are found by an index, and what was counted is known until a product changes."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0009"
down_revision = "0008"

VERSION_BEFORE = "The trigger notes that something changed, and refuses nothing."

COUNTED = (
    "name, category, summary, provider_name, location, price_micros, billing_period,"
    " specification, family, retired_at"
)
"""What a product can be filtered by. Its stock, which changes with each purchase, is none of it."""


def upgrade() -> None:
    # Each two and three characters that stand beside each other in a text, as numbers: a character
    # has 21 bits. Of a word that is looked for only the longest say anything. PostgreSQL's pg_trgm
    # comes with no installation of ours, and as texts they take ten times as long to sort.
    # It is there already where the index was interrupted.
    op.execute(
        """
        CREATE OR REPLACE FUNCTION pieces_of(written text, shortest integer) RETURNS bigint[]
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
        DECLARE
            letter text;
            code bigint;
            earlier bigint;
            pair bigint;
            pieces bigint[] := '{}';
            has_pairs boolean := shortest < 3 OR char_length(written) < 3;
        BEGIN
            FOREACH letter IN ARRAY string_to_array(written, NULL) LOOP
                code := ascii(letter);
                IF pair IS NOT NULL THEN
                    pieces := pieces || (pair << 21 | code);
                END IF;
                pair := earlier << 21 | code;
                IF has_pairs AND pair IS NOT NULL THEN
                    pieces := pieces || pair;
                END IF;
                earlier := code;
            END LOOP;
            RETURN pieces;
        END $$
        """
    )
    create_index_beside_traffic(
        op, "products_by_pieces", "products USING gin (pieces_of(searchable, 2))"
    )
    # To read the pieces of a text takes longer than to look for a word in it: the index is to be
    # used however many have them, and nothing else of it.
    op.execute(
        """
        CREATE FUNCTION products_with(words text[]) RETURNS SETOF uuid
        LANGUAGE sql STABLE STRICT ROWS 100 SET enable_seqscan = off SET enable_indexscan = off
        BEGIN ATOMIC
            SELECT product_id FROM products
            WHERE pieces_of(searchable, 2) @> ARRAY(
                SELECT unnest(pieces_of(search_form(word), 3)) FROM unnest(words) AS word
            ) AND NOT EXISTS (
                SELECT FROM unnest(words) AS word WHERE strpos(searchable, search_form(word)) = 0
            );
        END
        """
    )
    op.execute(
        "CREATE TABLE product_version"
        " (id integer PRIMARY KEY CHECK (id = 1), version uuid NOT NULL)"
    )
    op.execute("INSERT INTO product_version VALUES (1, gen_random_uuid())")
    op.execute(
        """
        CREATE FUNCTION note_new_version() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE product_version SET version = gen_random_uuid();
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        f"""
        CREATE TRIGGER note_new_version
        AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF {COUNTED} ON products
        FOR EACH STATEMENT EXECUTE FUNCTION note_new_version()
        """
    )
