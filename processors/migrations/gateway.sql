CREATE SCHEMA IF NOT EXISTS gateway;

CREATE TABLE IF NOT EXISTS gateway.charges (
    key          uuid PRIMARY KEY,
    charge_id    text NOT NULL UNIQUE,
    payment_id   text NOT NULL,
    currency     text NOT NULL,
    amount_cents bigint NOT NULL,
    state        text NOT NULL CHECK (state IN ('charged', 'declined', 'void')),
    reason       text,
    asked        integer NOT NULL DEFAULT 1,
    made_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS gateway.refunds (
    key          uuid PRIMARY KEY,
    refund_id    text NOT NULL UNIQUE,
    charge_id    text NOT NULL REFERENCES gateway.charges (charge_id),
    payment_id   text NOT NULL,
    amount_cents bigint NOT NULL,
    asked        integer NOT NULL DEFAULT 1,
    made_at      timestamptz NOT NULL DEFAULT now()
);
