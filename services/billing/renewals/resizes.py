"""Carrying a resize out, over the catalog, which knows the sizes, and the wallet."""

import logging
from dataclasses import dataclass
from uuid import UUID

from chassis.crash_points import crash_point
from contracts.billing import (
    Deployment,
    ListResizes,
    ResizeDeployment,
    ResizeOption,
    ResizeOptions,
)
from contracts.catalog import BillingPeriod, GetProduct, ListProducts, Product, SortOrder
from contracts.errors import BadRequest, Conflict, ServiceError
from services.billing.deployments import commands, resizing
from services.billing.deployments.periods import PeriodKind
from services.billing.deployments.queries import own_deployment, single
from services.billing.deployments.resizing import Size
from services.billing.forecast import runways
from services.billing.renewals.renewals import DUE, Renewals, refusal

log = logging.getLogger(__name__)

SIZES_MAX = 50


@dataclass(frozen=True)
class Resizes:
    """What it takes to resize: whatever renewals need, and the catalog."""

    renewals: Renewals

    def options(self, question: ListResizes) -> ResizeOptions:
        """The other sizes of a deployment, and what each comes to as of now."""
        with self.renewals.database.read() as session:
            row = own_deployment(session, question.user_id, question.deployment_id)
        current = self._product(row.product_id)
        now = self.renewals.clock()
        sizes: list[Product] = []
        if current.family is not None and row.status in resizing.RESIZABLE:
            page = self.renewals.rpc.call(
                ListProducts(family=current.family, sort=SortOrder.PRICE, limit=SIZES_MAX)
            )
            sizes = [each for each in page.products if _is_size(current, each)]
        with self.renewals.database.read() as session:
            amounts = [resizing.comes_to(session, row, each.price_micros, now) for each in sizes]
        return ResizeOptions(
            quoted_at=now,
            options=[
                ResizeOption(
                    product_id=each.product_id,
                    name=each.name,
                    summary=each.summary,
                    price_micros=each.price_micros,
                    amount_micros=amount_micros,
                )
                for each, amount_micros in zip(sizes, amounts, strict=True)
            ],
        )

    def resize(self, command: ResizeDeployment) -> Deployment:
        """Make a deployment another size; see :class:`contracts.billing.ResizeDeployment`."""
        if not self._is_begun(command):
            with self.renewals.database.read() as session:
                row = own_deployment(session, command.user_id, command.deployment_id)
            size = self._size(row.product_id, command.product_id)
            self._begin(row.product_id, size, command)
            crash_point("billing.resize_recorded")
        error = self._ask_wallet(command)
        if (done := self._done(command)) is not None:
            return done
        if error is None:
            raise Conflict("It was changed by somebody else just now, and not resized.")
        self._close(command.deployment_id)
        # What was refused now may have been paid by a try before, whose answer was lost.
        if (done := self._done(command)) is not None:
            return done
        raise type(error)(f"{error} It was not resized.", *error.details)

    def _done(self, command: ResizeDeployment) -> Deployment | None:
        """What it is by now, if this command was carried out."""
        with self.renewals.database.read() as session:
            row = own_deployment(session, command.user_id, command.deployment_id)
            if commands.is_repeated(session, command):
                return single(session, self.renewals.clock(), row, self.renewals.rules)
        return None

    def _ask_wallet(self, command: ResizeDeployment) -> ServiceError | None:
        """Pay, or give back, what is written down. Why it was refused, if it was."""
        with self.renewals.database.read() as session:
            if not resizing.is_waiting(session, command.deployment_id):
                return None
            is_done = commands.is_repeated(session, command)
        try:
            answers = self.renewals.ask_wallet([command.deployment_id])
        except ServiceError:
            # What goes back goes back later; of what is to be charged nobody knows yet.
            if is_done:
                return None
            raise
        return refusal(answers, command.deployment_id, PeriodKind.RESIZE)

    def _close(self, deployment_id: UUID) -> None:
        """What was refused is not to be paid later; where that is not heard, it is soon."""
        try:
            self.renewals.ask_wallet([deployment_id])
        except ServiceError as error:
            log.warning("the wallet did not answer", extra={"error": f"{error.code}: {error}"})

    def _is_begun(self, command: ResizeDeployment) -> bool:
        """Whether this command was carried out, or has yet to hear from the wallet."""
        with self.renewals.database.read() as session:
            own_deployment(session, command.user_id, command.deployment_id)
            if commands.is_repeated(session, command):
                return True
            waiting = resizing.pending(session, [command.deployment_id])
        return any(
            (each.resize or {}).get("idempotency_key") == command.idempotency_key
            for each in waiting.values()
        )

    def _begin(self, product_id: UUID, size: Size, command: ResizeDeployment) -> None:
        with self.renewals.database.begin() as session:
            row = own_deployment(session, command.user_id, command.deployment_id, locked=True)
            if commands.is_repeated(session, command):
                return
            if row.product_id != product_id:
                raise Conflict("It was resized by somebody else just now. Look at it again.")
            # Not the time at which it began to wait for the row: its month may be due by now.
            now = self.renewals.clock()
            resizing.begin(session, now, row, size, command, self.renewals.rules)
            runways.look_soon(session, now, command.user_id)
            session.flush()
            if resizing.is_waiting(session, row.deployment_id):
                row.due_at = now + DUE.lease

    def _size(self, current_id: UUID, wanted_id: UUID) -> Size:
        """The wanted product. Raises ``NotFound``, ``BadRequest``, ``Conflict``."""
        current, wanted = self._product(current_id), self._product(wanted_id)
        if current_id == wanted_id:
            raise Conflict(f"It is {current.name} already.")
        if wanted.is_retired:
            raise Conflict(f"{wanted.name} is no longer sold.")
        for each in (current, wanted):
            if each.stock is not None:
                raise Conflict(
                    f"There is an end to the stock of {each.name}: it cannot be resized. Buy the"
                    " other size, and cancel this one."
                )
        if not _is_size(current, wanted):
            raise BadRequest(f"{wanted.name} is no other size of {current.name}.", "product_id")
        return Size(wanted.product_id, wanted.name, wanted.price_micros)

    def _product(self, product_id: UUID) -> Product:
        return self.renewals.rpc.call(
            GetProduct(product_id=str(product_id)), timeout_s=self.renewals.rules.call_timeout_s
        )


def _is_size(current: Product, other: Product) -> bool:
    """Whether one may become the other."""
    return (
        current.product_id != other.product_id
        and current.family is not None
        and current.family == other.family
        and current.provider_id == other.provider_id
        and current.billing_period is other.billing_period is BillingPeriod.MONTH
        and current.stock is None
        and other.stock is None
        and other.price_micros > 0
    )
