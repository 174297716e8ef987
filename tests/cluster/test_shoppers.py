"""What the shoppers hold against what they were granted does not pass over a charge too many."""

from chassis.identifiers import new_id
from chassis.money import MICROS_PER_USD
from contracts.wallet import Credit, TransactionKind
from tests.cluster.shoppers import AUTO_TOPUP_USD, ToppedUp
from tests.gateway.conftest import Api
from tests.patience import eventually
from tests.system import System


def test_a_shopper_who_is_topped_up_once_too_often_says_so(system: System) -> None:
    api = Api(system.base_url)
    shopper = ToppedUp(api)
    shopper.register()
    shopper.buy()
    eventually(shopper.problems, lambda found: not found)

    system.rpc.call(
        Credit(
            idempotency_key=str(new_id()),
            user_id=api.user_id,
            amount_micros=AUTO_TOPUP_USD * MICROS_PER_USD,
            kind=TransactionKind.AUTO_TOPUP,
            description="The same charge again",
        )
    )

    assert shopper.problems() == ["balance: 35.00 != 15"]
