"""What somebody had in the old system, to be read."""

from flask import Blueprint, render_template, request

from contracts.legacy import GetOldHistory
from services.gateway.backend import call
from services.gateway.errors import Problem
from services.gateway.people.identity import login_required, signed_in_user

blueprint = Blueprint("old_history", __name__)

PAGE_SIZE = 50


@blueprint.get("/dashboard/old-history")
@login_required
def listing() -> str:
    """In the old order; ``skip`` says how many entries came before."""
    written = request.args.get("skip", "0")
    if not written.isascii() or not written.isdecimal() or len(written) > 9:
        raise Problem(422, "bad_request", "How many entries to skip is a whole number.")
    question = GetOldHistory(user_id=signed_in_user().user_id, skip=int(written), limit=PAGE_SIZE)
    history = call(question)
    after = question.skip + len(history.entries)
    return render_template(
        "old_history.html",
        history=history,
        next_skip=after if after < history.entries_total else None,
        previous_skip=max(question.skip - PAGE_SIZE, 0) if question.skip else None,
    )
