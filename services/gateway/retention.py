"""What the website keeps for a time only. The notifier, a process beside it, sees to it."""

from chassis.retention import Kept, messages
from services.gateway import paths, response_times
from services.gateway.settings import NotifierSettings


def kept(settings: NotifierSettings) -> list[Kept]:
    return [
        *messages(settings),
        response_times.KEPT,
        paths.SECRETS_KEPT,
        paths.EVENTS_KEPT,
        Kept("user_sessions", "expires_at", settings.ended_sessions_kept_days),
        Kept("api_tokens", "revoked_at", settings.ended_sessions_kept_days),
        Kept("api_tokens", "expires_at", settings.ended_sessions_kept_days),
        Kept("mails", "ended_at", settings.mails_kept_days),
        Kept("hook_deliveries", "ended_at", settings.mails_kept_days),
        Kept("mail_links", "expires_at", settings.mails_kept_days),
        Kept("carts", "changed_at", settings.carts_kept_days, unless="user_id IS NOT NULL"),
        # The wallet knows a key for ever; what is counted here is counted for a day.
        Kept("transfers", "created_at", settings.carts_kept_days),
        Kept("cart_checkouts", "ended_at", settings.carts_kept_days),
        Kept("notifications", "read_at", settings.notifications_kept_days),
        Kept("notifications", "created_at", settings.unread_notifications_kept_days),
    ]
