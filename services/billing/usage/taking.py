"""Taking records of usage in: each once, by the id that its caller chose within its deployment.

A wallet's usage is written by one transaction at a time, charges included. A record that is not
taken says why, and keeps no other from being taken.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from contracts.billing import (
    DeploymentStatus,
    RecordUsage,
    UsageAnswer,
    UsageRecord,
    UsageRefusal,
    UsageResult,
    UsageResults,
)
from contracts.catalog import QUANTITY_MAX, Meter
from services.billing.deployments.meters import meters_of, with_lines
from services.billing.deployments.months import Month, month_at
from services.billing.deployments.pauses import Pause, pauses
from services.billing.deployments.rating import rated_micros
from services.billing.settings import BillingSettings

COST_MAX_MICROS = 1_000_000 * 1_000_000
"""What one meter of one deployment may cost in a month: a million dollars. More is a mistake."""

Place = tuple[UUID, str]
"""A deployment and the id of one of its records."""


def record_usage(
    session: Session, now: datetime, command: RecordUsage, rules: BillingSettings
) -> UsageResults:
    """Take what can be taken; the results stand in the order of the records."""
    measured = _measured(session, {each.deployment_id for each in command.records})
    users = sorted({each.user_id for each in measured.values()})
    if users:
        _LOCK_WALLETS.execute(session, [(user_id,) for user_id in users])
    taking = _Taking(session, now, rules, measured)
    taking.look(command.records)
    results = [taking.take(each) for each in command.records]
    taking.write()
    return UsageResults(results=results)


def next_hour(now: datetime) -> datetime:
    """When what comes in now is charged: with the hour's end."""
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


class Measured(NamedTuple):
    """A deployment, and what is measured of it at the prices of its purchase."""

    user_id: UUID
    status: str
    status_changed_at: datetime
    active_at: datetime | None
    ended_at: datetime | None
    meters: dict[str, Meter]

    def runs_since(self, moment: datetime) -> bool:
        """Whether it runs, and did not stop after this moment."""
        return self.status == DeploymentStatus.ACTIVE and self.status_changed_at <= moment


class Known(NamedTuple):
    """A record that was taken, as far as another one may repeat or correct it."""

    meter: str
    quantity: int
    used_at: datetime
    corrects: str | None


class Refused(Exception):
    """Why a record is not taken."""

    def __init__(self, code: UsageRefusal, message: str) -> None:
        super().__init__(message)
        self.code = code


def _measured(session: Session, deployment_ids: Iterable[UUID]) -> dict[UUID, Measured]:
    return {
        row.deployment_id: Measured(
            row.user_id,
            row.status,
            row.status_changed_at,
            row.active_at,
            row.ended_at,
            meters_of(line),
        )
        for row, line in with_lines(session, deployment_ids)
    }


