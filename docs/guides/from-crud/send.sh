#!/usr/bin/env bash
# Sends the lines of the table that is named, `backfill` once and `outbox` again and again, in order, and takes them out when all were
# accepted. Run again after a crash it changes nothing twice: each line has its command_id. CRUD_URL names the database.
set -euo pipefail
table=$1
waiting=$(mktemp -d)
trap 'rm -r "$waiting"' EXIT
sql() { psql -X -q -A -t -F $'\t' -v ON_ERROR_STOP=1 "$CRUD_URL"; }
sql <<<"SELECT id, line FROM $table ORDER BY id" >"$waiting/rows"
cut -f 2- "$waiting/rows" >"$waiting/lines"
millrace send "$waiting/lines" --rejects "$table.rejects.ndjson"
# Exactly these: a number below theirs may belong to a write that commits only now.
{
    echo "CREATE TEMP TABLE sent (id bigint); COPY sent FROM stdin;"
    cut -f 1 "$waiting/rows"
    echo '\.'
    echo "DELETE FROM $table WHERE id IN (SELECT id FROM sent);"
} | sql
