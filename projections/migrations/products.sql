CREATE TABLE products (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    name         text NOT NULL,
    currency     text,
    price_cents  bigint,
    updated_at   timestamptz NOT NULL
);

CREATE VIEW views.products AS
SELECT aggregate_id AS product_id, name, currency, price_cents, updated_at, version
FROM products;
