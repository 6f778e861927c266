CREATE TABLE orders (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    customer_id  text NOT NULL,
    status       text NOT NULL,
    currency     text NOT NULL,
    line_count   bigint NOT NULL,
    total_cents  bigint NOT NULL,
    placed_at    timestamptz,
    updated_at   timestamptz NOT NULL
);
CREATE INDEX ON orders (customer_id, placed_at DESC);

CREATE VIEW views.orders AS
SELECT aggregate_id AS order_id, customer_id, status, currency, line_count, total_cents,
       placed_at, updated_at, version
FROM orders;
