"""What surrounds every page: the balance and auto top-up in the menu, unread notifications."""

from dataclasses import dataclass
from uuid import UUID

from flask import Blueprint, g
from flask.sansio.blueprints import BlueprintSetupState

from contracts.topup import AutoTopupState, AutoTopupStatus, GetAutoTopup, GetAutoTopupState
from contracts.wallet import GetWallet, Wallet
from services.gateway.backend import ask_all, known
from services.gateway.pages import formats
from services.gateway.pages.forms import new_key, refused_credits, typed_terms
from services.gateway.pages.glance import glance
from services.gateway.people.identity import current_user

blueprint = Blueprint("navbar", __name__)
blueprint.add_app_template_global(new_key)
blueprint.add_app_template_global(refused_credits)
blueprint.add_app_template_global(typed_terms)


@dataclass(frozen=True)
class Navbar:
    """None stands for what could not be asked at the moment."""

    wallet: Wallet | None
    auto_topup: AutoTopupStatus | AutoTopupState | None
    user_id: UUID

    @property
    def unread_notifications(self) -> int:
        return glance(self.user_id).unread


def navbar() -> Navbar | None:
    """The menu of whoever is logged in, asked once for each request; None for a visitor."""
    user = current_user()
    if user is None:
        return None
    if "navbar" not in g:
        whole = known(GetAutoTopup(user_id=user.user_id))
        state = None if whole else GetAutoTopupState(user_id=user.user_id)
        wallet, auto_topup = ask_all(GetWallet(user_id=user.user_id), state)
        g.navbar = Navbar(
            wallet=wallet,
            auto_topup=whole or auto_topup,
            user_id=user.user_id,
        )
    found: Navbar = g.navbar
    return found


@blueprint.record_once
def _equip(state: BlueprintSetupState) -> None:
    formats.install(state.app.jinja_env)


@blueprint.app_context_processor
def surroundings() -> dict[str, object]:
    return {"navbar": navbar}
