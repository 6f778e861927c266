#!/usr/bin/env bash
# The stack of docker-compose.yml as an operator uses it: up, orders in, roles killed while they come, stock tools, counts, down.
#   tests/compose.sh [BASKETS.ndjson]      plain order records; without it 1,000 made here
# Needs Docker with Compose v2 and an image millrace:0.1.0 (`docker compose build`); its own project name, volumes and ports.
# Prints every command with its output, and ends with exit 1 at the first check that does not hold.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

export COMPOSE_PROJECT_NAME=millrace-test-$$ COMPOSE_PROGRESS=quiet
BASKETS=${1:-../shared/data/baskets.ndjson}
WORK=$(mktemp -d /tmp/millrace-compose-XXXXXX)
trap 'leave' EXIT

leave() {
    local code=$?
    if ((code)); then docker compose logs --tail 30 || true; fi
    docker compose down --volumes --timeout 30
    rm -rf "$WORK"
    exit "$code"
}

title() { printf '\n## %s\n' "$*"; }
show() {
    if [[ $1 == tool ]]; then
        printf '$ docker compose exec -T kafka /opt/kafka/bin/kafka-%s.sh --bootstrap-server localhost:9092 %s\n' "$2" "${*:3}"
    else
        printf '$ %s\n' "$*"
    fi
    "$@"
}

# holds WHAT EXPECTED FOUND
holds() {
    if [[ $2 == "$3" ]]; then printf 'ok: %s: %s\n' "$1" "$3"; else
        printf 'FAILED: %s: expected %s, found %s\n' "$1" "$2" "$3"
        exit 1
    fi
}

# until_is SECONDS EXPECTED COMMAND…: polls until COMMAND prints EXPECTED.
until_is() {
    local deadline=$((SECONDS + $1)) expected=$2 found=
    shift 2
    until found=$("$@" 2>/dev/null) && [[ $found == "$expected" ]]; do
        if ((SECONDS >= deadline)); then
            printf 'FAILED: expected %s, found %s of: %s\n' "$expected" "$found" "$*"
            exit 1
        fi
        sleep 0.2
    done
}

# at_least SECONDS NUMBER COMMAND…
at_least() {
    local deadline=$((SECONDS + $1)) least=$2 found=0
    shift 2
    until found=$("$@" 2>/dev/null) && ((${found:-0} >= least)); do
        ((SECONDS < deadline)) || { printf 'FAILED: %s stands at %s\n' "$*" "$found"; exit 1; }
        sleep 0.1
    done
}

views() { docker compose exec -T postgres psql -X -q -A -t -U millrace -d views -c "$1"; }
journal() { docker compose exec -T postgres psql -X -q -A -t -U millrace -d millrace -c "$1"; }
tool() { docker compose exec -T kafka "/opt/kafka/bin/kafka-$1.sh" --bootstrap-server localhost:9092 "${@:2}"; }
container() { docker compose ps --all --quiet "$1"; }
restarts() { docker inspect --format '{{.RestartCount}}' "$(container "$1")"; }
health() { docker inspect --format '{{.State.Health.Status}}' "$(container "$1")"; }

# As the process's own end by SIGKILL, and not `docker kill`: that one is an operator's word, which no restart policy overrules.
crash() { docker compose exec -T "$1" bash -c 'kill -KILL -1' || true; }

# One number of an instant query, by Prometheus' own tool.
query() {
    docker compose exec -T prometheus promtool query instant http://localhost:9090 "$1" | sed -nE 's/.*=> ([0-9.]+) @.*/\1/p'
}
query_rules() {
    docker compose exec -T prometheus promtool check rules /etc/prometheus/alerts.yml | sed -nE 's/.*SUCCESS: ([0-9]+) rules.*/\1/p'
}

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

