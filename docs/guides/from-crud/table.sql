-- What there was: a table, and statements that write it.
CREATE TABLE products (
    product_id  text PRIMARY KEY,
    name        text NOT NULL,
    currency    text NOT NULL,
    price_cents bigint NOT NULL
);
