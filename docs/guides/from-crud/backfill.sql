-- Phase 2: one command for each row that was there before. One snapshot shows the rows and the commands that led to them: what it shows
-- in the outbox is in the rows already, and goes. A write that commits later is in neither, and its command stays.
BEGIN ISOLATION LEVEL REPEATABLE READ;
CREATE TABLE backfill AS SELECT row_number() OVER (ORDER BY product_id) AS id, jsonb_build_object(
    'aggregate', 'product', 'id', product_id, 'type', 'CreateProduct', 'command_id', 'backfill-' || product_id,
    'data', jsonb_build_object('name', name, 'currency', currency, 'price_cents', price_cents)) AS line FROM products;
DELETE FROM outbox;
COMMIT;