if [[ ! -e $BASKETS && $# == 0 ]]; then
    BASKETS=$WORK/baskets.ndjson
    for ((i = 1; i <= 1000; i++)); do
        printf '{"order_id":"%d","customer_id":"c%d","currency":"EUR","lines":[{"product_id":"tea","quantity":1,"total_cents":%d}]}\n' \
            "$i" $((i % 50)) $((100 + i))
    done >"$BASKETS"
fi
# What the domain must refuse: a line of nothing, or of less than that.
grep -vE '"quantity":(0|-)' "$BASKETS" >"$WORK/valid"
ORDERS=$(wc -l <"$WORK/valid")
REFUSED=$(($(wc -l <"$BASKETS") - ORDERS))
CENTS=$(grep -o '"total_cents":[0-9]*' "$WORK/valid" | awk -F: '{ sum += $2 } END { print sum }')
for name in MILLRACE_PORT KAFKA_PORT REGISTRY_PORT POSTGRES_PORT PROMETHEUS_PORT; do export "$name=$(free_port)"; done

title "Up"
begun=$SECONDS
show docker compose up --detach --wait
echo "every service is healthy after $((SECONDS - begun)) s"
show docker compose ps --format 'table {{.Service}}\t{{.Image}}\t{{.Status}}'
for role in producer processors projections; do
    holds "user of $role" 10001 "$(docker compose exec -T "$role" id -u)"
    show docker compose exec -T "$role" millrace health
done

title "$ORDERS orders and $REFUSED to refuse; every role killed while they come"
docker compose run --rm --no-deps -T producer send - --as order.PlaceOrder --id order_id <"$BASKETS" >"$WORK/sent" 2>&1 &
sender=$!
at_least 60 $((ORDERS / 10)) journal 'SELECT count(*) FROM events'
echo "events in the journal: $(journal 'SELECT count(*) FROM events'); SIGKILL to the producer"
crash producer
at_least 60 $((ORDERS / 3)) journal 'SELECT count(*) FROM events'
echo "events in the journal: $(journal 'SELECT count(*) FROM events'); SIGKILL to the projections"
crash projections
at_least 60 $((ORDERS / 2)) views 'SELECT count(*) FROM views.orders'
echo "orders in the view: $(views 'SELECT count(*) FROM views.orders'); SIGKILL to the processors"
crash processors
wait "$sender" || true # exit 1 where a line was refused; the counts below say which it was
echo '$ docker compose run --rm --no-deps -T producer send - --as order.PlaceOrder --id order_id <baskets.ndjson'
cat "$WORK/sent"
read -r accepted repeated refused < <(sed -nE 's/.*accepted ([0-9]+), repeated ([0-9]+), refused ([0-9]+).*/\1 \2 \3/p' "$WORK/sent")
holds "accepted, or repeated because the answer had died with the producer" "$ORDERS" $((${accepted:-0} + ${repeated:-0}))
holds "refused" "$REFUSED" "${refused:-none}"
for role in producer processors projections; do
    until_is 60 healthy health "$role"
    holds "restarts of $role by policy" 1 "$(restarts "$role")"
done

title "Counts"
until_is 60 "$ORDERS" views 'SELECT count(*) FROM views.orders'
until_is 60 "$ORDERS" views 'SELECT sum(orders) FROM views.customer_totals'
# Nothing here was ever put on stock, so every reservation is made: each order goes out to its products and comes back confirmed.
until_is 300 "$ORDERS" views "SELECT count(*) FROM views.orders WHERE status = 'confirmed'"
holds "orders in the view, all confirmed" "$ORDERS" "$(views 'SELECT count(*) FROM views.orders')"
holds "cents in the orders" "$CENTS" "$(views 'SELECT sum(total_cents) FROM views.orders')"
holds "cents in the customers' totals, as in the file" "$CENTS" "$(views 'SELECT sum(total_cents) FROM views.customer_totals')"
tool console-consumer --topic order.events --from-beginning --isolation-level read_committed --timeout-ms 10000 \
    --formatter-property print.headers=true --formatter-property print.value=false >"$WORK/events" 2>"$WORK/events.err" || true
grep -a 'ce_type:order.placed' "$WORK/events" | grep -ao 'ce_id:[0-9a-f-]*' >"$WORK/ids" || { cat "$WORK/events.err"; exit 1; }
holds "orders placed in Kafka, by the console consumer" "$ORDERS" "$(wc -l <"$WORK/ids")"
holds "of these, different ids" "$ORDERS" "$(sort -u "$WORK/ids" | wc -l)"
show docker compose exec -T producer millrace status

title "The stock tools"
show tool topics --list
show tool consumer-groups --list
show docker compose exec -T producer millrace pause customer-totals
show tool consumer-groups --group millrace.view.customer-totals --topic order.events --reset-offsets --to-earliest --execute
builds='SELECT viewdef FROM (SELECT pg_get_viewdef('"'views.customer_totals'"'::regclass) AS viewdef) AS x'
before=$(views "$builds")
show docker compose exec -T producer millrace resume customer-totals
deadline=$((SECONDS + 60))
until [[ $(views "$builds") != "$before" ]]; do
    ((SECONDS < deadline)) || { echo "FAILED: the reset did not lead to a new build"; exit 1; }
    sleep 0.2
done
holds "cents in the customers' totals after the rebuild" "$CENTS" "$(views 'SELECT sum(total_cents) FROM views.customer_totals')"
show tool consumer-groups --describe --group millrace.view.customer-totals

title "docker kill is the operator's word: the policy leaves it, up does not"
show docker compose kill projections
holds "state" exited "$(docker inspect --format '{{.State.Status}}' "$(container projections)")"
show docker compose up --detach --wait
holds "health" healthy "$(health projections)"
holds "orders in the view" "$ORDERS" "$(views 'SELECT count(*) FROM views.orders')"

title "The servers' containers made anew: everything is in the volumes"
show docker compose down
show docker compose up --detach --wait
holds "orders in the view" "$ORDERS" "$(views 'SELECT count(*) FROM views.orders')"
show docker compose exec -T producer millrace status
docker compose run --rm --no-deps -T producer send - --as order.PlaceOrder --id order_id <"$WORK/valid" | tee "$WORK/again"
holds "sent again, all repeated" 1 "$(grep -c "accepted 0, repeated $ORDERS, refused 0" "$WORK/again" || true)"
holds "orders in the view" "$ORDERS" "$(views 'SELECT count(*) FROM views.orders')"

title "Metrics"
if docker image inspect prom/prometheus:v3.5.0 >/dev/null 2>&1; then
    show docker compose --profile metrics up --detach --wait prometheus
    until_is 60 3 query 'count(up{job="millrace"} == 1)'
    echo "ok: prometheus scrapes the three roles"
    holds "alert rules loaded" "$(grep -c '^ *- alert:' ops/alerts.yml)" "$(query_rules)"
else
    echo "prom/prometheus is not here: skipped"
fi

title "Down"
printf '\nall checks hold\n'
