"""What the books of a run that was disturbed wait for."""

from kombu import Connection

from deploy.local.broker import Node
from tests.faults.chaos.books import waiting
from tests.faults.chaos.messages import HANDLERS
from tests.patience import eventually


def test_a_message_that_a_handler_has_in_hand_is_waited_for(broker: Node) -> None:
    vhost = broker.vhost("in-hand")
    queue = next(handler.queue for handler in HANDLERS)

    def is_waiting() -> int:
        return waiting(broker, vhost.name)

    try:
        with Connection(vhost.admin_uri) as connection, connection.channel() as channel:
            channel.queue_declare(queue)
            channel.queue_declare("nobody-is-asked-about-this-one")
            for name in (queue, queue, "nobody-is-asked-about-this-one"):
                connection.Producer(channel).publish({}, routing_key=name)
            eventually(is_waiting, lambda count: count == 2, interval_s=0.1)
            in_hand = channel.basic_get(queue, no_ack=False)
            with_one_in_hand = is_waiting()
            channel.basic_ack(in_hand.delivery_info["delivery_tag"])
            eventually(is_waiting, lambda count: count == 1, interval_s=0.1)
    finally:
        vhost.stop()

    assert with_one_in_hand == 2
