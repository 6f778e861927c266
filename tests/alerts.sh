#!/usr/bin/env bash
# Checks the alert rules of ops/ with promtool, and runs their tests: each alert fires once and stays silent twice.
# Uses the promtool that is installed; where there is none it unpacks Debian's package beside the other servers, without installing it.
# Ends with 3 where there is none to be had.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

unpacked=${MILLRACE_PROMTOOL_DIR:-.millrace/prometheus}

find_promtool() {
    if command -v promtool; then
        return
    fi
    if [[ ! -x $unpacked/usr/bin/promtool ]]; then
        command -v apt-get dpkg > /dev/null || {
            echo "tests/alerts.sh: no promtool here, and no apt-get to fetch Debian's: install Prometheus" >&2
            return 1
        }
        echo "tests/alerts.sh: no promtool here: unpacking Debian's package prometheus into $unpacked, nothing is installed" >&2
        local fetched
        fetched=$(mktemp -d)
        (cd "$fetched" && apt-get download -qq prometheus >&2) || {
            echo "tests/alerts.sh: the package could not be fetched: run apt-get update, or install promtool" >&2
            return 1
        }
        mkdir -p "$unpacked"
        dpkg -x "$fetched"/prometheus_*.deb "$unpacked"
        rm -r "$fetched"
    fi
    echo "$unpacked/usr/bin/promtool"
}

promtool=$(find_promtool | tail -1) || exit 3
"$promtool" --version 2>&1 | head -1
"$promtool" check config --syntax-only ops/prometheus.yml
"$promtool" check rules ops/alerts.yml
"$promtool" test rules ops/alerts.test.yml
