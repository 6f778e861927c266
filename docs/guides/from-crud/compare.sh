#!/usr/bin/env bash
# The check of every phase: the table and the view say the same. Prints what differs.
set -euo pipefail
columns='product_id, name, currency, price_cents'
sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$1" -c "SELECT $columns FROM $2 ORDER BY product_id COLLATE \"C\""; }
diff <(sql "$CRUD_URL" products) <(sql "$VIEWS_DATABASE_URL" views.products)
