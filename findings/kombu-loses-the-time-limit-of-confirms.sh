#!/usr/bin/env bash
# The time limit of publisher confirms, set where kombu sets confirms, is lost without a word.
#
# kombu switches confirms on by transport_options={"confirm_publish": True}, and amqp waits for one
# for as long as `confirm_timeout` says. One would expect {"confirm_timeout": 10} beside it to bound
# the wait, or an error.
#
# What happens: amqp's Connection takes any keyword and drops this one. A publish to a broker that
# stopped answering then waits without end. Given to each publish(confirm_timeout=10) it works.
#
# Seen with kombu 5.7.0 and amqp 5.4.2 on Python 3.11. Output:
#   set for the connection: waits None
#   set for the publish: waits 10
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check kombu==5.7.0 amqp==5.4.2
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from unittest import mock

import amqp
from kombu import Connection

connection = Connection(
    "amqp://127.0.0.1", transport_options={"confirm_publish": True, "confirm_timeout": 10}
)
made = []


class Unconnected(amqp.Connection):
    """Takes what kombu gives it, and opens no socket."""

    def connect(self, *_, **__):
        made.append(self)


connection.transport.Connection = Unconnected
connection.transport.establish_connection()


def waits(**options):
    channel = mock.Mock(spec=amqp.Channel, connection=made[0], _confirm_selected=True)
    amqp.Channel.basic_publish_confirm(channel, amqp.Message("{}"), **options)
    return channel.wait.call_args.kwargs["timeout"]


limits = waits(), waits(confirm_timeout=10)
print("set for the connection: waits", limits[0])
print("set for the publish: waits", limits[1])
sys.exit(limits != (None, 10))
PYTHON
