#!/bin/sh
# engine.sh ENGINE ROOT: the first process of a stand-in engine, in namespaces of its own. Its root
# becomes the Debian in ENGINE/system (not by chroot: runc, which runs health checks, follows mounts
# up to the real root). ROOT, our own folder, keeps its name, so that what is mounted into
# containers from it is found.
set -eu
engine=$1 root=$2 system=$1/system

mount --bind "$system" "$system"
mkdir -p "$system$root" "$engine/docker"
mount --bind "$root" "$system$root"
mount --rbind /dev "$system/dev"
mount --rbind /sys "$system/sys"
mount -t proc proc "$system/proc"
mount -t tmpfs tmpfs "$system/run"
mount -t tmpfs tmpfs "$system/tmp"
cp /etc/resolv.conf "$system/etc/resolv.conf"
mkdir -p "$system/old"
pivot_root "$system" "$system/old"
cd /
umount -l /old
ip link set lo up
# The name server is the one of slirp4netns.
exec dockerd --host "unix://$engine/docker.sock" --data-root "$engine/docker" \
    --dns 10.0.2.3 --cgroup-parent /mycelium-engine
