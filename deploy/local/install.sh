#!/usr/bin/env bash
# Puts in place what `make run` and `make test` need, and nothing a second time:
#   install.sh run     .venv with requirements.txt, and RabbitMQ
#   install.sh test    besides: requirements-dev.txt, Chromium, docker-compose
#   install.sh bench   besides: benchmarks/requirements.txt
#   install.sh mutants besides: mutants/requirements.txt
# System packages come from apt-get, when we are root or may use sudo without a password.
set -euo pipefail
cd "$(dirname "$0")/../.."

stop() {
    echo "mycelium: $*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 /usr/bin/python3.11 python3 /usr/bin/python3; do
        if [ -n "$candidate" ] && "$candidate" -c \
            'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    stop "Python 3.11 is needed: install it, or name it with PYTHON=/path/to/python3.11."
}

may_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# apt_install PACKAGE...: install without starting any service that comes with it.
apt_install() {
    local as_root=() policy=/usr/sbin/policy-rc.d made_policy=
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    echo "mycelium: installing $* with apt-get" >&2
    if [ ! -e "$policy" ]; then
        # Debian asks this script before it starts a new service; 101 forbids it.
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
        made_policy=yes
    fi
    local status=0
    { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null || status=$?
    [ -z "$made_policy" ] || "${as_root[@]}" rm -f "$policy"
    return $status
}

# need_package FILE PACKAGE WHY: install the package unless its file is there.
need_package() {
    local file=$1 package=$2 why=$3
    command -v "$file" >/dev/null && return
    [ -e "$file" ] && return
    if may_install && apt_install "$package"; then return; fi
    stop "$why: run \`sudo apt-get install $package\` and try again."
}

make_venv() {
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null &&
        .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    local python
    python=$(find_python)
    rm -rf .venv
    "$python" -m venv .venv >/dev/null 2>&1 && return
    # Debian keeps what `venv` needs in a package of its own.
    rm -rf .venv
    if may_install && apt_install python3.11-venv; then
        "$python" -m venv .venv && return
    fi
    "$python" -m virtualenv -q .venv 2>/dev/null && return
    stop "Python cannot make a virtual environment: run \`sudo apt-get install python3.11-venv\`."
}

# install_lock LOCK [OPTION...]: install exactly what it says, unless that was done before.
install_lock() {
    local lock=$1 stamp
    shift
    stamp=.venv/${lock//\//-}.sha256
    sha256sum --status -c "$stamp" 2>/dev/null && return
    echo "mycelium: installing $lock into .venv (once)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
        --require-hashes "$@" -r "$lock" ||
        stop "the packages of $lock could not be installed; the lines above say why."
    sha256sum "$lock" >"$stamp"
}

make_venv
mode=${1:-run}
install_lock requirements.txt --only-binary :all:
if [ "$mode" = bench ]; then
    install_lock benchmarks/requirements.txt
    mode=test
fi
if [ "$mode" = mutants ]; then
    install_lock mutants/requirements.txt --only-binary :all:
    mode=test
fi
if [ "$mode" = test ]; then
    install_lock requirements-dev.txt --only-binary :all:
    need_package chromium chromium "The tests drive the website in Chromium"
    need_package docker-compose docker-compose "The tests check docker-compose.yml"
    need_package /usr/sbin/haproxy haproxy "The tests run the proxy of docker-compose.yml"
    unset AMQP_URI
fi
if [ -z "${AMQP_URI:-}" ] && ! [ -e /usr/lib/rabbitmq/bin/rabbitmq-server ] &&
    { [ "$mode" = test ] || ! docker info >/dev/null 2>&1; }; then
    need_package rabbitmq-server rabbitmq-server "RabbitMQ is not installed (or set AMQP_URI)"
fi
