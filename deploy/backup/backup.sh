#!/usr/bin/env bash
# Backups of the database server, all databases at one moment, with PostgreSQL's own tools:
#   backup.sh follow DIRECTORY                    receives the log, for as long as it runs
#   backup.sh base DIRECTORY                      a base backup, verified
#   backup.sh restore DIRECTORY DATA [TIME]       a server's data, as of the last thing received or of TIME
#   backup.sh drill DIRECTORY DATA COMMAND...     tries a restore: into DATA, which is not there yet, has COMMAND look
#                                                 at it, and removes it
#   backup.sh prune DIRECTORY NAME                removes what is older than the backup NAME, which somebody
#                                                 has restored and verified
# Where the server is, PGHOST, PGPORT, PGUSER and PGPASSWORD say. docs/backups.md tells the rest.
set -euo pipefail

SLOT=mycelium_backup
EXPECTED=${BACKUP_EXPECTS:-wallet catalog billing topup legacy analytics gateway}

stop() {
    echo "backup: $*" >&2
    exit 1
}

follow() {
    mkdir -p "$1/wal"
    # The slot keeps the log for us while we are away, so that there is no gap.
    pg_receivewal --directory "$1/wal" --slot "$SLOT" --create-slot --if-not-exists
    exec pg_receivewal --directory "$1/wal" --slot "$SLOT" --synchronous
}

base() {
    local name draft
    draft=$1/base/draft
    rm -rf "$draft"
    mkdir -p "$1/base"
    # With the log that it needs itself: it is whole without any other file.
    pg_basebackup --pgdata "$draft" --wal-method stream --checkpoint fast --manifest-checksums SHA256
    pg_verifybackup --quiet "$draft"
    name=$(date -u +%Y%m%dT%H%M%SZ)
    # Under its name there are whole ones only.
    mv "$draft" "$1/base/$name"
    succeeded "$1" backup "When a base backup was last made and found whole."
    echo "$name"
}

# For the textfile collector of node_exporter, which reads whole files alone: DIRECTORY WHAT MEANING.
succeeded() {
    local metric=mycelium_$2_last_success_timestamp_seconds file=$1/metrics/$2.prom
    mkdir -p "$1/metrics"
    printf '# HELP %s %s\n# TYPE %s gauge\n%s %s\n' "$metric" "$3" "$metric" "$metric" "$(date +%s)" >"$file.draft"
    chmod 644 "$file.draft"
    mv "$file.draft" "$file"
}

# The newest base backup, or the newest that was whole by a time.
newest() {
    local before=99999999T999999Z
    [ -z "$2" ] || before=$(date -u -d "$2" +%Y%m%dT%H%M%SZ)
    find "$1/base" -mindepth 1 -maxdepth 1 -type d -name '*Z' -printf '%f\n' | sort |
        awk -v before="$before" '$0 <= before' | tail -n 1
}

restore() {
    local directory data=${2%/} until=${3:-} name last port=${PGPORT:-5432} state=
    directory=$(cd "$1" && pwd)
    [ ! -e "$data" ] || stop "$data exists: a backup is restored beside what there is, never over it."
    name=$(newest "$directory" "$until")
    [ -n "$name" ] || stop "there is no base backup${until:+ from before $until} in $directory/base."
    last=$(find "$directory/wal" -maxdepth 1 -type f -regextype posix-extended -regex '.*/[0-9A-F]{24}' -printf '%f\n' 2>/dev/null | sort | tail -n 1) || true
    cp -a "$directory/base/$name" "$data"
    chmod 700 "$data"
    {
        # What is received at this moment is in a file that is named .partial, until it is whole. The log ends with what
        # is not there; what is there and cannot be read (255) ends the restore.
        echo "restore_command = 'f=\"$directory/wal/%f\"; [ -e \"\$f\" ] || [ -e \"\$f.partial\" ] || [ -e \"\$f\" ] || exit 1; cp \"\$f\" \"%p\" 2>/dev/null || cp \"\$f.partial\" \"%p\" 2>/dev/null || cp \"\$f\" \"%p\" || exit 255'  # restoring"
        echo "recovery_target_timeline = 'latest'  # restoring"
        [ -z "$until" ] || echo "recovery_target_time = '$until'  # restoring"
        [ -z "$until" ] || echo "recovery_target_action = 'promote'  # restoring"
        # Nothing follows this server yet, and it would wait for that with every commit.
        echo "synchronous_standby_names = ''"
    } >>"$data/postgresql.auto.conf"
    touch "$data/recovery.signal"
    # A time that the log does not reach ends this with an error, not with an older state.
    start "$data" "$port" || stop "it could not be restored: $(tail -n 3 "$data.log")"
    while [ "$state" != "in production" ]; do
        pg_ctl --pgdata "$data" status >/dev/null || stop "it could not be restored: $(tail -n 3 "$data.log")"
        state=$(pg_controldata "$data" | sed -n 's/^Database cluster state: *//p')
        sleep 0.2
    done
    expect "$port"
    [ -n "$until" ] || reaches "$data" "$port" "$last"
    pg_ctl --pgdata "$data" --silent --wait --mode fast stop
    sed -i '/# restoring$/d' "$data/postgresql.auto.conf"
    echo "restored $name to ${until:-the last of the log} in $data"
}