@dataclass
class _Taking:
    """The records of one call. Their wallets are locked."""

    session: Session
    now: datetime
    rules: BillingSettings
    measured: dict[UUID, Measured]
    known: dict[Place, Known] = field(default_factory=dict)
    pauses: dict[UUID, list[Pause]] = field(default_factory=dict)
    corrected: Counter[Place] = field(default_factory=Counter)
    totals: Counter[tuple[UUID, str, datetime]] = field(default_factory=Counter)
    added: Counter[tuple[UUID, str, Month]] = field(default_factory=Counter)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    used: dict[UUID, list[datetime]] = field(default_factory=dict)
    months: dict[datetime, Month] = field(default_factory=dict)

    def look(self, records: Sequence[UsageRecord]) -> None:
        """Read what is stored of these records, of those that they correct, and the totals."""
        corrected = {(each.deployment_id, each.corrects) for each in records if each.corrects}
        places = {(each.deployment_id, each.record_id) for each in records} | corrected
        for row in _KNOWN.execute(self.session, places):
            known = Known(row.meter, row.quantity, row.used_at, row.corrects)
            self.known[row.deployment_id, row.record_id] = known
        if corrected:
            for row in _CORRECTED.execute(self.session, corrected):
                self.corrected[row.deployment_id, row.record_id] = int(row.quantity)
        months = {
            (
                each.deployment_id,
                each.meter,
                self._month_at(found.active_at, each.used_at).starts_at,
            )
            for each in records
            if (found := self.measured.get(each.deployment_id)) is not None
            and found.active_at is not None
            and found.active_at <= each.used_at
        }
        if months:
            for row in _TOTALS.execute(self.session, months):
                self.totals[row.deployment_id, row.meter, row.month_starts_at] = row.quantity
        self._look_for_pauses(records)

    def _look_for_pauses(self, records: Sequence[UsageRecord]) -> None:
        """Read the histories of those that did not run all the time since; nearly all did."""
        since: dict[UUID, datetime] = {}
        for each in records:
            found = self.measured.get(each.deployment_id)
            if found is not None and not found.runs_since(each.used_at):
                first_at = since.get(each.deployment_id, each.used_at)
                since[each.deployment_id] = min(first_at, each.used_at)
        self.pauses = pauses(self.session, since)

    def take(self, record: UsageRecord) -> UsageResult:
        """Take one, or say why not."""
        result = UsageResult(record_id=record.record_id, answer=UsageAnswer.ACCEPTED)
        told = Known(record.meter, record.quantity, record.used_at, record.corrects)
        try:
            found = self.measured.get(record.deployment_id)
            if found is None:
                raise Refused(UsageRefusal.NOT_FOUND, "There is no such deployment.")
            known = self.known.get((record.deployment_id, record.record_id))
            if known == told:
                return result.model_copy(update={"answer": UsageAnswer.REPEATED})
            if known is not None:
                raise Refused(
                    UsageRefusal.RECORD_CONFLICT,
                    "Another record of this deployment has this id. Give a new record a new id.",
                )
            self._add(record, found)
        except Refused as refusal:
            refused = {
                "answer": UsageAnswer.REFUSED,
                "code": refusal.code,
                "message": str(refusal),
            }
            return result.model_copy(update=refused)
        self.known[record.deployment_id, record.record_id] = told
        return result

    def _add(self, record: UsageRecord, found: Measured) -> None:
        meter = found.meters.get(record.meter)
        if meter is None:
            keys = ", ".join(found.meters) or "none"
            raise Refused(
                UsageRefusal.UNKNOWN_METER,
                f"This deployment has no meter {record.meter}. Its meters: {keys}.",
            )
        month = self._month(record, found)
        self._check_correction(record)
        place = record.deployment_id, record.meter, month.starts_at
        quantity = self.totals[place] + record.quantity
        if quantity > QUANTITY_MAX or rated_micros(meter, quantity) > COST_MAX_MICROS:
            raise Refused(
                UsageRefusal.LIMIT_EXCEEDED,
                "With it the month would count more than any use does. Look at the quantity, and"
                " at its unit.",
            )
        self.totals[place] = quantity
        self.added[record.deployment_id, record.meter, month] += record.quantity
        if record.corrects is not None:
            self.corrected[record.deployment_id, record.corrects] += record.quantity
        self.used.setdefault(found.user_id, []).append(record.used_at)
        self.rows.append(
            (
                record.deployment_id,
                record.record_id,
                record.meter,
                month.starts_at,
                record.used_at,
                record.quantity,
                record.corrects,
                self.now,
            )
        )

    def _month(self, record: UsageRecord, found: Measured) -> Month:
        """The month of the deployment in which it was used, counted from its first activation."""
        if record.used_at > self.now:
            raise Refused(
                UsageRefusal.IN_THE_FUTURE, "It was used in the future. Look at your clock."
            )
        if record.used_at < self.now - self.rules.usage_window:
            hours = self.rules.usage_window_s // 3600
            raise Refused(
                UsageRefusal.TOO_LATE,
                f"It was used more than {hours} hours ago, and is not charged any more.",
            )
        if found.active_at is None or record.used_at < found.active_at:
            raise Refused(UsageRefusal.NOT_RUNNING, "The deployment did not run yet at that time.")
        if found.ended_at is not None and record.used_at > found.ended_at:
            raise Refused(UsageRefusal.NOT_RUNNING, "The deployment had ended by that time.")
        if record.corrects is None:
            # A correction is for the time of a record that was taken.
            self._check_it_ran(record)
        return self._month_at(found.active_at, record.used_at)

    def _check_it_ran(self, record: UsageRecord) -> None:
        """What is suspended or stopped uses nothing that is charged. Raises ``Refused``."""
        for pause in self.pauses.get(record.deployment_id, ()):
            if pause.holds(record.used_at):
                stopped_at = pause.starts_at.isoformat()
                raise Refused(
                    UsageRefusal.NOT_RUNNING,
                    f"The deployment did not run at that time: it was stopped or suspended at"
                    f" {stopped_at}. What it used before carries that time or an earlier one.",
                )

    def _month_at(self, anchor: datetime, moment: datetime) -> Month:
        """The month that runs then; most records of a deployment are of the same one."""
        month = self.months.get(anchor)
        if month is None or not month.starts_at <= moment < month.ends_at:
            month = self.months[anchor] = month_at(anchor, moment)
        return month

    def _check_correction(self, record: UsageRecord) -> None:
        if record.corrects is None:
            return
        place = record.deployment_id, record.corrects
        first = self.known.get(place)
        if first is None or first.corrects is not None or first.meter != record.meter:
            raise Refused(
                UsageRefusal.NOTHING_TO_CORRECT,
                f"There is no record {record.corrects} of this meter that it could correct.",
            )
        if first.used_at != record.used_at:
            raise Refused(
                UsageRefusal.NOTHING_TO_CORRECT,
                f"A correction has the time of the record that it corrects: {first.used_at}.",
            )
        left = first.quantity + self.corrected[place]
        if left + record.quantity < 0:
            raise Refused(
                UsageRefusal.NOTHING_TO_CORRECT,
                f"Only {left} of record {record.corrects} are left to be corrected.",
            )

    def write(self) -> None:
        """Write all of it, and have it charged when the hour ends."""
        with Batch(self.session) as writes:
            writes.add(_INSERT_RECORDS, self.rows)
            months = [
                (deployment_id, meter, month, self.measured[deployment_id].user_id)
                for deployment_id, meter, month in self.added
            ]
            writes.add(
                _BEGIN_TOTALS,
                [(each, meter, *month, user_id, 0) for each, meter, month, user_id in months],
            )
            writes.add(
                _ADD_TO_TOTALS,
                [
                    (each, meter, month.starts_at, quantity)
                    for (each, meter, month), quantity in self.added.items()
                ],
            )
            due_at = next_hour(self.now)
            writes.add(
                _HAVE_CHARGED,
                [(user_id, min(used), max(used), due_at) for user_id, used in self.used.items()],
            )


