#!/usr/bin/env bash
# in_a_network.sh COMMAND...: runs the command in namespaces of its own, where it may make machines
# and networks: what it makes is seen by nobody else, and ends with it, whatever ends it.
# BROKERS_DEBIAN=trixie: the brokers are those of that Debian, in a tree that is made once.
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

if [ -n "${BROKERS_DEBIAN:-}" ]; then
    command -v debootstrap >/dev/null || stop "a Debian for the brokers needs debootstrap."
    tree=$(cd "$(dirname "$0")/../.." && pwd)/.data/cluster/$BROKERS_DEBIAN
    if [ ! -e "$tree.made" ]; then
        echo "mycelium: making a Debian $BROKERS_DEBIAN for the brokers (once)" >&2
        rm -rf "$tree" && mkdir -p "$tree"
        # It asks this script before it starts a server; 101 forbids it.
        { debootstrap --variant=minbase "$BROKERS_DEBIAN" "$tree" &&
            printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d" &&
            chmod 755 "$tree/usr/sbin/policy-rc.d" &&
            DEBIAN_FRONTEND=noninteractive chroot "$tree" \
                apt-get install -y --no-install-recommends rabbitmq-server; } >"$tree.log" 2>&1 ||
            stop "debootstrap could not make it; see $tree.log"
        touch "$tree.made"
    fi
    export BROKERS_ROOT=$tree
fi
# The shell stays, as the first process there: it buries those that lost their parent.
exec setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc sh -c '
    ip link set lo up && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns || exit 1
    for each in ${BROKERS_ROOT:+dev proc tmp}; do
        mount --rbind "/$each" "$BROKERS_ROOT/$each" || exit 1
    done
    "$@"
    exit $?' sh "$@"
