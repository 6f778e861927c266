# What a machine needs beside Rust, and how it gets it. Sourced by ../dev.
# shellcheck shell=bash

# as_root COMMAND…: runs it, by sudo if need be; fails if this user cannot become root.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
        sudo "$@"
    else
        return 77
    fi
}

install_packages() {
    local refused=0
    command -v apt-get >/dev/null || die "missing on this machine: $*; it has no apt-get, so install their equivalents and run this again"
    as_root true || refused=1
    ((refused == 0)) || die "missing packages and no way to become root; run this as root, then try again: apt-get install -y $*"
    say "installing $* (apt)"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# A JVM of 17 or newer: JAVA_HOME's, the PATH's, or any that is installed. Sets JAVA.
find_java() {
    local candidate major
    for candidate in "${JAVA_HOME:-/nonexistent}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
        [[ -x $candidate ]] || continue
        major=$("$candidate" -version 2>&1 | sed -nE '1s/.*version "([0-9]+).*/\1/p')
        if ((${major:-0} >= 17)); then
            JAVA=$candidate
            return 0
        fi
    done
    return 1
}

# Postgres 14 or newer, the server's programs. Sets PG_BIN.
find_postgres() {
    local candidate major
    for candidate in $(compgen -G '/usr/lib/postgresql/*/bin' | sort -rV) "$(pg_config --bindir 2>/dev/null || true)" \
        "$(dirname "$(command -v postgres || echo /nonexistent/postgres)")"; do
        [[ -x $candidate/postgres && -x $candidate/initdb ]] || continue
        major=$("$candidate/postgres" --version | sed -nE 's/.* ([0-9]+).*/\1/p')
        if ((${major:-0} >= 14)); then
            PG_BIN=$candidate
            return 0
        fi
    done
    return 1
}

# The newest-tested JVM that this release of the distribution offers.
java_package() {
    local release
    for release in 17 21 25; do
        if apt-cache show "openjdk-$release-jre-headless" >/dev/null 2>&1; then
            echo "openjdk-$release-jre-headless"
            return
        fi
    done
    echo default-jre-headless
}

refresh_package_lists() {
    command -v apt-get >/dev/null || return 0
    if as_root true; then
        say "refreshing the package lists (apt)"
        as_root apt-get update -qq >/dev/null
    fi
}

# server_prerequisites: Java, Postgres, and the jars with what fetches them.
server_prerequisites() {
    local missing=() cluster_conf=/etc/postgresql-common/createcluster.d/millrace.conf
    find_java || missing+=(java)
    find_postgres || missing+=(postgresql)
    jars_present || command -v mvn >/dev/null || missing+=(maven)
    if ((${#missing[@]})); then
        refresh_package_lists
        if [[ ${missing[0]} == java ]]; then missing[0]=$(java_package); fi
        # Debian's package starts a cluster of its own on 5432, which nobody here asked for.
        if [[ " ${missing[*]} " == *" postgresql "* ]] && as_root mkdir -p "${cluster_conf%/*}"; then
            echo 'create_main_cluster = false' | as_root tee "$cluster_conf" >/dev/null
        fi
        install_packages "${missing[@]}"
        as_root rm -f "$cluster_conf"
        find_java || die "no Java 17 or newer found after installing ${missing[*]}; set JAVA_HOME to one"
        find_postgres || die "no Postgres 14 or newer found after installing ${missing[*]}"
    fi
    jars_present || locked "$ROOT/.millrace/stack.lock" fetch_jars
}

# build_prerequisites: what compiling librdkafka, OpenSSL and zstd takes, and cargo.
build_prerequisites() {
    local missing=() tool
    for tool in cc:gcc c++:g++ cmake:cmake make:make perl:perl pkg-config:pkg-config; do
        command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    if [[ ! -e /usr/include/string.h ]]; then missing+=(libc6-dev); fi
    # For sqlx's macros, which run in the compiler and do not see that the program has an OpenSSL of its own.
    if [[ -z ${OPENSSL_DIR:-} ]] && ! pkg-config --exists openssl 2>/dev/null; then missing+=(libssl-dev); fi
    if ((${#missing[@]})); then
        refresh_package_lists
        install_packages "${missing[@]}"
    fi
    if ! command -v cargo >/dev/null; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
        command -v cargo >/dev/null || die "cargo is not installed; install Rust with rustup (https://rustup.rs) and run this again"
    fi
}

# The jars are those of this pom.xml: by its content, since a checkout gives files new times.
jars_present() { [[ -s $JARS/complete && $(<"$JARS/complete") == "$(sha256sum <"$ROOT/stack/pom.xml")" ]]; }

fetch_jars() {
    local fresh=$JARS.new
    jars_present && return 0
    mkdir -p "$fresh" || die "$JARS holds no servers of this pom.xml and cannot be written; set MILLRACE_JARS to another directory"
    say "fetching Kafka and the schema registry into ${JARS/#$ROOT\//} (Maven, 170 MB)"
    JAVA_HOME=$(dirname "$(dirname "$(readlink -f "$JAVA")")") \
        mvn -q -B -ntp -f "$ROOT/stack/pom.xml" -Dmaven.repo.local="$fresh/maven" -Dinto="$fresh" package >&2 ||
        die "Maven could not fetch the servers; see its message above, and run this again when the network allows"
    rm -rf "$fresh/maven" "$JARS"
    mv "$fresh" "$JARS"
    sha256sum <"$ROOT/stack/pom.xml" >"$JARS/complete"
}