_LOCK_WALLETS = Bulk(
    "INSERT INTO usage_wallets ({columns}) SELECT * FROM {rows} ORDER BY 1"
    " ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id",
    user_id="uuid",
)
_KNOWN = Bulk(
    "SELECT one.* FROM {rows} JOIN usage_records AS one USING (deployment_id, record_id)",
    deployment_id="uuid",
    record_id="text",
)
_CORRECTED = Bulk(
    "SELECT new.deployment_id, new.record_id, sum(one.quantity) AS quantity FROM {rows}"
    " JOIN usage_records AS one"
    " ON one.deployment_id = new.deployment_id AND one.corrects = new.record_id GROUP BY 1, 2",
    deployment_id="uuid",
    record_id="text",
)
_TOTALS = Bulk(
    "SELECT one.* FROM {rows} JOIN usage_totals AS one"
    " USING (deployment_id, meter, month_starts_at)",
    deployment_id="uuid",
    meter="text",
    month_starts_at="timestamptz",
)
# Each row holds the deployment that it refers to, in the order of the rows: that of renewals.
_INSERT_RECORDS = Bulk(
    "INSERT INTO usage_records ({columns}) SELECT * FROM {rows} ORDER BY 1",
    deployment_id="uuid",
    record_id="text",
    meter="text",
    month_starts_at="timestamptz",
    used_at="timestamptz",
    quantity="bigint",
    corrects="text",
    recorded_at="timestamptz",
)
_BEGIN_TOTALS = Bulk(
    "INSERT INTO usage_totals ({columns}) SELECT * FROM {rows} ORDER BY 1 ON CONFLICT DO NOTHING",
    deployment_id="uuid",
    meter="text",
    month_starts_at="timestamptz",
    month_ends_at="timestamptz",
    user_id="uuid",
    quantity="bigint",
)
_ADD_TO_TOTALS = Bulk(
    "UPDATE usage_totals AS one SET quantity = one.quantity + new.quantity FROM {rows}"
    " WHERE one.deployment_id = new.deployment_id AND one.meter = new.meter"
    " AND one.month_starts_at = new.month_starts_at",
    deployment_id="uuid",
    meter="text",
    month_starts_at="timestamptz",
    quantity="bigint",
)
# What is being charged, or waits for money, keeps its moment: what comes in now is next.
_HAVE_CHARGED = Bulk(
    "UPDATE usage_wallets AS one SET due_at = coalesce(one.due_at, new.due_at),"
    " used_from = least(one.used_from, new.used_from),"
    " used_until = greatest(one.used_until, new.used_until)"
    " FROM {rows} WHERE one.user_id = new.user_id",
    user_id="uuid",
    used_from="timestamptz",
    used_until="timestamptz",
    due_at="timestamptz",
)
