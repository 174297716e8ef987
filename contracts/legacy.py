"""The old system: who is moved out of it, what they bring, and what stays to be read."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from contracts.billing import DiscountBps
from contracts.catalog import Category
from contracts.messages import (
    Command,
    Cursor,
    Moment,
    PageLimit,
    PriceMicros,
    Reply,
    Request,
    Storable,
    TotalMicros,
    UserEvent,
    Value,
)

SERVICE = "legacy"

SERVICES_MAX = 1_000
"""So many run of one person at most."""

Email = Annotated[str, StringConstraints(min_length=3, max_length=320), Storable]
ServiceName = Annotated[str, StringConstraints(min_length=1, max_length=100), Storable]


class MovedService(Value):
    """Something that runs, and was rented from the old system. ``renews_at`` is when its next month
    is due; it costs nothing until then."""

    deployment_id: UUID
    name: ServiceName
    category: Category
    monthly_cost_micros: PriceMicros
    renews_at: Moment


class PersonMoved(UserEvent, source=SERVICE, type="person_moved"):
    """Somebody came across: ``balance_micros`` is in the wallet already. The address is in the
    spelling of the old system."""

    email: Email
    balance_micros: TotalMicros
    services: Annotated[list[MovedService], Field(max_length=SERVICES_MAX)]


class PersonMovedBack(UserEvent, source=SERVICE, type="person_moved_back"):
    """The same was undone: the money is out of the wallet again, nothing of it was spent."""

    deployment_ids: list[UUID]
    was_refused: bool = False
    """The site had not taken the person, as far as was known."""
    email: Email | None = None


class StakingDiscountChanged(UserEvent, source=SERVICE, type="staking_discount_changed"):
    """From now on so much is taken off what this user buys, in basis points. ``position`` counts
    what changed the user's stake: of two events the one with the higher one is the newer, and of
    two with the same the one that occurred later."""

    discount_bps: DiscountBps
    position: Annotated[int, Field(strict=True, ge=0)]


class OldEntry(Value):
    """A line of the old history. ``amount`` is what it was in ``unit``, with all its digits, empty
    where there was none; ``amount_micros`` what it is worth, where it is worth dollars."""

    kind: str
    status: str
    at: str
    amount: str
    unit: str
    amount_micros: int | None
    note: str


class OldService(Value):
    """Something that was rented, whether it came across or not; ``renewal`` is as it was."""

    name: str
    status: str
    amount: str
    unit: str
    amount_micros: int | None
    renewal: str


class OldHistory(Reply):
    """What somebody had in the old system, as its file has it: ``balance`` in its ``unit``, each
    worth ``rate`` dollars, and ``balance_micros`` in dollars. Entries are in the old order, from
    ``skip`` on."""

    user_id: UUID
    moved_at: Moment
    rate: str
    balance: str
    unit: str
    balance_micros: int
    services: list[OldService]
    entries: list[OldEntry]
    entries_total: int


class GetOldHistory(Request[OldHistory], service=SERVICE, method="get_old_history"):
    """Errors: ``NotFound`` for who was not moved."""

    user_id: UUID
    skip: Annotated[int, Field(strict=True, ge=0)] = 0
    limit: PageLimit = 50


UNITS_MAX = 10**15
"""A billion of a coin: more than anything that is exchanged at once."""

Units = Annotated[int, Field(strict=True, gt=0, le=UNITS_MAX)]
"""A positive amount of a coin, in millionths of it, which are the smallest that there are. A
millionth of a dollar is a micro-dollar."""

UnitsOrNone = Annotated[int, Field(strict=True, ge=0, le=UNITS_MAX)]

CoinName = Annotated[str, StringConstraints(min_length=3, max_length=4), Storable]
PoolName = Annotated[str, StringConstraints(min_length=7, max_length=8), Storable]
"""The names of its two coins with a hyphen between them. The first, its ``base``, is the coin of
the old system in each."""

SlippageBps = Annotated[int, Field(strict=True, ge=0, le=5_000)]
"""How much less than was quoted somebody takes, in hundredths of a percent."""


class OrderKind(StrEnum):
    """What is done in a pool, or with what somebody has in the old coin."""

    EXCHANGE = "exchange"
    ADD = "add"
    WITHDRAW = "withdraw"
    STAKE = "stake"
    UNSTAKE = "unstake"


class OrderStatus(StrEnum):
    """What becomes of an order. Without dollars it is ``done`` at once.

    ``requested``: dollars are to be set aside in the wallet; ``capturing``: it was carried out, and
    they are to be taken; ``releasing``: it was not; ``paying``: it was carried out, and what it
    came to is to be paid into the wallet.
    """

    REQUESTED = "requested"
    CAPTURING = "capturing"
    RELEASING = "releasing"
    PAYING = "paying"
    DONE = "done"
    REFUSED = "refused"
    DECLINED = "declined"


class PoolChange(Value):
    """What something in a pool does to what a user has, in units; below zero is what they give.
    ``share_units`` are parts of the pool."""

    base_units: int = 0
    other_units: int = 0
    share_units: int = 0


class PoolOrder(Reply):
    """Something that was wanted. ``change`` is what it did, or comes to where it is under way;
    ``fee_units`` of it stayed in the pool, in the coin that was given. ``reason`` says why it was
    ``refused`` or ``declined``."""

    order_id: UUID
    user_id: UUID
    kind: OrderKind
    pool: str
    status: OrderStatus
    change: PoolChange
    fee_units: int
    reason: str
    created_at: Moment


class PoolQuote(Reply):
    """What something would come to, at the moment. ``rate`` is how much of the coin that is got
    there is for one that is given, with the fee; ``impact_ppm`` how much worse that is than for a
    little, in millionths, without the fee. Both are for an exchange only."""

    quote_id: UUID
    user_id: UUID
    kind: OrderKind
    pool: str
    change: PoolChange
    fee_units: int
    rate: str
    impact_ppm: int
    expires_at: Moment


class QuoteExchange(Request[PoolQuote], service=SERVICE, method="quote_exchange"):
    """Give so much of one coin of a pool, and get the other one.

    Errors: ``NotFound`` (no such pool), ``BadRequest`` (no coin of it), ``Conflict`` (an empty
    pool, or so little that nothing comes of it).
    """

    user_id: UUID
    pool: PoolName
    give: CoinName
    give_units: Units


class QuoteAddition(Request[PoolQuote], service=SERVICE, method="quote_addition"):
    """Add at most so much of each coin to a pool. What is taken keeps its rate; who adds to an
    empty one sets it. Errors: as for :class:`QuoteExchange`."""

    user_id: UUID
    pool: PoolName
    base_units: Units
    other_units: Units


class QuoteWithdrawal(Request[PoolQuote], service=SERVICE, method="quote_withdrawal"):
    """Take out what belongs to so many shares. Errors: as for :class:`QuoteExchange`."""

    user_id: UUID
    pool: PoolName
    share_units: Annotated[int, Field(strict=True, gt=0)]


class TakeQuote(Command[PoolOrder], service=SERVICE, method="take_quote"):
    """Have done what was quoted, unless it comes to less by now than the quote less the slippage.

    Dollars that are given are set aside in the wallet first, and taken when it is done. Errors:
    ``NotFound`` (no such quote), ``Conflict`` (a quote that is too old or was taken, a rate that
    moved, too little of a coin, another order that is under way), ``InsufficientFunds`` and
    ``AccountFrozen`` of the wallet.
    """

    user_id: UUID
    quote_id: UUID
    slippage_bps: SlippageBps


class Stake(Command[PoolOrder], service=SERVICE, method="stake"):
    """Set some of the old coin aside. Errors: ``Conflict`` (not so much, an order under way)."""

    user_id: UUID
    units: Units


class Unstake(Command[PoolOrder], service=SERVICE, method="unstake"):
    """Have some of it free again. Errors: as for :class:`Stake`, and while it must still stay."""

    user_id: UUID
    units: Units


class Pool(Value):
    """A pool, and what of it is a user's: ``own`` is what that many shares are worth."""

    pool: str
    base: str
    other: str
    base_units: int
    other_units: int
    share_units: int
    own_share_units: int
    own: PoolChange
    fee_bps: int


