"""What a data sheet says in numbers, to be filtered by: processors, memory, disk."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # "4 × 1.9 TB NVMe" is 7600 GB, "2 dedicated" is 2. The first line with such a label counts.
    op.execute(
        r"""
        CREATE FUNCTION measure_of(specification jsonb, labels text[]) RETURNS numeric
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
        RETURN (
            SELECT coalesce(found[1]::numeric, 1) * found[2]::numeric
                * CASE found[3] WHEN 'TB' THEN 1000 WHEN 'MB' THEN 0.001 ELSE 1 END
            FROM jsonb_array_elements(specification) WITH ORDINALITY AS line (item, place),
                regexp_match(
                    item ->> 'value',
                    '(?:([0-9]{1,6}) *× *)?([0-9]{1,9}(?:\.[0-9]{1,3})?) *([MGT]B)?'
                ) AS found
            WHERE item ->> 'label' = ANY (labels) AND found IS NOT NULL
            ORDER BY place LIMIT 1
        )
        """
    )
