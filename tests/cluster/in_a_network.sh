#!/usr/bin/env bash
# in_a_network.sh COMMAND...: runs the command in namespaces of its own, where it may make machines
# and networks: what it makes is seen by nobody else, and ends with it, whatever ends it.
set -euo pipefail

stop() {
    echo "mycelium: Nothing was tested: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || stop "networks of machines are made by root alone. Run this as root, or with sudo."
for tool in unshare nsenter ip; do
    command -v $tool >/dev/null || stop "this needs $tool (apt-get install util-linux iproute2)."
done
unshare --net --mount true 2>/dev/null ||
    stop "this system lets root make no namespaces; a container needs the capability SYS_ADMIN for it."
# The shell stays, as the first process there: it buries those that lost their parent.
exec setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc sh -c '
    ip link set lo up && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns || exit 1
    "$@"
    exit $?' sh "$@"