class Holding(Value):
    """What somebody has of a coin, neither staked nor in a pool."""

    coin: str
    units: int


class DiscountTier(Value):
    """Who has at least so much staked buys for so much less, in basis points."""

    units: int
    discount_bps: DiscountBps


class Staked(Value):
    """What is staked. ``free_at`` is when it may be unstaked, None where that is now; what is
    staked now stays for ``days``. It takes ``discount_bps`` off purchases; ``tiers`` are all that
    there are, the lowest first."""

    units: int
    days: int
    free_at: Moment | None
    discount_bps: DiscountBps = 0
    tiers: list[DiscountTier] = Field(default_factory=list)


class Pools(Reply):
    """All pools, and what is a user's. ``under_way`` is an order that has not ended."""

    user_id: UUID
    holdings: list[Holding]
    staked: Staked
    pools: list[Pool]
    under_way: PoolOrder | None


class GetPools(Request[Pools], service=SERVICE, method="get_pools"):
    user_id: UUID


class CoinChange(Value):
    """How much more or less a user had of a coin after it. ``coin`` is a pool's name where it is
    shares of it; ``is_staked``: of what is staked. Dollars came into the wallet, or out of it."""

    coin: str
    units: int
    is_staked: bool


class PoolEntry(Value):
    """Something that changed what a user has: an order, what was brought along from the old system
    (``opening``, and ``closing`` where that was undone), or what an operator corrected
    (``adjustment``, with the reason as ``note``)."""

    transaction_id: UUID
    kind: str
    pool: str
    note: str
    changes: list[CoinChange]
    at: Moment


class PoolHistory(Reply):
    """Newest first; ``next_cursor`` asks for older ones, None at the end."""

    entries: list[PoolEntry]
    next_cursor: Cursor | None = None


class GetPoolHistory(Request[PoolHistory], service=SERVICE, method="get_pool_history"):
    user_id: UUID
    cursor: Cursor | None = None
    limit: PageLimit = 25
