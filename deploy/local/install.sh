#!/usr/bin/env bash
# Puts in place what `make run` and `make test` need, and nothing a second time:
#   install.sh run     .venv with requirements.txt, and RabbitMQ
#   install.sh test    besides: requirements-dev.txt, the packages of the client for Python, Chromium
#                      and what else the tests drive
#   install.sh check   besides: package-lock.json, which has the definitions of Kubernetes' operators, and kubectl
#   install.sh bench   as check, and: benchmarks/requirements.txt and wrk
#   install.sh pictures as check, and: exporters for Prometheus
#   install.sh mutants as test, and: mutants/requirements.txt
#   install.sh cluster as test, and: what makes networks of namespaces, Patroni and etcd
# What is missing on the system is found first, all of it, and installed by one call of apt-get
# when we are root or may use sudo without a password; else named in one message.
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${1:-run}

stop() {
    echo "mycelium: $*" >&2
    exit 1
}

# The versions that all locks hold for; see pyproject.toml.
is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 /usr/bin/python3; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

venv_works() {
    is_supported .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1
}

can_make_venv() {
    "$1" -c 'import ensurepip' 2>/dev/null || "$1" -c 'import virtualenv' 2>/dev/null
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

# need PACKAGE FILE...: note the package as missing unless a command or file of these is there.
need() {
    local package=$1 file
    shift
    for file in "$@"; do
        if command -v "$file" >/dev/null || [ -e "$file" ]; then return; fi
    done
    missing+=("$package")
}

# Chromium, or what of it needs no screen, which Debian has as a package of its own.
need_browser() {
    if grep -qs '^ID=debian' /etc/os-release && may_install; then
        need chromium-headless-shell chromium-headless-shell
    else
        need chromium chromium-headless-shell chromium chromium-browser
    fi
}

find_missing() {
    local python
    missing=()
    if ! venv_works; then
        python=$(find_python)
        if [ -z "$python" ]; then
            missing+=(python3 python3-venv)
        elif ! can_make_venv "$python"; then
            # Debian keeps what `venv` needs in a package of its own.
            missing+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
        fi
    fi
    if [ "$mode" != run ]; then
        need git git
        need_browser
        # Playwright's own Node.js is linked against this.
        need libatomic1 /usr/lib/*/libatomic.so.1 /usr/lib64/libatomic.so.1 /usr/lib/libatomic.so.1
        need docker-compose docker-compose
        need haproxy haproxy /usr/sbin/haproxy
        # promtool, which checks names of metrics and tests the rules for alerts; no server runs.
        need prometheus promtool
    fi
    if [[ $mode = @(check|bench|pictures) ]]; then
        need npm npm
    fi
    if [ "$mode" = bench ]; then
        need wrk wrk
    fi
    if [ "$mode" = pictures ]; then
        need prometheus-postgres-exporter prometheus-postgres-exporter
        need prometheus-node-exporter prometheus-node-exporter
    fi
    if [ "$mode" = cluster ]; then
        need iproute2 ip
        need util-linux unshare
        need patroni patroni
        need etcd-server etcd
    fi
    # The tests need a server of their own; a run may use another broker, or an image.
    if [ "$mode" != run ] || { [ -z "${AMQP_URI:-}" ] && ! docker info >/dev/null 2>&1; }; then
        need rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server
    fi
}

install_missing() {
    find_missing
    [ "${#missing[@]}" -gt 0 ] || return 0
    if may_install && apt_install "${missing[@]}"; then find_missing; fi
    [ "${#missing[@]}" = 0 ] || stop "some system packages are missing: run" \
        "\`sudo apt-get install ${missing[*]}\` and try again." \
        "(Python 3.11 to 3.13 may be elsewhere: PYTHON=/path/to/python;" \
        "\`make run\` takes any RabbitMQ: AMQP_URI.)"
}

make_venv() {
    local python
    venv_works && return
    python=$(find_python)
    rm -rf .venv
    "$python" -m venv .venv >/dev/null 2>&1 && return
    rm -rf .venv
    "$python" -m virtualenv -q .venv || stop "$python cannot make a virtual environment."
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

# keep_lock LOCK FOLDER: have its packages there as files, for a test to install without a network.
keep_lock() {
    sha256sum --status -c "$2/lock.sha256" 2>/dev/null && return
    rm -rf "$2"
    .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-input \
        --require-hashes --only-binary :all: -d "$2" -r "$1" ||
        stop "the packages of $1 could not be loaded; the lines above say why."
    sha256sum "$1" >"$2/lock.sha256"
}

# install_node_modules: what package-lock.json has. Lighthouse is for a benchmark alone, uPlot for pictures, and npm takes all or nothing.
install_node_modules() {
    sha256sum --status -c node_modules/lock.sha256 2>/dev/null && return
    echo "mycelium: installing package-lock.json into node_modules (once)" >&2
    npm ci --ignore-scripts --no-fund --no-audit --loglevel=error >/dev/null ||
        stop "the packages of package-lock.json could not be installed; the lines above say why."
    sha256sum package-lock.json >node_modules/lock.sha256
}

install_missing
make_venv
install_lock requirements.txt --only-binary :all:
if [ "$mode" != run ]; then
    install_lock requirements-dev.txt --only-binary :all:
    keep_lock clients/python/requirements.txt .venv/client-packages
fi
if [[ $mode = @(check|bench|pictures) ]]; then
    install_node_modules
fi
# Its kubectl builds deploy/kubernetes as an operator's does.
[ "$mode" != check ] || install_lock deploy/kubernetes/requirements.txt --only-binary :all:
[ "$mode" != bench ] || install_lock benchmarks/requirements.txt
# Yattag comes as a source only.
[ "$mode" != mutants ] || install_lock mutants/requirements.txt --only-binary :all: --no-binary yattag
