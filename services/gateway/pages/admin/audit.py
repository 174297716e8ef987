"""/admin/audit: what was done by a role, the newest first; and all of it as a file."""

from collections.abc import Iterator
from uuid import UUID

from flask import Blueprint, Response, render_template, request, stream_with_context

from chassis.clock import utc_now
from chassis.digits import whole_number
from services.gateway.access import Role
from services.gateway.backend import database
from services.gateway.people import users
from services.gateway.staff import acts
from services.gateway.staff.guard import reads

blueprint = Blueprint("admin_audit", __name__, url_prefix="/admin/audit")

PAGE_SIZE = 50
FILTER_LENGTH_MAX = 80


@blueprint.get("")
@reads(Role.OPERATOR)
def listing() -> str:
    filters = {
        name: text[:FILTER_LENGTH_MAX]
        for name in ("subject", "actor", "action")
        if (text := request.args.get(name, "").strip())
    }
    with database().read() as session:
        found = acts.newest(
            session,
            before=_before(),
            subject=filters.get("subject", ""),
            actor_id=_id(filters.get("actor", "")),
            action=filters.get("action", ""),
            limit=PAGE_SIZE + 1,
        )
        people = [each.actor_id for each in found] + [_id(each.subject) for each in found]
        emails = users.emails(session, (each for each in people if each is not None))
        head = acts.head(session)
    return render_template(
        "admin/audit.html",
        acts=found[:PAGE_SIZE],
        emails={str(user_id): email for user_id, email in emails.items()},
        head=head,
        filters=filters,
        is_later=_before() is not None,
        next_before=found[PAGE_SIZE - 1].position if len(found) > PAGE_SIZE else None,
    )


@blueprint.get("/export")
@reads(Role.OPERATOR)
def export() -> Response:
    """Lines of JSON, which ``python -m services.gateway.audit_log check`` checks."""
    connected = database()

    def lines() -> Iterator[str]:
        with connected.snapshot() as session:
            for line in acts.lines(session):
                yield line + "\n"

    name = f"acts-{utc_now():%Y-%m-%d}.jsonl"
    return Response(
        stream_with_context(lines()),
        mimetype="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _before() -> int | None:
    try:
        return whole_number(request.args.get("before", ""))
    except ValueError:
        return None


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
