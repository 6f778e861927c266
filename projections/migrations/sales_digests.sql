CREATE TABLE sales_digests (
    aggregate_id text COLLATE "C" NOT NULL,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    currency     text COLLATE "C" NOT NULL,
    orders       bigint NOT NULL,
    total_cents  bigint NOT NULL,
    revision     bigint NOT NULL,
    issued_at    timestamptz NOT NULL,
    PRIMARY KEY (aggregate_id, currency)
);

CREATE VIEW views.sales_digests AS
SELECT aggregate_id AS day, currency, orders, total_cents, revision, issued_at
FROM sales_digests;
