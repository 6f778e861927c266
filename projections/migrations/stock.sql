CREATE TABLE stock (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    received     bigint NOT NULL,
    available    bigint NOT NULL,
    reserved     bigint NOT NULL,
    shipped_out  bigint NOT NULL,
    untracked    bigint NOT NULL,
    refusals     bigint NOT NULL,
    reorder_level bigint NOT NULL,
    times_low    bigint NOT NULL,
    updated_at   timestamptz NOT NULL
);

CREATE VIEW views.stock AS
SELECT aggregate_id AS product_id, received, available, reserved, shipped_out, untracked, refusals,
       reorder_level, times_low, received > 0 AND available <= reorder_level AND reorder_level > 0 AS low,
       updated_at, version
FROM stock;
