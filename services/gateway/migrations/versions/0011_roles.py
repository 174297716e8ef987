"""Roles that users have, and what is done by them: appended, chained, never changed."""

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, ForeignKey, LargeBinary, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"

# A position is the next one, so that a gap tells of rows that were taken out.
KEEP = """
CREATE FUNCTION follow_last_act() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.position <> 1 + coalesce((SELECT max(position) FROM acts), 0) THEN
        RAISE EXCEPTION 'act % does not follow the last one', NEW.position
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER follow_last_act BEFORE INSERT ON acts
    FOR EACH ROW EXECUTE FUNCTION follow_last_act();
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON acts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE acts
    ADD CONSTRAINT act_has_a_digest CHECK (octet_length(digest) = 32),
    ADD CONSTRAINT act_says_who CHECK (actor_id IS NOT NULL OR actor <> ''),
    ADD CONSTRAINT act_says_what_and_why CHECK (action <> '' AND reason <> ''),
    ADD CONSTRAINT outcome_follows_its_act CHECK (completes < position);
ALTER TABLE role_grants ADD CONSTRAINT role_is_known
    CHECK (role IN ('seller', 'support', 'finance', 'operator', 'auditor'));
"""


def upgrade() -> None:
    moment = DateTime(timezone=True)
    op.create_table(
        "role_grants",
        Column("user_id", Uuid, ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True),
        Column("role", Text, primary_key=True),
        Column("granted_at", moment, nullable=False),
        Column("granted_by", Uuid),
    )
    op.create_table(
        "acts",
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("occurred_at", moment, nullable=False),
        Column("actor_id", Uuid),
        Column("actor", Text, nullable=False),
        Column("roles", Text, nullable=False),
        Column("origin", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("before", JSONB),
        Column("after", JSONB),
        Column("completes", BigInteger),
        Column("digest", LargeBinary, nullable=False),
    )
    op.create_index("acts_on_subject", "acts", ["subject", "position"])
    op.create_index("acts_by_actor", "acts", ["actor_id", "position"])
    op.execute(KEEP)
