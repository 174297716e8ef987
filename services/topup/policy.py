"""The operator's numbers: bounds, delays and caps, as the rules take them."""

from dataclasses import dataclass
from datetime import timedelta

from services.topup.settings import TopupSettings

USD = 1_000_000


@dataclass(frozen=True)
class Policy:
    """Amounts are micro-dollars. See :class:`services.topup.settings.TopupSettings`."""

    topup_min_micros: int = 5 * USD
    topup_max_micros: int = 2_000 * USD
    threshold_max_micros: int = 10_000 * USD
    cool_down: timedelta = timedelta(seconds=60)
    decline_delay: timedelta = timedelta(seconds=300)
    declines_max: int = 4
    is_stopped: bool = False
    user_charges_per_hour_max: int = 10
    user_hourly_cap_micros: int = 10_000 * USD
    system_charges_per_hour_max: int = 2_000
    system_hourly_cap_micros: int = 200_000 * USD
    stale_after: timedelta = timedelta(seconds=300)
    card_refund_window: timedelta = timedelta(days=14)
    seller: tuple[str, ...] = ()
    """What receipts of what is paid from now on say of who sells."""
    page_life: timedelta = timedelta(minutes=30)
    janitor_delays: tuple[timedelta, ...] = (
        timedelta(minutes=1),
        timedelta(minutes=5),
        timedelta(minutes=30),
        timedelta(hours=2),
        timedelta(hours=6),
        timedelta(hours=24),
    )
    """When the janitor asks about a charge whose outcome is unknown, counted from its start."""

    @classmethod
    def from_settings(cls, settings: TopupSettings) -> "Policy":
        """What the environment says."""
        return cls(
            topup_min_micros=settings.topup_min_micros,
            topup_max_micros=settings.topup_max_micros,
            threshold_max_micros=settings.threshold_max_micros,
            cool_down=timedelta(seconds=settings.auto_topup_cool_down_s),
            decline_delay=timedelta(seconds=settings.auto_topup_decline_delay_s),
            declines_max=settings.auto_topup_declines_max,
            is_stopped=settings.auto_topups_stopped,
            user_charges_per_hour_max=settings.user_charges_per_hour_max,
            user_hourly_cap_micros=settings.user_hourly_cap_micros,
            system_charges_per_hour_max=settings.system_charges_per_hour_max,
            system_hourly_cap_micros=settings.system_hourly_cap_micros,
            stale_after=timedelta(seconds=settings.stale_after_s),
            card_refund_window=timedelta(seconds=settings.card_refund_window_s),
            seller=settings.seller_lines,
            page_life=timedelta(seconds=settings.purchase_page_life_s),
            janitor_delays=tuple(timedelta(seconds=s) for s in settings.janitor_looks_s),
        )

    def check_again_after(self, looks: int) -> timedelta:
        """How long after its start a charge is asked about for the ``looks`` + 1st time."""
        if looks < len(self.janitor_delays):
            return self.janitor_delays[looks]
        return self.janitor_delays[-1] * (looks - len(self.janitor_delays) + 2)
