#!/bin/sh
# The system in containers: start, status, logs, stop, backup, restore, rules. `make compose-...` calls it.
# COMPOSE names the command and its options, e.g. COMPOSE="docker compose -f docker-compose.yml -f docker-compose.demo.yml".
set -eu
cd "$(dirname "$0")/.."
COMPOSE=${COMPOSE:-docker compose}

compose() {
    # shellcheck disable=SC2086 # a command with options
    $COMPOSE "$@"
}

start() {
    if ! compose up --detach --wait; then
        compose ps --all
        compose logs --no-log-prefix --tail 5 prepare migrate >&2
        exit 1
    fi
    echo "Dagster    http://$(compose port dagster-webserver 3000)"
    echo "API        http://$(compose port api 8000)/docs"
    echo "Dashboard  http://$(compose port dashboard 8501)"
    echo "The API's token: $COMPOSE exec api cat /secrets/api_token"
}

status() {
    compose ps --all
    compose exec --no-TTY code-location cryptotrace doctor
}

# Runs are containers that Compose did not make; they have to go before the network can.
end_runs() {
    compose stop dagster-daemon
    project=$(compose config --format json | sed -n 's/^  "name": "\(.*\)",$/\1/p' | head -n 1)
    docker ps --quiet --filter label=cryptotrace.role=run --filter "label=cryptotrace.project=$project" \
        | xargs -r docker stop >/dev/null
}

backup() {
    folder=${1:-backups}
    mkdir -p "$folder"
    name=cryptotrace-$(date -u +%Y%m%dT%H%M%SZ).duckdb
    compose exec --no-TTY code-location sh -c "mkdir -p /data/backups && cryptotrace backup --json /data/backups/$name" \
        >"$folder/$name.json"
    compose exec --no-TTY code-location cat "/data/backups/$name" >"$folder/$name.part"
    compose exec --no-TTY code-location rm "/data/backups/$name"
    mv "$folder/$name.part" "$folder/$name"
    echo "$folder/$name"
}

restore() {
    file=${1:?name the backup file, as in: deploy/compose.sh restore backups/cryptotrace-....duckdb}
    compose stop feed code-location dagster-daemon dagster-webserver api dashboard >&2
    compose run --rm --no-TTY migrate sh -c '
        mkdir -p /data/backups && cat >/data/backups/incoming.duckdb
        cryptotrace restore --json --overwrite /data/backups/incoming.duckdb; code=$?
        rm /data/backups/incoming.duckdb; exit $code' <"$file"
}

case ${1:-} in
    start) start ;;
    status) status ;;
    logs) shift && compose logs --follow --tail 100 "$@" ;;
    stop) end_runs && compose down ;;
    backup) shift && backup "$@" ;;
    restore) shift && restore "$@" ;;
    rules) compose run --rm --no-TTY prepare ;; # checks alerts.toml and publishes it; wrong rules change nothing
    *) echo "usage: $0 start | status | logs [SERVICE...] | stop | backup [FOLDER] | restore FILE | rules" >&2 && exit 2 ;;
esac
