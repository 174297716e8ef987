"""/admin/audit: what was done by a role, the newest first; and all of it as files."""

from itertools import islice
from uuid import UUID

from flask import Blueprint, Response, render_template, request

from chassis.digits import whole_number
from services.gateway.access import Role
from services.gateway.backend import database
from services.gateway.people import users
from services.gateway.staff import acts
from services.gateway.staff.guard import reads

blueprint = Blueprint("admin_audit", __name__, url_prefix="/admin/audit")

PAGE_SIZE = 50
EXPORTED_MAX = 20_000
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
            before=_position("before"),
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
        files=[
            (after, min(after + EXPORTED_MAX, head.position))
            for after in range(0, head.position, EXPORTED_MAX)
        ],
        filters=filters,
        is_later=_position("before") is not None,
        next_before=found[PAGE_SIZE - 1].position if len(found) > PAGE_SIZE else None,
    )


@blueprint.get("/export")
@reads(Role.OPERATOR)
def export() -> Response:
    """Lines of JSON, ``EXPORTED_MAX`` at most: those ``after`` a position. All of them together are
    what ``python -m services.gateway.audit_log check`` checks."""
    after = _position("after") or 0
    with database().read() as session:
        lines = [f"{line}\n" for line in islice(acts.lines(session, after), EXPORTED_MAX)]
    name = f"acts-{after + 1}-{after + len(lines)}.jsonl"
    return Response(
        "".join(lines),
        mimetype="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _position(name: str) -> int | None:
    try:
        return whole_number(request.args.get(name, ""))
    except ValueError:
        return None


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
