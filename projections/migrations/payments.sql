CREATE TABLE payments (
    aggregate_id    text COLLATE "C" PRIMARY KEY,
    source          text NOT NULL,
    version         bigint NOT NULL,
    incomplete      boolean NOT NULL,
    customer_id     text NOT NULL,
    status          text NOT NULL,
    currency        text NOT NULL,
    requested_cents bigint NOT NULL,
    charged_cents   bigint NOT NULL,
    refunded_cents  bigint NOT NULL,
    reason          text,
    updated_at      timestamptz NOT NULL
);
CREATE INDEX ON payments (customer_id);
CREATE INDEX ON payments (status, updated_at);

CREATE VIEW views.payments AS
SELECT aggregate_id AS order_id, customer_id, status, currency, requested_cents, charged_cents, refunded_cents,
       reason, updated_at, version
FROM payments;
