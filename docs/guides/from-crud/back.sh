#!/usr/bin/env bash
# Back from phase 4: the table takes over what commands did meanwhile, and is written again, as in phase 1. Stop the commands first.
set -euo pipefail
{
    echo "BEGIN; DROP TRIGGER no_writes ON products; DROP FUNCTION no_writes;"
    echo "CREATE TEMP TABLE shown (LIKE products) ON COMMIT DROP;"
    echo "COPY shown FROM stdin;"
    psql -X -q -v ON_ERROR_STOP=1 "$VIEWS_DATABASE_URL" \
        -c "COPY (SELECT product_id, name, currency, price_cents FROM views.products) TO STDOUT"
    echo '\.'
    echo "INSERT INTO products SELECT * FROM shown ON CONFLICT (product_id) DO UPDATE
        SET currency = excluded.currency, price_cents = excluded.price_cents;"
    # Last of all: what came from events leads to no commands.
    echo "CREATE TRIGGER to_outbox AFTER INSERT OR UPDATE OR DELETE ON products FOR EACH ROW EXECUTE FUNCTION to_outbox();"
    echo "COMMIT;"
} | psql -X -q -v ON_ERROR_STOP=1 "$CRUD_URL"
