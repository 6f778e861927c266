# Processes, ports and answers, seen through /proc and bash alone: a machine that has only Rust has no curl, ss or pgrep.
# Sourced by ../dev.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }
die() { say "dev: $*"; exit 1; }

# alive PIDFILE MARK: the process of this pidfile runs and its command line holds MARK. A pidfile outlives its process, and
# the number may since belong to somebody else's: only the two together say that it is ours.
alive() {
    local pid words=()
    [[ -s $1 ]] && read -r pid <"$1" && [[ $pid =~ ^[0-9]+$ ]] || return 1
    { mapfile -d '' words <"/proc/$pid/cmdline"; } 2>/dev/null || return 1
    [[ "${words[*]} " == *"$2"* ]]
}

# spawn PIDFILE LOG COMMAND…: in a session of its own, so that it outlives the shell and its Ctrl-C. Descriptor 9 is the lock
# of `locked`; a server that inherited it would hold the lock for as long as it runs.
spawn() {
    local pidfile=$1 log=$2
    shift 2
    setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
    echo $! >"$pidfile"
}

# end PIDFILE MARK SIGNAL SECONDS: sends SIGNAL, waits, and kills what is still there.
end() {
    local pid deadline=$((SECONDS + $4))
    alive "$1" "$2" || { rm -f "$1"; return 0; }
    read -r pid <"$1"
    kill -s "$3" "$pid" 2>/dev/null || true
    while alive "$1" "$2"; do
        if ((SECONDS >= deadline)); then kill -s KILL "$pid" 2>/dev/null || true; fi
        sleep 0.05
    done
    until_released "$pid"
    rm -f "$1"
}

# until_released PID: a dying process loses its command line first and its ports and files a moment later, with its last thread.
# A zombie that nobody reaps has none of them any more.
until_released() {
    local states
    while states=$(sed -nE 's/^State:[[:space:]]+(.).*/\1/p' "/proc/$1"/task/*/status 2>/dev/null || true) && [[ $states && $states != [ZX] ]]; do
        sleep 0.02
    done
}

# has_ended PIDFILE: there is no such process, or nobody has reaped it. Not the same as not `alive`: until a process that was just
# begun has executed its program, its command line is the shell's, or empty.
has_ended() {
    local pid state=
    { read -r pid <"$1"; } 2>/dev/null || return 0
    { state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status"); } 2>/dev/null || true
    [[ -z $state || $state == Z ]]
}

# until_answers WHAT SECONDS PIDFILE LOG CHECK…: waits for CHECK; a process that died meanwhile is reported at once.
until_answers() {
    local what=$1 deadline=$((SECONDS + $2)) pidfile=$3 log=$4
    shift 4
    until "$@"; do
        if has_ended "$pidfile"; then
            tail -n 20 "$log" >&2 || true
            die "$what ended while starting; the end of its log ($log) is above"
        fi
        if ((SECONDS >= deadline)); then
            tail -n 20 "$log" >&2 || true
            die "$what does not answer; the end of its log ($log) is above"
        fi
        sleep 0.1
    done
}

# http_status PORT PATH: prints the status code of a GET, or nothing.
http_status() {
    # shellcheck disable=SC2016 # the inner shell expands these
    timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" || exit 0
        printf "GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n" "$1" >&3
        read -r _ status _ <&3 && printf %s "$status"' "$1" "$2" 2>/dev/null || true
}

# kafka_answers PORT: a Metadata request (version 1, no topics) is answered and names at least one broker. A broker accepts
# connections before the controller has admitted it; until then it names none.
kafka_answers() {
    # shellcheck disable=SC2016
    [[ $(timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" || exit 0
        printf "\0\0\0\016\0\003\0\001\0\0\0\001\377\377\0\0\0\0" >&3
        head -c 12 <&3 | od -An -tu1 | tr -s " \n" " "' "$1" 2>/dev/null) =~ ^' '[0-9]+' '[0-9]+' '[0-9]+' '[0-9]+' 0 0 0 1 0 0 0 1 '?$ ]]
}

# listening PORT: prints the socket inodes that listen on PORT; fails if none does.
listening() {
    local hex found=1 inode
    printf -v hex '%04X' "$1"
    while read -r inode; do
        echo "$inode"
        found=0
    done < <(awk -v hex=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == hex { print $10 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    return "$found"
}

# holder PORT: names the process that listens on PORT, as far as this user may see it.
holder() {
    local inode fd pid words=()
    for inode in $(listening "$1"); do
        fd=$(find /proc -maxdepth 3 -path '/proc/[0-9]*/fd/*' -lname "socket:\\[$inode\\]" -print -quit 2>/dev/null || true)
        [[ $fd =~ ^/proc/([0-9]+)/ ]] || continue
        pid=${BASH_REMATCH[1]}
        { mapfile -d '' words <"/proc/$pid/cmdline"; } 2>/dev/null || true
        words=("${words[*]}")
        echo "process $pid (${words[0]:0:80})"
        return
    done
    echo "a process of another user"
}

# locked FILE COMMAND…: one at a time.
locked() {
    local file=$1
    shift
    exec 9>"$file"
    flock -w 120 9 || die "another ./dev has held $file for 120 s; end it and try again"
    "$@"
    exec 9>&-
}
