CREATE TABLE customer_totals (
    customer_id text COLLATE "C" NOT NULL,
    source      text NOT NULL,
    orders      bigint NOT NULL,
    total_cents bigint NOT NULL,
    PRIMARY KEY (customer_id, source)
);

CREATE VIEW views.customer_totals AS
SELECT customer_id, sum(orders)::bigint AS orders, sum(total_cents)::bigint AS total_cents
FROM customer_totals
GROUP BY customer_id;