start() {
    pg_ctl --pgdata "$1" --log "$1.log" --silent --wait --timeout 3600 \
        --options "-p $2 -c listen_addresses=127.0.0.1 -c unix_socket_directories=" start
}

# The command finds the restored server by libpq's variables, and by DATABASE_URL the first of its databases.
drill() {
    local directory=$1 data=${2%/} port=${PGPORT:-5432}
    shift 2
    [ ! -e "$data" ] || stop "$data exists: a drill makes its own, and removes it."
    # shellcheck disable=SC2064 - where it is now
    trap "end '$data'" EXIT
    restore "$directory" "$data"
    start "$data" "$port" || stop "it was restored and does not start: $(tail -n 3 "$data.log")"
    PGHOST=127.0.0.1 PGPORT=$port DATABASE_URL=postgresql+psycopg2:///${EXPECTED%% *} "$@" ||
        stop "it was restored, and '$*' found it wrong."
    succeeded "$directory" restore "When a backup was last restored and found right."
}

end() {
    pg_ctl --pgdata "$1" --silent --wait --mode immediate stop 2>/dev/null || true
    rm -rf "$1" "$1.log"
}

# All databases are there, each with its tables: an empty server is no backup.
expect() {
    local database
    for database in $EXPECTED; do
        PGHOST=127.0.0.1 PGPORT=$1 psql --no-psqlrc --quiet --tuples-only --dbname "$database" \
            --command 'SELECT version_num FROM alembic_version' >/dev/null ||
            stop "the database $database is not in the backup."
    done
}

# Recovery went as far as the last file that was whole before it began: where one is missing in the middle, it ends
# there in silence.
reaches() {
    local timeline position file
    read -r timeline position _ < <(tail -n 1 "$(find "$1/pg_wal" -name '*.history' | sort | tail -n 1)")
    file=$(PGHOST=127.0.0.1 PGPORT=$2 psql --no-psqlrc --quiet --tuples-only --no-align --dbname postgres \
        --command "SELECT substr(pg_walfile_name('$position'), 9)")
    file=$(printf '%08X' "$timeline")$file
    [[ ! $file < $3 ]] || stop "the log ends in $file, while there is $3: what comes between is missing."
}

prune() {
    local first
    # As it is in base/, to the letter: what is older is found by comparing names, and a slash at the end would make
    # the backup older than itself. A draft is no backup.
    [[ $2 =~ ^[0-9]{8}T[0-9]{6}Z$ ]] || stop "$2 is no name of a base backup, such as 20261129T020000Z."
    [ -f "$1/base/$2/backup_label" ] || stop "there is no base backup $2 in $1/base."
    first=$(sed -n 's/^START WAL LOCATION: .* (file \(.*\))$/\1/p' "$1/base/$2/backup_label")
    [ -n "$first" ] || stop "$1/base/$2/backup_label does not say where its log starts."
    find "$1/base" -mindepth 1 -maxdepth 1 -type d -name '*Z' -printf '%f\n' |
        awk -v kept="$2" '$0 < kept' | while read -r name; do rm -rf "$1/base/$name"; done
    pg_archivecleanup "$1/wal" "$first"
}

case "${1:-} $#" in
"follow 2") follow "$2" ;;
"base 2") base "$2" ;;
"restore 3" | "restore 4") restore "$2" "$3" "${4:-}" ;;
"prune 3") prune "$2" "$3" ;;
"drill "[4-9]*) drill "${@:2}" ;;
*) stop "follow DIRECTORY | base DIRECTORY | restore DIRECTORY DATA [TIME] | drill DIRECTORY DATA COMMAND... | prune DIRECTORY NAME" ;;
esac
