#!/usr/bin/env bash
# with_engine.sh COMMAND...: runs the command where a container engine answers. Docker with Compose
# is used as it is, where it is there.
#
# A machine without one, and without an image registry, gets a stand-in, for which we must be root
# on a Debian: Debian's own Docker in namespaces of its own, and base images made of Debian's
# packages under the names that our files use. They are not the official images: they show that
# our files work, not that those images do. All of it lies in .data/engine/, which may be removed,
# and every process of it ends with the command.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
engine=$root/.data/engine

stop() {
    echo "mycelium: $*" >&2
    exit 1
}

if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
    exec "$@"
fi
[ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] ||
    stop "Nothing was tested: no Docker with Compose answers here. Start it; or run this as root" \
        "on a Debian, which can do without."
for tool in debootstrap unshare nsenter setpriv; do
    command -v $tool >/dev/null || stop "Nothing was tested: no Docker with Compose answers here," \
        "and without it this needs $tool (apt-get install debootstrap util-linux)."
done
[ -c /dev/net/tun ] || stop "Nothing was tested: the containers need /dev/net/tun for their network."

# debian NAME RELEASE PACKAGES: a minimal Debian and these packages in a folder of that name, once.
debian() {
    [ -e "$engine/$1.made" ] && return
    echo "mycelium: making a Debian $2 for $1 (once)" >&2
    rm -rf "${engine:?}/$1"
    debootstrap --variant=minbase ${3:+--include="$3"} "$2" "$engine/$1" >"$engine/$1.log" 2>&1 ||
        stop "debootstrap could not make it; see $engine/$1.log"
    touch "$engine/$1.made"
}

mkdir -p "$engine/bin"
exec 9>"$engine/lock"
flock --nonblock 9 || stop "Nothing was tested: another run uses $engine."
debian system trixie docker.io,docker-cli,docker-compose,iptables,iproute2,slirp4netns,ca-certificates
debian bookworm bookworm ""
debian trixie trixie ""

# answers: whether the engine is ready; it makes its socket earlier.
answers() {
    nsenter --target "$first" --mount --pid -- docker --host "unix://$engine/docker.sock" \
        info >/dev/null 2>&1
}

# What is started here ends with this script, whatever ends it.
rm -f "$engine/docker.sock"
setpriv --pdeathsig KILL unshare --mount --net --ipc --pid --fork --kill-child \
    "$here/engine.sh" "$engine" "$root" >"$engine/engine.log" 2>&1 &
parent=$!
first= network=
finish() {
    # With the first process of its namespaces all of them end.
    { kill -KILL ${first:-"$parent"} $network || true; wait; } 2>/dev/null
    find /sys/fs/cgroup -depth -type d -path '*/mycelium-engine*' -exec rmdir {} + 2>/dev/null || true
}
trap finish EXIT
for _ in $(seq 600); do
    first=$(tr -d ' ' 2>/dev/null <"/proc/$parent/task/$parent/children") || break
    [ -z "$first" ] || ! answers || break
    sleep 0.1
done
answers || stop "The engine did not start; see $engine/engine.log"

# The way out, for what the images install: a network in user mode, which changes nothing outside.
setpriv --pdeathsig KILL nsenter --target "$first" --mount -- slirp4netns --configure --mtu=65520 \
    --disable-host-loopback --netns-type=path /proc/1/ns/net tap0 >"$engine/network.log" 2>&1 &
network=$!

# The client runs beside the engine, in the folder where it was called.
cat >"$engine/bin/docker" <<CLIENT
#!/bin/sh
exec nsenter --target $first --mount --pid --net -- sh -c 'cd "\$0" && exec /usr/bin/docker "\$@"' "\$PWD" "\$@"
CLIENT
chmod 755 "$engine/bin/docker"
export PATH="$engine/bin:$PATH" DOCKER_HOST="unix://$engine/docker.sock"
"$here/make_images.sh" "$engine"
nsenter --target "$first" --net -- "$@"
