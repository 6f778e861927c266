#!/usr/bin/env bash
# Shows that the crash test can fail: takes one safeguard out at a time, and each run must be red by the oracle's verdict. The run
# with nothing taken out, on the hardest of these schedules, must be green. Run by `./dev sabotage [SAFEGUARD…]`.
set -uo pipefail

safeguards=("$@")
if ((${#safeguards[@]} == 0)); then
    safeguards=(none relay.gate journal.compare-and-set sink.checkpoint relay.position journal.outcomes fold.guard processor.offsets effect.calling)
fi
wrong=0
for safeguard in "${safeguards[@]}"; do
    log=$(mktemp)
    begun=$SECONDS
    MILLRACE_SABOTAGE=$safeguard RUST_BACKTRACE=0 cargo test -p tests --test main crash::sabotage -- --ignored --nocapture >"$log" 2>&1
    code=$?
    echo "=== $safeguard: exit $code after $((SECONDS - begun)) s"
    grep -A 30 -m 1 'the oracle found' "$log" | grep -B 30 -m 1 '^$\|^test ' | grep -v '^test \|^$'
    if [[ $safeguard == none ]]; then
        ((code == 0)) || { wrong=1; tail -n 30 "$log"; echo "*** red with every safeguard in place"; }
    elif ((code == 0)) || ! grep -q 'the oracle found' "$log"; then
        wrong=1
        tail -n 30 "$log"
        echo "*** not turned red by the oracle"
    fi
    rm -f "$log"
done
exit "$wrong"
