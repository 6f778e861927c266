# Postgres, Kafka and the schema registry of one directory. Sourced by ../dev.
#   DIR/ports        chosen once, so that a restart answers where the clients look
#   DIR/env          the addresses, as shell exports
#   DIR/<server>/    data; DIR/run/<server>.pid; DIR/logs/<server>.log
# Postgres' data may lie elsewhere (see postgres_home); DIR/postgres.home says where.
# shellcheck shell=bash

# mark SERVER: what the command line of this server of this directory holds, and of no other.
mark() {
    case $1 in
    postgres) echo "-D $(<"$DIR/postgres.home")" ;;
    *) echo "-Dmillrace.stack=$DIR/$1 " ;;
    esac
}

running() {
    if [[ $1 == postgres && ! -s $DIR/postgres.home ]]; then return 1; fi
    alive "$DIR/run/$1.pid" "$(mark "$1")"
}

servers_command() {
    local verb=${1:-} which=${3:-}
    [[ -n ${2:-} ]] || die "usage: ./dev servers start|stop|kill|keep DIR …"
    DIR=$(realpath -m -- "$2")
    shift 2
    case $verb in
    start)
        [[ $# == 0 || ($# == 2 && $1 == --ports && $2 =~ ^(free|default)$) ]] || die "usage: ./dev servers start DIR [--ports free|default]"
        server_prerequisites
        mkdir -p "$DIR"
        locked "$DIR/lock" start_servers "${2:-free}"
        ;;
    stop)
        [[ $# == 0 || ($# == 1 && $1 == --wipe) ]] || die "usage: ./dev servers stop DIR [--wipe]"
        [[ -d $DIR ]] || return 0
        locked "$DIR/lock" stop_servers "${1:-}"
        ;;
    kill)
        [[ $# == 1 && $which =~ ^(kafka|postgres|registry)$ ]] || die "usage: ./dev servers kill DIR kafka|postgres|registry"
        [[ -d $DIR ]] || die "no servers in $DIR"
        locked "$DIR/lock" kill_server "$which"
        ;;
    keep) keep_servers ;;
    *) die "usage: ./dev servers start|stop|kill|keep DIR …" ;;
    esac
}

# Serves a test process: a line `start`, `kill SERVER` on stdin is done and answered with `ok` or `failed`; when stdin ends, for
# whatever reason (a SIGKILL of the test too), the servers are stopped and wiped. One process does all of it in turn, so no start
# can come after the wipe.
keep_servers() {
    local verb which
    trap '' INT TERM HUP PIPE
    while read -r verb which; do
        # shellcheck disable=SC2086 # `start` has no second word
        if [[ $verb =~ ^(start|kill)$ ]] && "$ROOT/dev" servers "$verb" "$DIR" $which; then echo ok; else echo failed; fi 2>>"$DIR/dev.log" || true
    done
    "$ROOT/dev" servers stop "$DIR" --wipe 2>/dev/null
}

# --- ports ---

choose_ports() {
    local name port ports=() reserved=/tmp/millrace-ports-$EUID
    if [[ -s $DIR/ports ]]; then return; fi
    if [[ $1 == default ]]; then
        printf '%s\n' KIND=default KAFKA_PORT=19092 CONTROLLER_PORT=19093 REGISTRY_PORT=18081 POSTGRES_PORT=15432 >"$DIR/ports"
        return
    fi
    # Two stacks that start at once must not choose the same: a choice is written down, under a lock, until its directory goes.
    # Below 32768, where Linux takes the ports of outgoing connections from.
    exec 8>"$reserved.lock"
    flock 8
    if [[ -e $reserved ]]; then
        while read -r port name; do if [[ -d $name ]]; then echo "$port $name"; fi; done <"$reserved" >"$reserved.new"
        mv "$reserved.new" "$reserved"
    fi
    while ((${#ports[@]} < 4)); do
        port=$((20000 + RANDOM % 12000))
        if listening "$port" >/dev/null || grep -qs "^$port " "$reserved" || [[ " ${ports[*]} " == *" $port "* ]]; then continue; fi
        ports+=("$port")
    done
    for port in "${ports[@]}"; do echo "$port $DIR"; done >>"$reserved"
    exec 8>&-
    printf '%s\n' KIND=free "KAFKA_PORT=${ports[0]}" "CONTROLLER_PORT=${ports[1]}" "REGISTRY_PORT=${ports[2]}" "POSTGRES_PORT=${ports[3]}" >"$DIR/ports"
}

# A port that somebody else holds is an error that names him, before anything is started.
refuse_taken_ports() {
    local server port
    for server in postgres:$POSTGRES_PORT kafka:$KAFKA_PORT kafka:$CONTROLLER_PORT registry:$REGISTRY_PORT; do
        port=${server#*:}
        if ! running "${server%:*}" && listening "$port" >/dev/null; then
            die "port $port, which ${server%:*} needs, is held by $(holder "$port"); stop it and run this again"
        fi
    done
}

# --- Postgres ---

# Postgres refuses to run as root, so root runs it as `postgres`; sets AS_POSTGRES.
postgres_account() {
    AS_POSTGRES=()
    ((EUID == 0)) || return 0
    getent passwd postgres >/dev/null || useradd --system --no-create-home postgres
    AS_POSTGRES=(setpriv --reuid=postgres --regid="$(id -g postgres)" --init-groups --)
}

# Where the data lies: in DIR, unless DIR is behind a directory that the account cannot enter, as everything below /root is.
# Opening the user's directories for it would be worse than a place of its own.
postgres_home() {
    local home=$DIR/postgres
    if [[ -s $DIR/postgres.home ]]; then return; fi
    if ((EUID == 0)) && ! "${AS_POSTGRES[@]}" test -x "$DIR"; then
        home=/var/lib/millrace/postgres-$(printf %s "$DIR" | sha256sum | cut -c1-12)
        say "the postgres user cannot enter $DIR: Postgres keeps its data in $home"
    fi
    echo "$home" >"$DIR/postgres.home"
}

start_postgres() {
    local home options shared_buffers=128MB
    home=$(<"$DIR/postgres.home")
    if [[ $1 == default || ${MILLRACE_SERVERS:-} == full ]]; then shared_buffers=512MB; fi
    if [[ ! -e $home/initialised ]]; then
        rm -rf "$home"
        mkdir -p "$home"
        chmod 0700 "$home"
        if ((EUID == 0)); then chown postgres: "$home"; fi
        # --no-sync: `initialised` is written by a server that has synced all of it.
        (cd / && "${AS_POSTGRES[@]}" "$PG_BIN/initdb" -D "$home/data" -U millrace --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync) \
            >>"$DIR/logs/postgres.log" 2>&1 || die "initdb failed; see $DIR/logs/postgres.log"
    fi
    # No process of this directory is left (kill_postgres sees the orphans too), so this file is stale; the number in it may by
    # now be that of another server of this account, and Postgres would refuse to start.
    rm -f "$home/data/postmaster.pid"
    options=(-c "port=$POSTGRES_PORT" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200
        -c "shared_buffers=$shared_buffers" -c fsync=on -c synchronous_commit=on -c wal_level=replica -c max_wal_size=4GB
        -c log_line_prefix='%m [%p] %d ')
    (cd / && spawn "$DIR/run/postgres.pid" "$DIR/logs/postgres.log" "${AS_POSTGRES[@]}" "$PG_BIN/postgres" -D "$home/data" "${options[@]}")
}

psql_in() { PGCONNECT_TIMEOUT=5 "$PG_BIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$POSTGRES_PORT" -U millrace "$@"; }
postgres_answers() { [[ $(psql_in -d postgres -c 'SELECT 1' 2>/dev/null) == 1 ]]; }

prepare_databases() {
    local name
    for name in millrace views registry; do
        [[ -n $(psql_in -d postgres -c "SELECT 1 FROM pg_database WHERE datname = '$name'") ]] ||
            psql_in -d postgres -c "CREATE DATABASE $name"
    done
    touch "$(<"$DIR/postgres.home")/initialised"
}

# The postmaster and all its backends, recognised by their working directory, which is the data directory.
postgres_processes() {
    find /proc -maxdepth 2 -path '/proc/[0-9]*/cwd' -lname "$(readlink -m "$(<"$DIR/postgres.home")/data")*" -printf '%h\n' 2>/dev/null | sed 's|/proc/||' || true
}

kill_postgres() {
    local pids
    [[ -s $DIR/postgres.home ]] || return 0
    # The postmaster first: a dead one forks no more backends.
    if running postgres; then kill -s KILL "$(<"$DIR/run/postgres.pid")" 2>/dev/null || true; fi
    while pids=$(postgres_processes) && [[ -n $pids ]]; do
        # shellcheck disable=SC2086
        kill -s KILL $pids 2>/dev/null || true
        sleep 0.05
    done
    rm -f "$DIR/run/postgres.pid"
}

# --- Kafka and the registry ---

start_kafka() {
    local home=$DIR/kafka jvm=(-Xmx1g) # as the stock start script has it; the cleaner's buffer alone takes 128 MB
    # A test's broker lives for seconds: it is quicker there without the optimising compiler's start-up work. The bench wants all of it.
    if [[ $1 == free && ${MILLRACE_SERVERS:-} != full ]]; then jvm+=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1); fi
    mkdir -p "$home"
    sed -e "s|@KAFKA_PORT@|$KAFKA_PORT|g" -e "s|@CONTROLLER_PORT@|$CONTROLLER_PORT|g" -e "s|@DATA@|$home/data|" \
        "$ROOT/stack/server.properties" >"$home/server.properties"
    if [[ ! -e $home/data/meta.properties ]]; then
        "$JAVA" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$JARS/kafka/*" "-Dlog4j2.configurationFile=$ROOT/stack/log4j2.properties" \
            kafka.tools.StorageTool format -t "$(</proc/sys/kernel/random/uuid)" -c "$home/server.properties" >>"$DIR/logs/kafka.log" 2>&1 9>&- ||
            die "the broker's storage could not be formatted; see $DIR/logs/kafka.log"
    fi
    spawn "$DIR/run/kafka.pid" "$DIR/logs/kafka.log" "$JAVA" "-Dmillrace.stack=$home" "${jvm[@]}" \
        "-Dlog4j2.configurationFile=$ROOT/stack/log4j2.properties" -cp "$JARS/kafka/*" kafka.Kafka "$home/server.properties"
}

# On Postgres and not in memory: a registry that forgot its ids would leave every stored event unreadable.
start_registry() {
    spawn "$DIR/run/registry.pid" "$DIR/logs/registry.log" "$JAVA" "-Dmillrace.stack=$DIR/registry" -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -Dquarkus.http.host=127.0.0.1 "-Dquarkus.http.port=$REGISTRY_PORT" \
        -Dapicurio.storage.kind=sql -Dapicurio.storage.sql.kind=postgresql \
        "-Dapicurio.datasource.url=jdbc:postgresql://127.0.0.1:$POSTGRES_PORT/registry" \
        -Dapicurio.datasource.jdbc.initial-size=2 -Dapicurio.datasource.jdbc.min-size=2 -Dapicurio.datasource.jdbc.max-size=10 \
        -Dapicurio.datasource.username=millrace -Dapicurio.datasource.password=millrace \
        -jar "$JARS"/registry/apicurio-registry-app-*-runner.jar
}

registry_answers() { [[ $(http_status "$REGISTRY_PORT" /apis/ccompat/v7/subjects) == 200 ]]; }

# --- all three ---

start_servers() {
    local begun=$SECONDS kafka=
    mkdir -p "$DIR/logs" "$DIR/run"
    choose_ports "$1" # only the first start of DIR chooses, the kind too
    # shellcheck disable=SC1091
    . "$DIR/ports"
    postgres_account
    postgres_home
    refuse_taken_ports
    if ! running kafka; then
        start_kafka "$KIND" &
        kafka=$!
    fi
    if ! running postgres; then
        kill_postgres
        start_postgres "$KIND"
    fi
    until_answers Postgres 30 "$DIR/run/postgres.pid" "$DIR/logs/postgres.log" postgres_answers
    prepare_databases
    running registry || start_registry
    if [[ -n $kafka ]]; then wait "$kafka" || die "Kafka did not start"; fi
    # After a kill it looks through every partition first: a minute and more for a thousand of them on a slow disk.
    until_answers Kafka 240 "$DIR/run/kafka.pid" "$DIR/logs/kafka.log" kafka_answers "$KAFKA_PORT"
    until_answers "the schema registry" 60 "$DIR/run/registry.pid" "$DIR/logs/registry.log" registry_answers
    write_env
    say "Kafka 127.0.0.1:$KAFKA_PORT, schema registry 127.0.0.1:$REGISTRY_PORT, Postgres 127.0.0.1:$POSTGRES_PORT answer ($((SECONDS - begun)) s)"
}

write_env() {
    cat >"$DIR/env.new" <<EOF
export KAFKA_BOOTSTRAP=127.0.0.1:$KAFKA_PORT
export SCHEMA_REGISTRY_URL=http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7
export DATABASE_URL=postgres://millrace@127.0.0.1:$POSTGRES_PORT/millrace
export VIEWS_DATABASE_URL=postgres://millrace@127.0.0.1:$POSTGRES_PORT/views
EOF
    mv "$DIR/env.new" "$DIR/env"
}

stop_servers() {
    local server
    if [[ ${1:-} == --wipe ]]; then
        for server in registry kafka; do kill_server "$server"; done
        kill_postgres
        # Only what `start` made: DIR may hold other things, as .millrace does.
        if [[ -s $DIR/postgres.home ]]; then rm -rf -- "$(<"$DIR/postgres.home")"; fi
        rm -rf -- "$DIR"/{kafka,registry,postgres.home,ports,env,dev.log,run,lock} "$DIR"/logs/{kafka,registry,postgres}.log
        rmdir -- "$DIR/logs" "$DIR" 2>/dev/null || true
        return
    fi
    for server in registry kafka; do end "$DIR/run/$server.pid" "$(mark "$server")" TERM 20; done
    # INT: Postgres ends its sessions and writes a checkpoint; TERM would wait for the sessions to leave by themselves.
    if running postgres; then end "$DIR/run/postgres.pid" "$(mark postgres)" INT 20; fi
    kill_postgres
}

kill_server() {
    case $1 in
    postgres) kill_postgres ;;
    *) end "$DIR/run/$1.pid" "$(mark "$1")" KILL 10 ;;
    esac
}
